"""What the page does, one function per button: read or simulate an ECG, compare, embed, report.

Uploads are deleted once read, and nothing about them is printed: what a Space prints is its log.
"""

import html
import json
import os
import shutil
import tempfile
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path

import gradio as gr

from modeling_merit.processing.benchmark.prompts import load_prompts
from modeling_merit.processing.cli import REFUSALS
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import embed_ecgs, generate_reports, load_checkpoint, score_prompts
from modeling_merit.processing.inspection import describe
from modeling_merit.processing.plotting import DPI, plot_ecg
from modeling_merit.processing.readers import EcgRecord, detect_format, open_source, read_ecg
from modeling_merit.processing.record import DISCLAIMER

BESIDE = Path(__file__).resolve().parent.parent / "merit-ecg"
MODEL = os.environ.get("MERIT_MODEL") or (str(BESIDE) if BESIDE.is_dir() else "your-name/merit-ecg")
REPORT_MODEL = os.environ.get("MERIT_REPORT_MODEL")
CLASSES = ["NORM", "SR", "AFIB", "STACH", "SBRAD", "CLBBB", "CRBBB", "LVH", "IMI", "ASMI", "PVC", "PACE"]
PIECE_S = 10
KEPT_S = 600  # seconds that the page remembers an ECG, and that an upload nobody reads stays
MAX_STATEMENTS = 50
SEED = 10**6  # of simulated ECGs; the synthetic data set draws from pairs of numbers, never from a single one


def guarded(function):
    """Show in the page, and print nowhere, what the library refuses."""

    @wraps(function)
    def call(*inputs):
        try:
            if not inputs[0]:
                raise ValueError(f"Upload or simulate an ECG first. It is forgotten after {KEPT_S // 60} minutes.")
            return function(*inputs)
        except REFUSALS as error:
            raise gr.Error(html.escape(str(error), quote=False), duration=None, print_exception=False) from None

    return call


@guarded
def read(files, start=0, sampling_rate=None, units=None, leads=None, index=None):
    """Read one ECG from uploaded files, which are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(shutil.move(file, Path(folder, Path(file).name))) for file in files]
        headers = [path for path in paths if path.suffix.lower() == ".hea"]
        if len(paths) > 1 and not headers:
            raise ValueError(f"Expected one ECG file, or a WFDB header with its signal files, got {len(paths)} files.")
        path = (headers or paths)[0]
        format = detect_format(open_source(path))
        names = [name.strip() for name in leads.split(",")] if leads else None
        record = read_ecg(path, format, sampling_rate=sampling_rate, units=units or None, leads=names, index=index)
    record = replace(record, record_id=None, start_time=None, source=None)
    if record.duration_s > PIECE_S:
        note = f"{PIECE_S} s from {start or 0:g} s on, of {record.duration_s:g} s"
        record = record.crop(start or 0, min((start or 0) + PIECE_S, record.duration_s))
        record = replace(record, notes=(note, *record.notes))
    return show(record, format)


@guarded
def simulate(condition):
    ecg = simulate_ecg(condition, seed=SEED, sampling_rate=500)
    return show(EcgRecord(ecg.signal, ecg.sampling_rate, ecg.leads, notes=(f"its report: {ecg.report}",)), "simulated")


def show(record, format):
    """Return the record, its plot, what is said of it, and the flags of signal quality."""
    facts = {name: value for name, value in describe(record, format).items() if value is not None}
    quality = facts.pop("quality", None)
    return record, plot_ecg(record, dpi=DPI / 2), facts, quality


load = cache(load_checkpoint)


@guarded
def compare(record, statements):
    """Return rows of statement, cosine similarity with the ECG, and fraction in the softmax over the statements."""
    texts = [line.strip() for line in statements.splitlines() if line.strip()]
    if len(texts) > MAX_STATEMENTS:
        raise ValueError(f"Expected at most {MAX_STATEMENTS} statements, got {len(texts)}.")
    scores = score_prompts(*load(MODEL), record, texts)
    rows = zip(texts, scores.cosine_similarity[0].tolist(), scores.fractions[0].tolist())
    return [[text, round(cosine, 3), round(part, 3)] for text, cosine, part in sorted(rows, key=lambda row: -row[1])]


@guarded
def embed(record):
    embedding = embed_ecgs(*load(MODEL), record)[0].tolist()
    return json.dumps({"model": MODEL, "disclaimer": DISCLAIMER, "embedding": embedding})


@guarded
def report(record, language):
    model, processor = load(REPORT_MODEL, "AutoModelForMultimodalLM")
    options = {"max_new_tokens": 128, "do_sample": False}
    return f"{generate_reports(model, processor, record, language=language, **options)[0]}\n\n{DISCLAIMER}"


def statements_in(language):
    return "\n".join(texts[0] for texts in load_prompts("all", [language], CLASSES).values())
