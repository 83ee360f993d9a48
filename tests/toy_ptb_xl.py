"""A made-up folder in the layout of PTB-XL: 20 records at 100 Hz, three of them also at 500 Hz."""

from pathlib import Path

import numpy as np
import pandas as pd

ECG_IDS = (*range(1, 11), *range(1001, 1011))
HIGH_RATE_ECG_IDS = (1, 2, 3)
LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")  # as PTB-XL spells them


def write_toy_ptb_xl(folder: Path) -> None:
    """Write the folder.

    Record i is in fold 1 + (i - 1) % 10. Record 1 is over 89 years old, record 2 of unknown age with a blank report,
    and the leads of record 3 stand in reverse order in its file.
    """
    rows = []
    for ecg_id in ECG_IDS:
        low, high = (f"records{rate}/{ecg_id // 1000:02d}000/{ecg_id:05d}" for rate in (100, 500))
        rows.append(
            {
                "ecg_id": ecg_id,
                "patient_id": 15000.0 + ecg_id,
                "age": {1: 300.0, 2: None}.get(ecg_id, 30.0 + ecg_id % 50),
                "sex": ecg_id % 2,
                "device": "CS-12   E",
                "recording_date": f"1990-01-{ecg_id % 28 + 1:02d} 09:17:34",
                "report": " " if ecg_id == 2 else f"sinusrhythmus  mÖglich nr {ecg_id}",
                "scp_codes": "{'NORM': 80.0, 'SR': 0.0}",
                "validated_by_human": ecg_id % 3 == 0,
                "strat_fold": 1 + (ecg_id - 1) % 10,
                "filename_lr": f"{low}_lr",
                "filename_hr": f"{high}_hr",
            }
        )
        leads = LEADS[::-1] if ecg_id == 3 else LEADS
        signal = toy_signal(ecg_id, 1000)
        write_record(folder / f"{low}_lr", signal[::-1] if ecg_id == 3 else signal, 100, leads=leads)
        if ecg_id in HIGH_RATE_ECG_IDS:
            write_record(folder / f"{high}_hr", toy_signal(ecg_id, 5000), 500)
    pd.DataFrame(rows).to_csv(folder / "ptbxl_database.csv", index=False)


def toy_signal(ecg_id: int, samples: int) -> np.ndarray:
    """The int16 microvolts (12, samples) of a record, rows in the order of `LEADS`."""
    return np.random.default_rng(ecg_id).integers(-3000, 3000, (12, samples), dtype=np.int16)


def write_record(
    path: Path, signal: np.ndarray, rate: int, leads: tuple[str, ...] = LEADS, gain: str = "1000.0(0)/mV"
) -> None:
    """Write int16 (leads, samples) as a WFDB record of format 16 with a header like those of PTB-XL."""
    header = [f"{path.name} {len(leads)} {rate} {signal.shape[1]}"] + [
        f"{path.name}.dat 16 {gain} 16 0 {row[0]} {int(row.sum(dtype=np.int64)) & 0xFFFF} 0 {lead}"
        for lead, row in zip(leads, signal)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.hea").write_text("\n".join(header) + "\n")
    path.with_name(f"{path.name}.dat").write_bytes(np.ascontiguousarray(signal.T).astype("<i2").tobytes())
