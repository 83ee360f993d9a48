"""Score a WFDB record with an exported model: onnxruntime, numpy, scipy and wfdb, without torch and transformers.

    merit-ecg export merit-ecg --out onnx --prompts superclass
    python examples/onnx_inference.py onnx RECORD

Copy it into a program of your own. Research software, not a medical device.
"""

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import wfdb
from scipy.signal import resample_poly


def prepare(record, facts):
    """Return `input_values` and `ecg_mask`, (1, leads, samples) each, of a record; leads go by their names."""
    if not Path(f"{record}.hea").is_file():
        sys.exit(
            f"Expected a WFDB record, got no {record}.hea. Make one of another file: merit-ecg convert FILE RECORD.hea"
        )
    signal, fields = wfdb.rdsamp(record)  # (samples, leads), in the unit that the header states
    seconds, shortest, longest = len(signal) / fields["fs"], facts["min_seconds"], facts["max_seconds"]
    if not shortest <= seconds <= longest:
        sys.exit(f"Expected {shortest:g} to {longest:g} s, got {seconds:g} s. Cut a longer record into pieces.")
    if facts["normalization"] != "none":
        sys.exit(f"Expected a model of signals in mV, got one that wants them normalised: {facts['normalization']}.")
    ratio = Fraction(facts["sampling_rate"] / fields["fs"]).limit_denominator(1000)
    if ratio != 1:
        terms, window = (ratio.numerator, ratio.denominator), tuple(facts["resample_window"])
        signal = resample_poly(signal, *terms, window=window, padtype="line")[: round(len(signal) * ratio)]
    if facts["high_pass"]:  # less its smooth baseline, for which the second difference costs
        bend = np.diff(np.eye(len(signal)), 2, axis=0)
        cost = (2 * np.sin(np.pi * facts["high_pass"] / facts["sampling_rate"])) ** -4
        signal = signal - np.linspace(signal[0], signal[-1], len(signal))
        signal = signal - np.linalg.solve(np.eye(len(signal)) + cost * bend.T @ bend, signal)
    samples = -(-len(signal) // facts["multiple_of"]) * facts["multiple_of"]
    values = np.zeros((1, len(facts["leads"]), samples), dtype=np.float32)
    mask = np.zeros(values.shape, dtype=bool)
    rows = {lead.lower(): row for row, lead in enumerate(facts["leads"])}
    found = {
        name.lower(): lead * {"mV": 1, "uV": 1e-3, "V": 1e3}[unit]
        for name, unit, lead in zip(fields["sig_name"], fields["units"], signal.T)
        if name.lower() in rows and np.isfinite(lead).all()
    }
    if not found:
        sys.exit(f"Expected leads of {', '.join(facts['leads'])}, got {', '.join(fields['sig_name'])}: rename them.")
    if facts["derive_leads"] and found.keys() >= {"i", "ii"}:
        i, ii = found["i"], found["ii"]
        found = {"iii": ii - i, "avr": -(i + ii) / 2, "avl": i - ii / 2, "avf": ii - i / 2} | found
    for name in found.keys() & rows.keys():
        values[0, rows[name], : len(signal)] = found[name]
        mask[0, rows[name], : len(signal)] = True
    return {"input_values": values, "ecg_mask": mask}


NAMES = {"embeds": "embeddings", "words": "words"}
folder = Path(sys.argv[1])
facts, prompts = json.loads((folder / "merit.json").read_text("utf-8")), np.load(folder / "prompts.npz")
session = onnxruntime.InferenceSession(folder / "zero_shot.onnx")
inputs = prepare(sys.argv[2].removesuffix(".hea"), facts)
inputs |= {f"prompt_{name}": prompts[key].astype(np.float32) for name, key in NAMES.items() if key in prompts}
[scores] = session.run(["score"], inputs)
for score, name in sorted(zip(scores[0].tolist(), prompts["names"].tolist()), reverse=True):
    print(f"{score:+.4f}  {name}")
print(facts["score_meaning"], facts["disclaimer"], sep="\n")
