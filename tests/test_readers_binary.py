"""Binary files that should be read: links, compressed files, blank fields, foreign channels; and what is refused."""

import bz2
import gzip
import lzma
import zipfile
from io import BytesIO

import edfio
import h5py
import numpy as np
import pytest
from dicom_files import channel, dicom, group
from fuzz_seeds import small_seeds

from modeling_merit.processing.inspection import describe
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import EcgFormatError, detect_format, open_source, read_ecg, windows
from modeling_merit.processing.readers.source import Source, is_no_ecg

SAMPLES = np.arange(2000).reshape(2, 1000) - 1000
SEEDS = {name: seeds for name, seeds in small_seeds().items() if name != "wfdb"}
STATED = {"matlab": {"sampling_rate": 500.0, "leads": STANDARD_LEADS, "units": "mV"}}


def zipped(**members: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npz(**arrays) -> bytes:
    file = BytesIO()
    facts = {"signal": SAMPLES / 1000, "sampling_rate": 500.0, "leads": ["I", "II"], "units": "mV"}
    np.savez(file, **{key: value for key, value in (facts | arrays).items() if value is not None})
    return file.getvalue()


def edf(*labels_and_units: tuple[str, str]) -> bytes:
    """An EDF file whose fields are written as UTF-8, as many programs do."""
    signals = [
        edfio.EdfSignal(
            SAMPLES[0] * (i + 1.0), 500, label=f"L{i}", physical_dimension=f"U{i}", physical_range=(-11000, 11000)
        )
        for i in range(len(labels_and_units))
    ]
    content = edfio.Edf(signals).to_bytes()
    for i, (label, unit) in enumerate(labels_and_units):
        content = content.replace(f"L{i}".ljust(16).encode(), label.encode().ljust(16), 1)
        content = content.replace(f"U{i}".ljust(8).encode(), unit.encode().ljust(8), 1)
    return content


class TestPaths:
    def test_links_are_followed(self, tmp_path):
        blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
        blobs.mkdir()
        snapshot.mkdir(parents=True)
        for name, seeds in SEEDS.items():
            (blobs / name).write_bytes(seeds[0])
            (snapshot / f"{name}.bin").symlink_to(f"../../blobs/{name}")
            record = read_ecg(snapshot / f"{name}.bin", **STATED.get(name, {}))
            expected = read_ecg(seeds[0], **STATED.get(name, {}))
            np.testing.assert_array_equal(record.signal, expected.signal)
        (snapshot / "gone.edf").symlink_to("../../blobs/gone")
        with pytest.raises(EcgFormatError, match="points to a file that is not there"):
            read_ecg(snapshot / "gone.edf")
        (snapshot / "folder.edf").symlink_to(blobs)
        with pytest.raises(EcgFormatError, match="folder"):
            read_ecg(snapshot / "folder.edf")

    @pytest.mark.parametrize("path", ["", ".", "/", "a" * 5000, "a/" * 3000, "nul\0", "x\x1b[2J\n", "\udcff.edf"])
    def test_odd_paths_are_refused(self, path):
        with pytest.raises(EcgFormatError) as found:
            read_ecg(path)
        assert len(str(found.value)) < 700 and str(found.value).isprintable()

    def test_a_forbidden_file_is_refused(self, tmp_path, monkeypatch):
        path = tmp_path / "a.npz"
        path.write_bytes(npz())

        def forbid(*_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", forbid)
        with pytest.raises(EcgFormatError, match="a.npz cannot be read: Permission denied"):
            read_ecg(path)
        monkeypatch.undo()
        monkeypatch.setattr("modeling_merit.processing.readers.source.os.stat", forbid)
        with pytest.raises(EcgFormatError, match="'a.npz' may not be read"):
            read_ecg(path)

    def test_messages_are_bounded_and_name_no_folder(self, tmp_path):
        for name, content in [
            ("a.mat", b"MATLAB 5.0 MAT-file".ljust(128, b"\0")),
            ("a.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 500),
        ]:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(EcgFormatError) as found:
                read_ecg(tmp_path / name)
            assert str(tmp_path) not in str(found.value) and name in str(found.value)
        with pytest.raises(EcgFormatError) as found:
            read_ecg(npz(leads=["\x1b[2J" * 2000, "x" * 9000]))
        assert len(str(found.value)) < 700 and str(found.value).isprintable()


class TestCompressed:
    COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": lambda data: zipped(a=data)}

    @pytest.mark.parametrize("suffix", COMPRESS)
    @pytest.mark.parametrize("name", SEEDS)
    def test_every_format_is_read(self, name, suffix, tmp_path):
        for i, seed in enumerate(SEEDS[name]):
            path = tmp_path / f"rec{i}.bin{suffix}"
            path.write_bytes(self.COMPRESS[suffix](seed))
            record = read_ecg(path, **STATED.get(name, {}))
            expected = read_ecg(seed, **STATED.get(name, {}))
            np.testing.assert_array_equal(record.signal, expected.signal)
            assert (record.leads, record.sampling_rate) == (expected.leads, expected.sampling_rate)
            assert record.source == str(path) and record.record_id
        assert detect_format(open_source(path)) == name

    def test_names_and_windows(self, tmp_path):
        path = tmp_path / "night.edf.gz"
        path.write_bytes(gzip.compress(edf(("ECG II", "uV"))))
        assert read_ecg(path).record_id == "night"
        assert len(list(windows(path, 1.0))) == 2
        path = tmp_path / "archive.zip"
        path.write_bytes(zipped(**{"folder/night.edf": edf(("ECG II", "uV")), "__MACOSX/folder/._night.edf": b"x"}))
        assert read_ecg(path).record_id == "night"

    def test_streams_one_after_the_other_are_one_file(self):
        content = edf(("ECG II", "uV"))
        for compress in (gzip.compress, bz2.compress, lzma.compress):
            pieces = compress(content[:500]) + compress(content[500:])
            np.testing.assert_array_equal(read_ecg(pieces).signal, read_ecg(content).signal)
            assert read_ecg(pieces + b"\0" * 512).n_samples == 1000
            with pytest.raises(EcgFormatError, match="damaged"):
                read_ecg(pieces + b"more")

    @pytest.mark.parametrize("suffix", COMPRESS)
    def test_damage_is_refused(self, suffix):
        content = self.COMPRESS[suffix](SEEDS["edf"][0])
        for damaged in (content[: len(content) // 2], content[:-1], content[:40] + b"\xff\xff\xff" + content[43:]):
            with pytest.raises(EcgFormatError):
                read_ecg(damaged)

    def test_what_is_in_an_archive_must_be_one_file_compressed_once(self):
        with pytest.raises(EcgFormatError, match="holds 2 files .*'a', 'b'"):
            read_ecg(zipped(a=b"1", b=b"2"))
        with pytest.raises(EcgFormatError, match="holds 0 files"):
            read_ecg(zipped(**{"a/": b"", "b": b""}) and zipped(**{"__MACOSX/a": b"1"}))
        with pytest.raises(EcgFormatError, match="more than once"):
            read_ecg(gzip.compress(gzip.compress(b"1")))
        with pytest.raises(EcgFormatError, match="pass the path"):
            read_ecg(gzip.compress(b"rec 1 500 4\nrec.dat 16 200/mV 16 0 0 0 0 II\n"))


class TestDicom:
    def test_an_empty_correction_factor_is_one(self):
        channels = [channel("I", correction=None), channel("II", correction="")]
        record = read_ecg(dicom([group(SAMPLES, channels)]))
        np.testing.assert_allclose(record.signal, SAMPLES * 0.0025, rtol=1e-6)
        del channels[0].ChannelSensitivityCorrectionFactor
        np.testing.assert_array_equal(read_ecg(dicom([group(SAMPLES, channels)])).signal, record.signal)
        with pytest.raises(EcgFormatError, match="other than 0"):
            read_ecg(dicom([group(SAMPLES, [channel("I", correction=0), channel("II")])]))

    @pytest.mark.parametrize("how", ["no sequence", "empty sequence", "no code", "empty code"])
    def test_without_a_unit_the_caller_states_it(self, how):
        channels = [channel("I"), channel("II")]
        for definition in channels:
            if how == "no sequence":
                del definition.ChannelSensitivityUnitsSequence
            elif how == "empty sequence":
                definition.ChannelSensitivityUnitsSequence = []
            elif how == "no code":
                del definition.ChannelSensitivityUnitsSequence[0].CodeValue
            else:
                definition.ChannelSensitivityUnitsSequence[0].CodeValue = ""
        content = dicom([group(SAMPLES, channels)])
        with pytest.raises(EcgFormatError, match="no unit.*`units=`"):
            read_ecg(content)
        record = read_ecg(content, units="uV")
        np.testing.assert_allclose(record.signal, SAMPLES * 0.0025, rtol=1e-6)
        assert record.unit == "uV"


class TestEdf:
    @pytest.mark.parametrize("unit", ["", "?V", "\x00", "-"])
    def test_without_a_unit_the_caller_states_it(self, unit):
        with pytest.raises(EcgFormatError, match="states no unit of ECG II.*`units=`"):
            read_ecg(edf(("ECG II", unit)))
        record = read_ecg(edf(("ECG II", unit)), units="uV")
        np.testing.assert_allclose(record.signal[0], SAMPLES[0] / 1000, atol=2e-4)
        assert record.unit == "uV"

    @pytest.mark.parametrize("unit", ["µV", "μV"])
    def test_units_in_utf_8(self, unit):
        record = read_ecg(edf(("ECG II", unit)), units="uV")
        assert (record.leads, record.unit) == (("II",), unit)
        latin = edf(("ECG II", "uV")).replace(b"uV      ", "µV      ".encode("latin-1"))
        np.testing.assert_array_equal(read_ecg(latin).signal, record.signal)

    def test_another_unit_is_not_overridden(self):
        with pytest.raises(EcgFormatError, match="unit of ECG II"):
            read_ecg(edf(("ECG II", "mmHg")), units="uV")
        with pytest.raises(EcgFormatError, match="not in the mV given"):
            read_ecg(edf(("ECG II", "uV")), units="mV")

    def test_channels_of_a_sleep_study_are_left_out_with_a_note(self):
        foreign = [("EOG L", "uV"), ("C3", "uV"), ("C4", "uV"), ("F4-M1", "uV"), ("EMG Chin", "µV"), ("SpO2", "%")]
        foreign += [("Snore", ""), ("O2-A1", "uV"), ("ROC", "uV"), ("Thor", "V")]
        record = read_ecg(edf(*foreign[:5], ("ECG II", "uV"), *foreign[5:]))
        assert record.leads == ("II",)
        assert all(f"{label} ({unit})" in record.notes[0] for label, unit in foreign)
        np.testing.assert_allclose(record.signal[0], SAMPLES[0] * 6 / 1000, atol=3e-4)

    def test_chest_leads_of_the_european_names_stay_leads(self):
        names = ("I", "II", "C1", "C2", "C3", "C4", "C5", "C6")
        assert read_ecg(edf(*((name, "uV") for name in names))).leads == (
            "I",
            "II",
            "V1",
            "V2",
            "V3",
            "V4",
            "V5",
            "V6",
        )
        assert Source("x").choose_leads(["ECG II", "EEG 1", "ECG C3"], skip=[1]) == {0: "II", 2: "V3"}
        assert not is_no_ecg("aVF", "uV") and is_no_ecg("Fp1", "uV") and not is_no_ecg("sig 1", "uV")

    @pytest.mark.parametrize("kind", [edfio.Edf, edfio.Bdf])
    def test_samples_are_those_of_the_library(self, kind, tmp_path):
        make = edfio.EdfSignal if kind is edfio.Edf else edfio.BdfSignal
        rng = np.random.default_rng(0)
        signals = [make(rng.normal(size=4000), 500, label="ECG I", physical_dimension="mV", physical_range=(-9, 9))]
        signals += [make(rng.normal(size=800), 100, label="Resp", physical_dimension="Ohm", physical_range=(-9, 9))]
        signals += [make(rng.normal(size=4000), 500, label="V1", physical_dimension="uV", physical_range=(-9, 9))]
        annotations = [edfio.EdfAnnotation(i, None, "x") for i in range(4)]
        edf = kind(signals, data_record_duration=1, annotations=annotations)
        (tmp_path / "a.edf").write_bytes(edf.to_bytes())
        record = read_ecg(tmp_path / "a.edf")
        np.testing.assert_allclose(record.signal[0], edf.get_signal("ECG I").data, atol=1e-6)
        np.testing.assert_allclose(record.signal[1], edf.get_signal("V1").data / 1000, atol=1e-6)
        piece = list(windows(tmp_path / "a.edf", 1.25))[3]
        np.testing.assert_array_equal(piece.signal, record.signal[:, 1875:2500])

    def test_a_file_cut_while_it_is_open_is_refused(self, tmp_path):
        path = tmp_path / "a.edf"
        path.write_bytes(
            edfio.Edf(
                [edfio.EdfSignal(SAMPLES.ravel() * 1.0, 500, label="II", physical_dimension="uV")],
                data_record_duration=1,
            ).to_bytes()
        )
        pieces = windows(path, 1.0)
        next(pieces)
        with open(path, "r+b") as file:
            file.truncate(600)
        with pytest.raises(EcgFormatError, match="become shorter"):
            next(pieces)


class TestNumpy:
    @pytest.mark.parametrize("age", [np.nan, np.inf, -1, 200, "old", [1, 2], "\x85"])
    def test_an_odd_age_is_unknown(self, age):
        record = read_ecg(npz(age=age))
        assert record.age is None and describe(record, "numpy")["age"] is None
        assert read_ecg(npz(age=46)).age == 46

    @pytest.mark.parametrize("sex", ["M", "male", "Male", "female", "F"])
    def test_sex_in_words(self, sex):
        assert read_ecg(npz(sex=sex)).sex == {"m": "male", "f": "female"}[sex[0].lower()]

    def test_control_characters_in_the_record_id_are_escaped(self):
        assert read_ecg(npz(record_id="\x1b[2J\n../x")).record_id == "\\x1b[2J\\n../x"

    @pytest.mark.parametrize(
        "value", ["", "x", np.nan, np.inf, [500, 500], [], 1j, b"500", "\x85", -1, 0, 10**18, True]
    )
    def test_odd_rates_are_refused(self, value):
        with pytest.raises(EcgFormatError):
            read_ecg(npz(sampling_rate=value))

    @pytest.mark.parametrize(
        "shape",
        ["(-2, -1000)", "(2, -1000)", "(0, 1000000000000000000000000)", "(2, 0)", "()", "(2, 500, 2)", "(2000,)"],
    )
    @pytest.mark.parametrize("order", ["True", "False"])
    def test_odd_shapes_are_refused(self, shape, order):
        header = f"{{'descr': '<f4', 'fortran_order': {order}, 'shape': {shape}, }}".ljust(117) + "\n"
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 8000
        with pytest.raises(EcgFormatError):
            read_ecg(content, sampling_rate=500, leads=["I", "II"], units="mV")

    @pytest.mark.parametrize(
        "dtype", ["('<f4', (2,))", "[('a', '<f4')]", "'|O'", "'<M8[s]'", "'|V4'", "'<c8'", "'<U0'"]
    )
    def test_odd_types_are_refused(self, dtype):
        header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': (2, 500), }}".ljust(117) + "\n"
        content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 8000
        with pytest.raises(EcgFormatError):
            read_ecg(content, sampling_rate=500, leads=["I", "II"], units="mV")

    def test_order_and_byte_order_of_an_array(self):
        for array in (
            np.asfortranarray(SAMPLES / 1000),
            (SAMPLES / 1000).astype(">f4"),
            (SAMPLES / 1000).astype("f2"),
        ):
            np.testing.assert_allclose(read_ecg(npz(signal=array)).signal, SAMPLES / 1000, rtol=1e-3)


class TestIndex:
    @pytest.mark.parametrize("index", [1, -1, 10**9])
    @pytest.mark.parametrize("name", SEEDS)
    def test_an_index_beyond_the_only_recording_is_refused(self, name, index):
        for seed in SEEDS[name]:
            assert read_ecg(seed, index=0, **STATED.get(name, {})).n_samples > 0
            with pytest.raises(EcgFormatError, match="index"):
                read_ecg(seed, index=index, **STATED.get(name, {}))

    def test_of_several_recordings_one_is_chosen(self):
        file = BytesIO()
        with h5py.File(file, "w") as content:
            content["tracings"] = (
                np.arange(3.0)[:, None, None] + np.random.default_rng(0).normal(size=(3, 500, 12)) / 9
            )
        record = read_ecg(file.getvalue(), index=2, **STATED["matlab"])
        assert record.signal.mean() == pytest.approx(2, abs=0.1)
        for index in (None, 3, -1, 0.5):
            with pytest.raises(EcgFormatError, match="index"):
                read_ecg(file.getvalue(), index=index, **STATED["matlab"])


class TestStatedLeads:
    def test_names_in_the_file_are_not_overridden(self):
        names = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]  # MIMIC-IV-ECG
        content = npz(signal=np.resize(SAMPLES / 1000, (12, 166)), leads=names)
        with pytest.raises(EcgFormatError, match="names its channel 5 'aVF', `leads` 'aVL'"):
            read_ecg(content, leads=STANDARD_LEADS)
        assert read_ecg(content, leads=names).leads == tuple(names)
        assert read_ecg(content, leads={"aVF": "aVL", "aVL": "aVF"}).leads == STANDARD_LEADS
