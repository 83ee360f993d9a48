"""`convert --deidentify`: nothing that a file says of a person, a place or a day reaches the new file."""

import json
import struct
from binascii import crc_hqx
from collections.abc import Callable
from datetime import date, time
from pathlib import Path

import edfio
import h5py
import numpy as np
import pytest
from dicom_files import channel, dicom, group
from scp_files import lead_section, scp_file, signal_section
from test_readers_edf_ishne import ishne
from xml_files import SAMPLES, aecg, mortara, muse, sierra, xli_chunk

from modeling_merit.processing.cli import main
from modeling_merit.processing.deidentify import deidentify
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import EcgRecord, read_ecg
from modeling_merit.processing.writers import WRITERS

SECRETS = ("JANEDOE", "MRN77123", "STMARY", "SN4711X", "DRHOUSE")
BORN, RECORDED = date(1904, 2, 29), date(2001, 5, 31)  # 97 years old
DAYS = ("1904", "2001", "20010531", "31.05.01", "31-MAY-2001", "31/05/2001", "10:11:12", "10.11.12", "101112")
WAVE = (np.sin(np.arange(1000) / 20) * 1000).round()


def write_wfdb(path: Path) -> Path:
    lines = [
        "MRN77123 1 500 1000 10:11:12 31/05/2001",
        f"MRN77123.dat 16 1000/mV 16 0 0 {int(WAVE.sum()) % 2**16} 0 II",
        "#Age: 97",
        "#Sex: F",
    ]
    lines += ["# Patient JANEDOE, born 1904-02-29, seen by DRHOUSE at STMARY with SN4711X"]
    (path / "MRN77123.dat").write_bytes(WAVE.astype("<i2").tobytes())
    (path / "MRN77123.hea").write_text("\n".join(lines) + "\n")
    return path / "MRN77123.hea"


def edf_file() -> bytes:
    signal = edfio.EdfSignal(
        WAVE, 500, label="ECG II", physical_dimension="uV", prefiltering="HP:0.05Hz SN4711X", transducer_type="STMARY"
    )
    return edfio.Edf(
        [signal],
        patient=edfio.Patient(code="MRN77123", sex="F", birthdate=BORN, name="JANEDOE"),
        recording=edfio.Recording(
            startdate=RECORDED, equipment_code="SN4711X", investigator_technician_code="DRHOUSE"
        ),
        starttime=time(10, 11, 12),
        annotations=[edfio.EdfAnnotation(0.5, None, "JANEDOE fell")],
    ).to_bytes()


def dicom_file() -> bytes:
    return dicom(
        [group([WAVE], [channel("II")], label="JANEDOE")],
        PatientName="JANEDOE",
        PatientID="MRN77123",
        PatientBirthDate="19040229",
        PatientAge="097Y",
        PatientSex="F",
        InstitutionName="STMARY",
        ReferringPhysicianName="DRHOUSE",
        DeviceSerialNumber="SN4711X",
        Manufacturer="STMARY workshop",
        ManufacturerModelName="SN4711X",
        AcquisitionDateTime="20010531101112",
        PatientComments="JANEDOE",
    )


def scp() -> bytes:
    day = struct.pack("<HBB", RECORDED.year, RECORDED.month, RECORDED.day)
    born = struct.pack("<HBB", BORN.year, BORN.month, BORN.day)
    machine = struct.pack("<HHHBB", 0, 0, 4711, 0, 0) + bytes(28) + b"SN4711X\0STMARY\0"
    tags = {0: b"JANEDOE\0", 2: b"MRN77123\0", 4: struct.pack("<HB", 97, 1), 5: born, 8: b"\2", 14: machine}
    tags |= {16: b"STMARY\0", 21: b"DRHOUSE\0", 25: day, 26: bytes((10, 11, 12)), 30: b"JANEDOE fell\0"}
    person = b"".join(struct.pack("<BH", tag, len(data)) + data for tag, data in tags.items())
    lead = WAVE.astype("<i2").tobytes()
    return scp_file(
        {1: person + b"\xff\0\0", 3: lead_section([(1, 1000, 2)]), 6: signal_section([lead], 1000, 2000, 0)}
    )


def aecg_file() -> bytes:
    person = (
        '<id extension="MRN77123"/><effectiveTime><low value="20010531101112"/></effectiveTime><componentOf>'
        "<timepointEvent><componentOf><subjectAssignment><subject><trialSubject><subjectDemographicPerson>"
        '<name>JANEDOE</name><administrativeGenderCode code="F"/><birthTime value="19040229"/>'
        "</subjectDemographicPerson></trialSubject></subject></subjectAssignment></componentOf></timepointEvent>"
        "</componentOf><text>DRHOUSE</text><component>"
    )
    author = (
        '<series><author><seriesAuthor><manufacturedSeriesDevice><id extension="SN4711X"/><manufacturerModelName>'
        "SN4711X</manufacturerModelName></manufacturedSeriesDevice><manufacturerOrganization><name>STMARY</name>"
        "</manufacturerOrganization></seriesAuthor></author>"
    )
    content = aecg().replace(b"20200229235958.5", b"20010531101112").replace(b"<component>", person.encode(), 1)
    return content.replace(b"<series>", author.encode(), 1)


def muse_file() -> bytes:
    person = (
        "<RestingECG><PatientDemographics><PatientID>MRN77123</PatientID><PatientAge>97</PatientAge><AgeUnits>YEARS"
        "</AgeUnits><DateofBirth>02-29-1904</DateofBirth><Gender>FEMALE</Gender><PatientLastName>JANEDOE"
        "</PatientLastName></PatientDemographics><TestDemographics><AcquisitionDevice>SN4711X</AcquisitionDevice>"
        "<SiteName>STMARY</SiteName><AcquisitionTime>10:11:12</AcquisitionTime><AcquisitionDate>05-31-2001"
        "</AcquisitionDate><OverreaderLastName>DRHOUSE</OverreaderLastName></TestDemographics>"
    )
    return muse().replace(b"<RestingECG>", person.encode(), 1)


def sierra_file() -> bytes:
    person = (
        "<patient><generalpatientdata><patientid>MRN77123</patientid><name><lastname>JANEDOE</lastname></name><age>"
        "<dateofbirth>1904-02-29</dateofbirth></age><sex>Female</sex></generalpatientdata></patient>"
    )
    samples = np.arange(600).reshape(6, 100)
    content = sierra(b"".join(map(xli_chunk, samples)), 100).replace(b"2020-02-29", b"2001-05-31")
    content = content.replace(b"<dataacquisition", person.encode() + b"<dataacquisition", 1)
    return content.replace(b"<signalcharacteristics>", b"<machine>SN4711X STMARY</machine><signalcharacteristics>", 1)


def mortara_file() -> bytes:
    person = (
        b'<SUBJECT ID="MRN77123" LAST_NAME="JANEDOE" GENDER="Female"/><SOURCE MANUFACTURER="STMARY" MODEL="SN4711X"/>'
    )
    content = mortara().replace(b'"20200229120000" AGE="59"', b'"20010531101112" AGE="97"')
    return content.replace(b"<CHANNEL", person + b"<CHANNEL", 1)


def ishne_file() -> bytes:
    content = bytearray(ishne(SAMPLES.T, text=b"JANEDOE seen by DRHOUSE"))
    content = (
        content.replace(b"Jane\0\0\0", b"JANEDOE").replace(b"MRN-77\0\0", b"MRN77123").replace(b"Holter\0", b"SN4711X")
    )
    content = content.replace(struct.pack("<3h", 1, 6, 1950), struct.pack("<3h", 29, 2, 1904))
    content[8:10] = struct.pack("<H", crc_hqx(bytes(content[10 : 522 + 23]), 0xFFFF))
    return bytes(content)


def write_npz(path: Path) -> Path:
    fields = {"sampling_rate": 500, "leads": ["II"], "units": "uV", "record_id": "JANEDOE", "age": 97, "sex": "female"}
    np.savez(path / "MRN77123.npz", signal=WAVE[None], **fields)
    return path / "MRN77123.npz"


def json_file() -> bytes:
    fields = {
        "sampling_rate": 500,
        "leads": ["II"],
        "units": "uV",
        "record_id": "MRN77123",
        "age": 97,
        "sex": "female",
    }
    return json.dumps(fields | {"signal": [WAVE.tolist()], "name": "JANEDOE"}).encode()


def write_hdf5(path: Path) -> Path:
    with h5py.File(path / "a.hdf5", "w") as file:
        file["tracings"] = np.repeat(WAVE[None, :, None] / 1000, 12, axis=2)
        file["exam_id"] = [77123]
    return path / "a.hdf5"


CSV = b"# JANEDOE MRN77123 STMARY 2001-05-31\ntime [s],II [mV]\n" + b"".join(
    b"%.3f,%.3f\n" % (i / 500, x / 1000) for i, x in enumerate(WAVE)
)

FILES: dict[str, bytes | Callable[[Path], Path]] = {
    "wfdb": write_wfdb,
    "edf": edf_file(),
    "dicom": dicom_file(),
    "scp": scp(),
    "aecg": aecg_file(),
    "muse": muse_file(),
    "sierra": sierra_file(),
    "mortara": mortara_file(),
    "ishne": ishne_file(),
    "numpy": write_npz,
    "json": json_file(),
    "matlab": write_hdf5,
    "csv": CSV,
}


@pytest.fixture
def file(request, tmp_path) -> Path:
    """A file of a format, its name a person's, with identifiers in every place that the format has."""
    content = FILES[request.param]
    folder = tmp_path / "JANEDOE"
    folder.mkdir()
    if not isinstance(content, bytes):
        return content(folder)
    path = folder / f"JANEDOE.{ {'numpy': 'npz'}.get(request.param, request.param) }"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("file", FILES, indirect=True)
@pytest.mark.parametrize("suffix", WRITERS)
def test_nothing_planted_comes_through(file, tmp_path, capsys, suffix):
    hdf5 = file.suffix == ".hdf5"
    facts = {"sampling_rate": 400, "units": "mV", "leads": STANDARD_LEADS} if hdf5 else {}
    options = ["--sampling-rate", "400", "--units", "mV", "--leads", ",".join(STANDARD_LEADS)] if hdf5 else []
    before = read_ecg(file, **facts)
    assert any(secret in repr(before) for secret in (*SECRETS, "77123"))  # there is something to drop
    out = tmp_path / "out"
    out.mkdir()
    command = ["convert", str(file), str(out / f"ecg{suffix}"), "--deidentify", *options]
    assert main(command) == 0
    printed = capsys.readouterr()
    after = read_ecg(out / f"ecg{suffix}")
    text = printed.out + printed.err + "".join(map(repr, (after.device, after.filters, after.notes)))
    for path in out.iterdir():
        text += path.name
        content = path.read_bytes()
        if suffix == ".npz":
            fields = {name: value for name, value in np.load(path).items() if name != "signal"}
            content += repr(fields).encode()
        for encoding in ("latin-1", "utf-16-le", "utf-32-le"):
            text += content.decode(encoding, errors="replace")
    text = text.replace(str(tmp_path), "")
    assert not [secret for secret in SECRETS if secret in text]
    if suffix in (".edf", ".hea"):  # others have no place for a time; their numbers may look like one
        assert not [day for day in DAYS if day in text]
    assert after.start_time is None or after.start_time.year == 1985  # the first year that EDF can write
    assert after.age in (None, 90) and after.sex in (None, before.sex)
    np.testing.assert_allclose(after.signal, before.signal, atol=0.003)
    assert (after.leads, after.sampling_rate) == (before.leads, before.sampling_rate)


def test_every_field_is_decided_on():
    """A field that is added to `EcgRecord` must be added here, kept or dropped."""
    record = EcgRecord(
        np.ones((1, 9)),
        500,
        ("I",),
        "id",
        None,
        97.0,
        "female",
        "device",
        "uV",
        200.0,
        "filters",
        "/source",
        ("note",),
    )
    kept = {name: value for name, value in vars(deidentify(record)).items() if name != "signal"}
    kept = {name: value for name, value in kept.items() if value not in (None, ())}
    assert kept == {"sampling_rate": 500, "leads": ("I",), "age": 90, "sex": "female", "unit": "uV", "gain": 200}
    assert set(vars(record)) - {"signal"} - set(kept) == {
        "record_id", "start_time", "device", "filters", "source", "notes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("age", "expected"),
    [(None, None), (0.5, 0.5), (89, 89), (89.5, 90), (90, 90), (130, 90), (float("nan"), None), (float("inf"), 90)],
)
def test_ages(age, expected):
    assert deidentify(EcgRecord(np.ones((1, 9)), 500, ("I",), age=age)).age == expected
