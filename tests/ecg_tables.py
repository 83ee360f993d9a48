"""Tables of simulated ECGs in several file formats, as a user may have them."""

from pathlib import Path

import numpy as np
import pandas as pd

from modeling_merit.processing import EcgRecord
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.writers import write_ecg

CONDITIONS = ("sinus_rhythm", "atrial_fibrillation", "left_bundle_branch_block")
SUFFIXES = (".hea", ".edf", ".npz", ".csv", ".json")


def write_table(folder: Path, n: int = 60, rate: float = 250.0) -> pd.DataFrame:
    """Write `n` ECGs into `folder / "ecgs"` and `folder / "table.csv"`; two records in a row are of one patient."""
    (folder / "ecgs").mkdir(parents=True)
    rows = []
    for i in range(n):
        condition = CONDITIONS[i // 2 % len(CONDITIONS)]
        simulated = simulate_ecg(condition, seed=i, sampling_rate=rate, noise=0.3)
        name = f"ecgs/{i:03d}{SUFFIXES[i % len(SUFFIXES)]}"
        write_ecg(EcgRecord(np.round(simulated.signal, 3), rate, simulated.leads), folder / name)
        rows.append(
            {
                "path": name,
                "patient": f"p{i // 2}",
                "report": simulated.report,
                "AF": int(condition == "atrial_fibrillation"),
                "LBBB": int(condition == "left_bundle_branch_block"),
                "finding": "" if condition == "sinus_rhythm" else condition,
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(folder / "table.csv", index=False)
    return table
