"""What the page does, one function per button: read or simulate an ECG, classify, compare, embed, report.

Uploads are deleted once read or refused, and nothing about them is printed: what a Space prints is its log.
"""

import html
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from modeling_merit.processing.benchmark.prompts import load_prompts
from modeling_merit.processing.commands.common import REFUSALS
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import (
    embed_ecgs,
    embed_prompts,
    generate_reports,
    load_checkpoint,
    score_embeddings,
)
from modeling_merit.processing.inspection import describe, printable
from modeling_merit.processing.plotting import DPI, plot_ecg
from modeling_merit.processing.readers import EcgRecord, detect_format, open_source, read_ecg
from modeling_merit.processing.record import DISCLAIMER

BESIDE = Path(__file__).resolve().parent.parent / "merit-ecg"
MODEL = os.environ.get("MERIT_MODEL") or (str(BESIDE) if BESIDE.is_dir() else "your-name/merit-ecg")
MODEL_NAME = Path(MODEL).name if Path(MODEL).is_dir() else MODEL  # a folder of the server is nobody's business
REPORT_MODEL = os.environ.get("MERIT_REPORT_MODEL")
LABEL_SETS = ["superclass", "rhythm", "form", "subclass", "all"]
CLASSES = ["NORM", "SR", "AFIB", "STACH", "SBRAD", "CLBBB", "CRBBB", "LVH", "IMI", "ASMI", "PVC", "PACE"]
PIECE_S = 10
KEPT_S = 600  # seconds that the page remembers an ECG, and that an upload nobody reads stays
MAX_STATEMENTS = 50
MAX_CHARACTERS = 10_000  # of all statements
MAX_ERROR = 500
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^/\s'\"]+/)+")
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
            message = str(error)
        except gr.Error:
            raise
        except Exception as error:  # a fault of this program; its text may hold what the file holds
            print(*traceback.format_tb(error.__traceback__), type(error).__name__, file=sys.stderr)
            message = "This page failed at that input. Please tell its maintainers which kind of file it was."
        raise gr.Error(shown(message), duration=None, print_exception=False)

    return call


def shown(text: str) -> str:
    """Return a text for the page: no markup, no control characters, no folder of the server, of bounded length."""
    return html.escape(printable(FOLDERS.sub("", text), MAX_ERROR), quote=False)


def paths_of(payload) -> list[str] | None:
    """Return the paths of uploads, in the place of `gr.File.preprocess`, which leaves an empty file for each."""
    return None if payload is None else [file.path for file in payload]


@contextmanager
def taken(files) -> Iterator[list[Path]]:
    """Move uploads to a folder that is gone after the block; what is no upload is neither read nor touched."""
    uploads = Path(get_upload_folder()).resolve()
    with tempfile.TemporaryDirectory() as folder:
        paths, missing, repeated = [], [], []
        for name in files:
            file, path = Path(name).resolve(), Path(folder, Path(name).name)
            if not file.is_relative_to(uploads) or not file.is_file():
                missing.append(path.name)
            elif path.exists():
                repeated.append(path.name)
                file.unlink()
            else:
                paths.append(Path(shutil.move(file, path)))
            if file.parent != uploads and file.is_relative_to(uploads):
                with suppress(OSError):  # not empty: another upload of the same content
                    file.parent.rmdir()
        if missing:
            raise ValueError(f"{missing[0]} is not among the uploads any more. Upload it again.")
        if repeated:
            raise ValueError(f"Expected files of different names, got {repeated[0]} more than once.")
        yield paths


@guarded
def read(files, start=0, sampling_rate=None, units=None, leads=None, index=None):
    """Read one ECG from uploaded files, which are gone afterwards."""
    with taken(files) as paths:
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
    facts = {name: escaped(value) for name, value in describe(record, format).items() if value is not None}
    quality = facts.pop("quality", None)
    return record, plot_ecg(record, dpi=DPI / 2), facts, quality


def escaped(value):
    """Return facts with control characters of all texts escaped."""
    if isinstance(value, dict):
        return {name: escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return printable(value) if isinstance(value, str) else value


@cache
def load(checkpoint, auto_class="AutoModel"):
    """Return model and processor; why they cannot be loaded is said in the log, to who runs the page."""
    try:
        return load_checkpoint(checkpoint, auto_class)
    except REFUSALS as error:
        print(f"{checkpoint}: {error}", file=sys.stderr)
        raise ValueError("The model of this page cannot be loaded. Its log says why.") from None


@cache
def class_prompts(label_set):
    """Return the prompts of a label set as the model sees them, and a text to show for each class."""
    prompts = load_prompts(label_set)
    return embed_prompts(*load(MODEL), prompts), [f"{name} ({texts[0]})" for name, texts in prompts.items()]


@guarded
def classify(record, label_set):
    """Return rows of class, score and cosine similarity, as in the published results."""
    return ranked(record, *class_prompts(label_set))


@guarded
def compare(record, statements):
    """Return rows of statement, score and cosine similarity with the ECG."""
    texts = [line.strip() for line in (statements or "").splitlines() if line.strip()]
    if len(texts) > MAX_STATEMENTS:
        raise ValueError(f"Expected at most {MAX_STATEMENTS} statements, got {len(texts)}.")
    if len(statements or "") > MAX_CHARACTERS:
        raise ValueError(f"Expected at most {MAX_CHARACTERS} characters, got {len(statements)}.")
    prompts = embed_prompts(*load(MODEL), texts)
    for note in prompts.notes:
        gr.Warning(shown(note))
    return ranked(record, prompts, texts)


def ranked(record, prompts, names):
    """Return rows of name, score, and cosine similarity, the highest score first."""
    scores = score_embeddings(embed_ecgs(*load(MODEL), record, "scores"), prompts)
    rows = zip(names, scores.score[0].tolist(), scores.cosine_similarity[0].tolist())
    return [
        [printable(name), round(score, 3), round(cosine, 3)]
        for name, score, cosine in sorted(rows, key=lambda row: -row[1])
    ]


@guarded
def embed(record):
    embedding = embed_ecgs(*load(MODEL), record)[0].tolist()
    return json.dumps({"model": MODEL_NAME, "disclaimer": DISCLAIMER, "embedding": embedding})


@guarded
def report(record, language):
    model, processor = load(REPORT_MODEL, "AutoModelForMultimodalLM")
    options = {"max_new_tokens": 128, "do_sample": False}
    return f"{generate_reports(model, processor, record, language=language, **options)[0]}\n\n{DISCLAIMER}"


def statements_in(language):
    return "\n".join(texts[0] for texts in load_prompts("all", [language], CLASSES).values())
