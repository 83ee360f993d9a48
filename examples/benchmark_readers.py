"""Reads every ECG sample of a folder, compares it with something independent, and times the readers.

    python examples/benchmark_readers.py --formats_dir SAMPLES/formats --external_dir SAMPLES/external \\
        --ptb_xl_dir PTB_XL_FOLDER --output readers.json

prints per folder how many files were tried; how many gave the samples that another library gives (wfdb, pydicom,
scipy, pandas, a few lines of XML parsing here) or that the same recording gives in another format; how many agree with
the provenance of the samples in leads, rate and length, no more being known; how many were refused as they must be,
with the reason that `REFUSED` expects; and what went wrong, which makes the exit code 1. Speeds are in processor time:
the median of reading a file, and float32 signal per second.
"""

import argparse
import base64
import json
import re
import statistics
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pydicom
import scipy.io
import wfdb

from modeling_merit.processing.leads import STANDARD_LEADS, canonical_lead
from modeling_merit.processing.readers import EcgFormatError, EcgRecord, read_ecg
from modeling_merit.processing.readers.source import MILLIVOLTS_PER_UNIT, is_lead

# Not records of their own: signal files beside a header, labels.
PARTS = r"\.(dat|d\d|xyz|md)$|/cinc2021(_mat)?/.*\.(mat|csv)$|a103l\.mat$|/(meta|labels|label_def|REFERENCE.*)\.csv$"
# What a file leaves open: as its provenance says, or names made up for channels that are only numbered.
STATED = {
    "12lead_header_time_mV": {"units": "mV"},
    "code_15_": {"leads": STANDARD_LEADS, "units": "mV"},
    "ptb_diagnostic/": {"leads": {"vx": None, "vy": None, "vz": None}},
    "binformats": {"leads": STANDARD_LEADS[:10]},
    "test01_00s(_skew)?.hea": {"leads": STANDARD_LEADS[:4]},
    "flac|test01_00s_": {"leads": STANDARD_LEADS[:3]},
    "310derive.hea": {"leads": STANDARD_LEADS[:2]},
    "31[01]derive": {"leads": STANDARD_LEADS[:1]},
    "10-44n": {},
    "a103l|mixedsignals|3000003|041s|v102s|s25047|3234460_00": {"leads": {"V": "V1"}},
    "datarec_generator_2": {"leads": STANDARD_LEADS[:5]},
}
TWINS = {  # the same recording in another format: file, greatest difference in mV, seconds of it
    r"edf/.*(ptbxl|unknown_record_count)": ("wfdb/cinc2021_mat/HR06000.hea", 1e-5, None),
    r"georgia_12lead_24bit": ("wfdb/cinc2021_mat/E07500.hea", 1e-4, None),
    r"synthetic_ptbxl": ("wfdb/cinc2021_mat/HR06000.hea", 1e-5, None),
    r"ishne/.*mitdb100": ("wfdb/100.hea", 1e-5, 30),
    r"scp_ecg/ecgtoolkit": ("dicom/ecgtoolkit_example_12lead.dcm", 1e-5, None),
    r"ptb_diagnostic/": ("wfdb/s0010_re.hea", 1e-5, None),
    r"v1_04_ad4d3d80": ("hl7_aecg/philips_ecgtranslator_ad4d3d80.xml", 0.0201, None),  # rounded by its converter
}
FACTS = {  # leads, rate and length, from the provenance
    "welchallyn": (8, 1e6 / 1667, 6000),
    "datarec_generator_2": (5, 500, 15000),
    "v1_03_repbeats|ZZDEMOPTONLY": (12, 500, 5000),  # without the calibration second
}
REFUSED = {
    "CT_small": "Expected a DICOM waveform",
    "edge_truncated_waveformdata|cut_in_half": "damaged or cut short",
    "header_only|truncated_last_record": "is truncated or the recorder never closed it",
    "annotations_only|edfann|10-44n|3269321_0001": "holds no ECG lead",
    "pyedflib_test_utf8": "holds no ECG lead; it holds 'Fp1'",
    "fda_empty": "series of code RHYTHM",
    "bad_crc": "checksum",
    "ishne/derived_edge_truncated": "truncated",
    "not_ishne": "not an ISHNE file",
    "section6_length_overflow": "at most 65535 bytes",
    "corrupt_shifted": "Expected 21910 bytes",
    "healforce": "lacks the mark SCPECG",
    "invalid-doc-type": "got MortaraECG",
    r"\.atr$": "no known ECG format",
    "1003.hea|p000878-": "not in its folder",
    "_layout.hea": "holds no samples",
}


def fact(table: dict, path: Path):
    """The value of the first pattern that is found in a path."""
    return next((value for pattern, value in table.items() if re.search(pattern, path.as_posix())), None)


def by_wfdb(path: Path, record: EcgRecord, leads) -> np.ndarray:
    expected = wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False)
    names = [(leads or {}).get(n, n) for n in expected.sig_name] if leads is None or isinstance(leads, dict) else leads
    rows = {canonical_lead(name): i for i, name in enumerate(names) if name and is_lead(name)}
    scale = [MILLIVOLTS_PER_UNIT.get(unit.lower()) for unit in expected.units]
    signals = [expected.e_p_signal[rows[lead]] * scale[rows[lead]] for lead in record.leads]
    # A signal of a lower rate is resampled by the reader; it is left to the tests.
    return np.stack([x if len(x) == record.n_samples else y for x, y in zip(signals, record.signal)])


def by_pydicom(path: Path, record: EcgRecord, leads) -> np.ndarray:
    data, rows = pydicom.dcmread(path), []
    for i, group in enumerate(data.WaveformSequence):
        if group.NumberOfWaveformSamples == record.n_samples:
            units = [c.ChannelSensitivityUnitsSequence[0].CodeValue for c in group.ChannelDefinitionSequence]
            rows += [row * MILLIVOLTS_PER_UNIT[unit.lower()] for row, unit in zip(data.waveform_array(i).T, units)]
    return np.stack(rows)


def by_scipy(path: Path, record: EcgRecord, leads) -> np.ndarray:
    content = scipy.io.loadmat(path)
    return content["feats"] if "feats" in content else content["ECG"]["data"][0, 0]


def by_pandas(path: Path, record: EcgRecord, leads) -> np.ndarray:
    if len(record.leads) > 1:
        return pd.read_csv(path)[list(record.leads)].to_numpy().T
    values = pd.Series(path.read_text(encoding="utf-8").splitlines()).str.replace(",", ".")
    return pd.to_numeric(values, errors="coerce").dropna().to_numpy()[None] / 1000


def by_xml(path: Path, record: EcgRecord, leads) -> np.ndarray:
    root = ElementTree.parse(path).getroot()
    if root.tag == "RestingECG":  # I, II, V1 to V6 are stored
        waveform = next(w for w in root.findall("Waveform") if w.findtext("WaveformType") == "Rhythm")
        stored = [base64.b64decode(e.findtext("WaveFormData")) for e in waveform.findall("LeadData")]
        i, ii, *chest = np.array([np.frombuffer(x, "<i2") for x in stored]) * 0.00488
        return np.array([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2, *chest])
    values = [v for v in root.iter("{urn:hl7-org:v3}value") if v.find("{*}digits") is not None][: len(record.leads)]
    scales = [float(v.find("{*}scale").get("value")) / 1000 for v in values]
    return np.array([s * np.array(v.find("{*}digits").text.split(), float) for s, v in zip(scales, values)])


def check(path: Path, record: EcgRecord, facts: dict, formats_dir: Path) -> str:
    """ "same" or "consistent" with something independent, else what is wrong."""
    twin, leads = fact(TWINS, path), facts.get("leads")
    by = {".hea": by_wfdb, ".dcm": by_pydicom, ".mat": by_scipy, ".csv": by_pandas, ".xml": by_xml}.get(path.suffix)
    if twin:
        other = read_ecg(formats_dir / twin[0])
        if set(other.leads) >= set(record.leads):  # else II was recorded as MLII
            other = other.select(record.leads)
        expected, tolerance = other.crop(0, twin[2] or other.duration_s).signal, twin[1]
    elif fact(FACTS, path):
        found = (len(record.leads), record.sampling_rate, record.n_samples)
        return "consistent" if np.allclose(found, fact(FACTS, path), rtol=1e-6) else f"{found}"
    elif by is None:
        return "nothing to compare with"
    else:
        expected, tolerance = by(path, record, leads)[:, : record.n_samples], 1e-5
    if expected.shape != record.signal.shape or (np.isnan(expected) != np.isnan(record.signal)).any():
        return f"shape {record.signal.shape} for {expected.shape}, or other invalid samples"
    error = np.nanmax(np.abs(expected - record.signal), initial=0)
    return "same" if error <= tolerance * max(1, np.nanmax(np.abs(expected), initial=0)) else f"{error:g} mV apart"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats_dir", type=Path, required=True, help="Folder with a folder per format.")
    parser.add_argument("--external_dir", type=Path, help="Folder with cinc2021, cpsc2018_original, code15_samples.")
    parser.add_argument("--ptb_xl_dir", type=Path, help="PTB-XL folder, of which the first records are tried.")
    parser.add_argument("--ptb_xl_records", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3, help="How often a file is read for the speed.")
    parser.add_argument("--output", type=Path, help="JSON file with the outcome of every file.")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries compared with

    found = [
        (path.relative_to(folder).parts[0], path)
        for folder in filter(None, (args.formats_dir, args.external_dir))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not re.search(PARTS, path.as_posix())
    ]
    if args.ptb_xl_dir:
        headers = sorted(args.ptb_xl_dir.glob("records?00/*/*.hea"))[: args.ptb_xl_records]
        found += [("ptb-xl", path) for path in headers]
    files, speeds = defaultdict(dict), defaultdict(list)
    for group, path in found:
        facts, reason = fact(STATED, path) or {}, fact(REFUSED, path)
        try:
            record = read_ecg(path, **facts)
            outcome = f"read, not refused: {reason}" if reason else check(path, record, facts, args.formats_dir)
            for _ in range(args.repeats):
                began = time.process_time()
                read_ecg(path, **facts)
                speeds[group].append((time.process_time() - began, record.signal.nbytes))
        except EcgFormatError as error:
            outcome = "refused" if reason and reason in str(error) else f"refused: {error}"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        files[group][path.name] = outcome

    columns = ("samples", "tried", "same samples", "consistent", "rightly refused", "faults", "ms per file", "MB/s")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for group, outcomes in files.items():
        counts = [sum(x == kind for x in outcomes.values()) for kind in ("same", "consistent", "refused")]
        seconds, sizes = zip(*speeds.get(group, [(float("nan"), 0)]))
        numbers = [len(outcomes), *counts, len(outcomes) - sum(counts)]
        speed = f"{1000 * statistics.median(seconds):.1f} | {sum(sizes) / sum(seconds) / 1e6:.0f}"
        print(f"| {group} | {' | '.join(map(str, numbers))} | {speed} |")
    faults = {name: x for g in files.values() for name, x in g.items() if x not in ("same", "consistent", "refused")}
    print("\n".join(f"fault: {name}: {what}" for name, what in faults.items()) or "no fault")
    if args.output:
        args.output.write_text(json.dumps(files, indent=2), encoding="utf-8")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
