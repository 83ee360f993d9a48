"""Made-up folders in the layouts of public ECG data sets: a few records each, as their papers and headers describe."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.io import savemat
from toy_ptb_xl import write_record

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
CODE_COLUMNS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")


def wave(seed: int, rate: int, seconds: float) -> np.ndarray:
    """Microvolts (12, samples), whole numbers: slow waves, so that resampling keeps them; one amplitude per lead."""
    time = np.arange(round(rate * seconds)) / rate
    frequency = 1 + np.random.default_rng(seed).random((12, 1))
    return np.rint(100 * np.arange(1, 13)[:, None] * np.cos(2 * np.pi * frequency * time)).astype(np.int16)


def write_mimic(folder: Path, patients: int = 20) -> None:
    """Two studies per patient; the first patient's second has a lead without a sample, that of the next a flat one."""
    records, reports = [], []
    for i in range(2 * patients):
        subject, study = 10000032 + i // 2, 40000000 + i
        path = f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"
        signal = wave(i, 500, 10)
        if i == 1:
            signal[7] = -32768  # the marker of WFDB
        if i == 3:
            signal[8] = 0
        order = [LEADS.index(lead) for lead in MIMIC_LEADS]
        write_record(folder / path, signal[order], 500, MIMIC_LEADS, gain="1000.0(0)/mV")
        records.append([subject, study, study, f"2180-07-{i % 28 + 1:02d} 08:44:00", path])
        lines = ["Sinus rhythm.", "", f"Record number {i}", *[""] * 15] if i != 5 else [""] * 18
        reports.append([subject, study, 6848296, records[-1][3], *lines])
    columns = ["subject_id", "study_id", "file_name", "ecg_time", "path"]
    pd.DataFrame(records, columns=columns).to_csv(folder / "record_list.csv", index=False)
    columns = ["subject_id", "study_id", "cart_id", "ecg_time", *(f"report_{i}" for i in range(18))]
    pd.DataFrame(reports, columns=columns).to_csv(folder / "machine_measurements.csv", index=False)


def write_sums(folder: Path) -> None:
    """`SHA256SUMS.txt` as PhysioNet has it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(folder).as_posix()}" for path in files
    ]
    (folder / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n")


def write_code15(folder: Path, exams: int = 12) -> None:
    """Two parts; every fourth exam lasts 7 s, the others 10 s, zeros at both ends; part 1 ends in an empty exam."""
    import h5py

    rows = []
    for part in (0, 1):
        ids, tracings = [], []
        for i in range(part, exams, 2):
            seconds = 7 if i % 4 == 1 else 10
            signal = wave(i, 400, seconds).T / 100.0  # units of 0.1 mV
            before = (4096 - len(signal)) // 2
            tracings.append(np.pad(signal, [(before, 4096 - len(signal) - before), (0, 0)]))
            ids.append(1000 + i)
            findings = [column == CODE_COLUMNS[i % 6] for column in CODE_COLUMNS]
            rows.append([1000 + i, 40 + 5 * i, i % 2 == 0, 50.0, *findings, 500 + i // 3, "", "", False])
            rows[-1].append(f"exams_part{part}.hdf5")
        if part == 1:
            ids.append(0)
            tracings.append(np.zeros((4096, 12)))
        with h5py.File(folder / f"exams_part{part}.hdf5", "w") as file:
            file["exam_id"] = np.array(ids)
            file["tracings"] = np.array(tracings, dtype=np.float32)
    columns = ["exam_id", "age", "is_male", "nn_predicted_age", *CODE_COLUMNS, "patient_id", "death", "timey"]
    columns += ["normal_ecg", "trace_file"]
    pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0).to_csv(folder / "exams.csv", index=False)


def write_sph(folder: Path, records: int = 12) -> None:
    import h5py

    rows = []
    (folder / "records").mkdir()
    for i in range(records):
        name = f"A{i + 1:05d}"
        with h5py.File(folder / "records" / f"{name}.h5", "w") as file:
            file["ecg"] = (wave(i, 500, 10 + i % 3) / 1000).astype(np.float16)
        rows.append([name, ["1", "22;23", "60+310"][i % 3], f"S{i // 2:05d}", 50 + i, "MF"[i % 2], 5000, "2020-03-04"])
    columns = ["ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex", "N", "Date"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv", index=False)


def write_cpsc2018(folder: Path, records: int = 12) -> None:
    rows = []
    for i in range(records):
        name, part = f"A{i + 1:04d}", folder / f"TrainingSet{i % 3 + 1}"
        part.mkdir(exist_ok=True)
        ecg = {"sex": ["Male", "Female"][i % 2], "age": np.array([[40 + i]]), "data": wave(i, 500, 6 + i) / 1000}
        savemat(part / f"{name}.mat", {"ECG": ecg})
        rows.append([name, i % 9 + 1, 5 if i == 3 else "", ""])
    columns = ["Recording", "First_label", "Second_label", "Third_label"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "TrainingSet1" / "REFERENCE.csv", index=False)
