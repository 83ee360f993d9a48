"""Compare `measure` with neurokit2 on PTB-XL, with the truth of simulated ECGs, and with what PTB-XL's labels imply.

    python examples/compare_measurements.py --data_dir PTB_XL --output results/measurements.json

neurokit2 (Makowski et al., Behav Res Methods 53:1689, 2021; `pip install neurokit2`) measures each of eight leads at
500 Hz, with its delineation by prominence (Emrich et al., EUSIPCO 2024); its value for a record is the median over
beats, then leads. Both are also given simulated ECGs, whose intervals are known: a wave of the simulator ends two
standard deviations from its centre. Prints the table that it writes. Not a medical device.
"""

import argparse
import ast
import json
import warnings
from pathlib import Path

import neurokit2
import numpy as np
import pandas as pd
import wfdb
from neurokit2 import NeuroKitWarning
from tqdm import tqdm

from modeling_merit.processing import EcgRecord, measure
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.measurements import UNITS

LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
WAVES = ("ECG_P_Onsets", "ECG_R_Onsets", "ECG_R_Offsets", "ECG_T_Offsets")
COMPARED = ("heart_rate", "pr", "qrs", "qt")
CONDITIONS = ("sinus_rhythm", "sinus_bradycardia", "sinus_tachycardia", "first_degree_av_block", "long_qt")
CODES = ("SR", "NORM", "STACH", "SBRAD", "AFIB", "AFLT", "1AVB", "CLBBB", "CRBBB", "PACE")


def measured_by_neurokit(record):
    """Return rate, PR, QRS and QT, NaN where no lead gives them."""
    record = record.resample(500)
    rows = []
    for lead in LEADS:
        try:
            clean = neurokit2.ecg_clean(record.signal[record.leads.index(lead)].astype(float), sampling_rate=500)
            _, found = neurokit2.ecg_peaks(clean, sampling_rate=500)
            peaks = found["ECG_R_Peaks"]
            _, waves = neurokit2.ecg_delineate(clean, peaks, sampling_rate=500, method="prominence")
        except (ValueError, IndexError, ZeroDivisionError):  # what it raises where it finds no beats
            continue
        beats = min(len(waves[name]) for name in WAVES)
        p, onset, end, t = (np.array(waves[name][:beats], dtype=float) * 2 for name in WAVES)  # ms
        rows.append([60 * 500 / np.diff(peaks).mean(), *map(np.nanmedian, (onset - p, end - onset, t - onset))])
    return np.nanmedian(rows, axis=0) if rows else np.full(4, np.nan)


def measured(record, names=COMPARED):
    found = measure(record)
    return np.array([np.nan if (value := getattr(found, name).value) is None else value for name in names])


def described(values):
    """Return number, median and percentiles of what is there."""
    values = values[np.isfinite(values)]
    if not len(values):
        return {"n": 0}
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).round(1).tolist()
    return {"n": len(values), **dict(zip(("p5", "p25", "median", "p75", "p95"), quantiles))}


def compared(ours, theirs):
    difference = ours - theirs
    result = {
        name: {"ours": described(ours[:, i]), "theirs": described(theirs[:, i]), "ours - theirs": described(both)}
        for i, (name, both) in enumerate(zip(COMPARED, difference.T))
    }
    rates = difference[np.isfinite(difference[:, 0]), 0]
    result["heart_rate"]["within 1 per minute"] = round(float((np.abs(rates) <= 1).mean()), 4)
    return result


def read(folder, name):
    record = wfdb.rdrecord(str(folder / name))
    return EcgRecord(record.p_signal.T, record.fs, tuple(record.sig_name))


def on_simulated(count):
    """Return errors of both against known intervals."""
    result = {}
    for condition in CONDITIONS:
        for rate in (100, 500):
            ours, theirs = [], []
            for seed in range(count):
                ecg = simulate_ecg(condition, seed=seed, sampling_rate=rate)
                truth = [ecg.factors[name] for name in ("heart_rate", "pr_interval", "qrs_width", "qt_interval")]
                record = EcgRecord(ecg.signal, rate, STANDARD_LEADS)
                ours.append(measured(record) - truth)
                theirs.append(measured_by_neurokit(record) - truth)
            for name, errors in (("ours", np.array(ours)), ("neurokit2", np.array(theirs))):
                shown = {key: described(column) for key, column in zip(COMPARED, errors.T)}
                result.setdefault(f"{condition}, {rate} Hz", {})[name] = shown
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="The folder of PTB-XL.")
    parser.add_argument("--records", type=int, default=300, help="Of fold 9, at 100 Hz, evenly spaced.")
    parser.add_argument("--per_label", type=int, default=150, help="Most records of fold 9 per label.")
    parser.add_argument("--simulated", type=int, default=30, help="Records per condition and rate.")
    parser.add_argument("--output", type=Path, default=Path("results/measurements.json"))
    args = parser.parse_args()
    warnings.simplefilter("ignore", NeuroKitWarning)
    warnings.simplefilter("ignore", RuntimeWarning)  # medians of nothing

    table = pd.read_csv(args.data_dir / "ptbxl_database.csv", index_col="ecg_id")
    codes = table["scp_codes"].map(ast.literal_eval)
    fold = table[table["strat_fold"] == 9]
    chosen = fold.iloc[np.linspace(0, len(fold) - 1, min(args.records, len(fold))).astype(int)]
    fast = table[[(args.data_dir / f"{name}.hea").is_file() for name in table["filename_hr"]]]
    result = {"neurokit2": neurokit2.__version__, "unit": UNITS}
    for name, rows, column in (("100 Hz", chosen, "filename_lr"), ("500 Hz", fast[:100], "filename_hr")):
        records = [read(args.data_dir, file) for file in tqdm(rows[column], desc=name)]
        if not records:
            continue
        ours = np.array([measured(record) for record in records])
        theirs = np.array([measured_by_neurokit(record) for record in tqdm(records, desc="neurokit2")])
        result[f"PTB-XL at {name}"] = compared(ours, theirs)
    if len(fast):
        both = [
            np.array([measured(read(args.data_dir, file), UNITS) for file in fast[column][:100]])
            for column in ("filename_hr", "filename_lr")
        ]
        result["500 Hz - 100 Hz, the same records"] = dict(zip(UNITS, map(described, (both[0] - both[1]).T)))
    result["by label"] = {}
    for code in CODES:
        rows = fold[[code in found for found in codes[fold.index]]][: args.per_label]
        values = np.array(
            [measured(read(args.data_dir, file), UNITS) for file in tqdm(rows["filename_lr"], desc=code)]
        )
        result["by label"][code] = {"records": len(rows), **dict(zip(UNITS, map(described, values.T)))}
    result["error on simulated ECGs"] = on_simulated(args.simulated)

    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
