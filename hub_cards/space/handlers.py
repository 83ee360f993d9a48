"""What the page does, one function per result: read or simulate an ECG, compare it with texts, explain, embed it.

Uploads are deleted once read or refused, and nothing about them is printed: what a Space prints is its log.
"""

import base64
import html
import io
import os
import re
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path

import gradio as gr
import wording
from gradio.utils import get_upload_folder

from modeling_merit.processing.benchmark.prompts import load_prompts
from modeling_merit.processing.commands.common import REFUSALS
from modeling_merit.processing.data import normalize_report
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.explanation import explain, plot_explanation
from modeling_merit.processing.inference import (
    embed_ecgs,
    embed_prompts,
    find_checkpoint,
    generate_reports,
    load_checkpoint,
    load_scorer,
    score_embeddings,
)
from modeling_merit.processing.inspection import describe, printable
from modeling_merit.processing.plotting import plot_ecg
from modeling_merit.processing.readers import EcgRecord, detect_format, open_source, read_ecg
from modeling_merit.processing.readers.wfdb_header import read_header
from modeling_merit.processing.record import DISCLAIMER

HERE = Path(__file__).resolve().parent


def beside(name: str) -> str | None:
    """The folder of a checkpoint in a clone of the repository."""
    folder = HERE.parent / name
    return str(folder) if folder.is_dir() else None


MODEL = os.environ.get("MERIT_MODEL") or beside("merit-ecg") or "your-name/merit-ecg"
MODEL_NAME = Path(MODEL).name if Path(MODEL).is_dir() else MODEL  # a folder of the server is nobody's business
STATEMENTS_MODEL = os.environ.get("MERIT_STATEMENTS_MODEL") or beside("merit-ecg-statements")
REPORT_MODEL = os.environ.get("MERIT_REPORT_MODEL") or beside("merit-ecg-report")
INDEX = os.environ.get("MERIT_INDEX")
LABEL_SETS = ["superclass", "rhythm", "form", "subclass", "all"]
CLASSES = ["NORM", "SR", "AFIB", "STACH", "SBRAD", "CLBBB", "CRBBB", "LVH", "IMI", "ASMI", "PVC", "PACE"]
PIECE_S = 10
KEPT_S = 600  # seconds that the page remembers an ECG, and that an upload nobody reads stays
MAX_STATEMENTS = 50
MAX_CHARACTERS = 10_000  # of all statements
MAX_ERROR = 500
NEIGHBOURS = 5
LOADING = threading.RLock()
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^/\s'\"]+/)+")
SEED = 10**6  # of simulated ECGs; the synthetic data set draws from pairs of numbers, never from a single one


def guarded(function):
    """Show in the page, and print nowhere, what the library refuses."""

    @wraps(function)
    def call(*inputs):
        try:
            if not inputs[0]:
                raise ValueError(f"Upload or choose an ECG first. It is forgotten after {KEPT_S // 60} minutes.")
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
        if len(headers) > 1:  # of which one names the others, if they are one record
            segments = {f"{name}.hea" for path in headers for name, _ in read_header(path).segments}
            headers = [path for path in headers if path.name not in segments]
            if len(headers) != 1:
                raise ValueError(
                    f"Expected the files of one record, got {len(headers)} headers. Upload one at a time."
                )
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


def example(number):
    """Show an example of the page, by its place."""
    name = list(wording.EXAMPLES)[number]
    path = HERE / "examples" / f"{name}.hea"
    return show(published(path), "wfdb") if path.is_file() else simulate(name)


def published(path):
    """Return a record of PTB-XL, which the data set numbers; nothing of its patient is in the file."""
    note = f"PTB-XL 1.0.3, record {int(path.stem.split('_')[0])}, CC BY 4.0"
    return replace(read_ecg(path), record_id=None, source=None, notes=(note,))


def cards():
    """Return a small drawing of each example: lead II, 2.5 s at 100 samples a second."""
    drawn = []
    for name, alt in wording.EXAMPLES.items():
        path = HERE / "examples" / f"{name}.hea"
        record = read_ecg(path) if path.is_file() else simulate_ecg(name, seed=SEED, sampling_rate=500)
        lead = record.signal[record.leads.index("II"), :1250:5]
        heights = 35 - 20 * (lead - sorted(lead)[len(lead) // 2])
        path = "M" + " ".join(f"{x},{y:.1f}" for x, y in enumerate(heights))
        drawn.append([wording.CARD.format(alt=html.escape(alt), path=path)])
    return drawn


def show(record, format):
    """Return the record, its drawing, and rows of facts with the flags of signal quality, and of measurements."""
    facts = {name: value for name, value in describe(record, format).items() if value is not None}
    found = facts.pop("measurements")
    facts = (facts.pop("quality", None) or {}) | facts | {"beats": found.pop("beats")}
    rows = [[label, text_of(facts[name])] for name, label in wording.FACTS.items() if name in facts]
    measured = [
        [wording.MEASUREMENTS[name], text_of(row["value"]), row["unit"], "yes" if row["valid"] else row["reason"]]
        for name, row in found.items()
    ]
    return record, picture(plot_ecg(record), "drawing", "ECG on millimetre paper"), rows, measured


def text_of(value):
    """Return a fact as text in one line, with control characters escaped."""
    if isinstance(value, dict):
        return ", ".join(f"{printable(str(name))} {text_of(item)}" for name, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text_of, value)) or "-"
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else printable(str(value))


def picture(figure, name, alt, caption=DISCLAIMER):
    """Return a figure as SVG within the page: nothing of it stays on the server."""
    with io.BytesIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        svg = base64.b64encode(file.getvalue()).decode()
    return wording.PICTURE.format(name=name, alt=html.escape(alt), svg=svg, caption=html.escape(caption, quote=False))


def once(function):
    """Keep results, and let one visitor at a time load: what transformers imports late does not bear two."""
    kept = cache(function)

    @wraps(function)
    def call(*names):
        with LOADING:
            return kept(*names)

    return call


@once
def load(checkpoint, auto_class="AutoModel"):
    """Return model and processor; why they cannot be loaded is said in the log, to who runs the page."""
    try:
        model, processor = load_checkpoint(checkpoint, auto_class)
    except REFUSALS as error:
        print(f"{checkpoint}: {error}", file=sys.stderr)
        raise ValueError("The model of this page cannot be loaded. Its log says why.") from None
    processor.feature_extractor.refuse_flat = True
    return model, processor


@once
def load_classifier(checkpoint):
    """Return the pipeline of the statements model."""
    from transformers import pipeline

    try:
        model, extractor = load_scorer(checkpoint)
    except REFUSALS as error:
        print(f"{checkpoint}: {error}", file=sys.stderr)
        raise ValueError("The statements model of this page cannot be loaded. Its log says why.") from None
    return pipeline("ecg-classification", model=model, feature_extractor=extractor)


@once
def open_index(place):
    """Return the index of ECGs to compare with, which the model of the page must have made."""
    from modeling_merit.processing.batch_embedding import checkpoint_fingerprint
    from modeling_merit.processing.search import EcgIndex

    try:
        index = EcgIndex(place)
        index.check_weights(checkpoint_fingerprint(find_checkpoint(MODEL)))
    except REFUSALS as error:
        print(f"{place}: {error}", file=sys.stderr)
        raise ValueError("The index of this page cannot be used. Its log says why.") from None
    return index


@once
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
    classes = wordings(statements)
    prompts = embed_prompts(*load(MODEL), classes)
    for note in prompts.notes:
        gr.Warning(shown(note))
    return ranked(record, prompts, list(classes))


def wordings(statements):
    """Return the wordings of each statement: one statement a line, " / " between wordings."""
    lines = [line.strip() for line in (statements or "").splitlines() if line.strip()]
    if len(lines) > MAX_STATEMENTS:
        raise ValueError(f"Expected at most {MAX_STATEMENTS} statements, got {len(lines)}.")
    if len(statements or "") > MAX_CHARACTERS:
        raise ValueError(f"Expected at most {MAX_CHARACTERS} characters, got {len(statements)}.")
    if len(set(lines)) < len(lines):
        raise ValueError("Expected statements that differ, got one more than once. Leave it out.")
    return {line: [text.strip() for text in line.split(" / ") if text.strip(" /")] or [line] for line in lines}


def ranked(record, prompts, names):
    """Return rows of name, score, and cosine similarity, the highest score first."""
    scores = score_embeddings(embed_ecgs(*load(MODEL), record, "scores"), prompts)
    rows = zip(names, scores.score[0].tolist(), scores.cosine_similarity[0].tolist())
    return [
        [printable(name), round(score, 3), round(cosine, 3)]
        for name, score, cosine in sorted(rows, key=lambda row: -row[1])
    ]


@guarded
def explanation(record, statement, statements):
    """Return the drawing of what speaks for one statement, by default the highest, rather than for the others."""
    classes = wordings(statements)
    statement = " ".join((statement or "")[:MAX_CHARACTERS].split())  # in one line
    if not statement:
        statement = ranked(record, embed_prompts(*load(MODEL), classes), list(classes))[0][0]
    texts = wordings(statement)[statement]
    text, same = texts[0], set(map(normalize_report, texts))
    against = {
        normalize_report(others[0]): others[0]
        for others in classes.values()
        if not same & set(map(normalize_report, others))
    }
    found = explain(*load(MODEL), record, text, against=list(against.values()), n_steps=32, tolerance=0.05)
    shares = sorted(found.lead_shares().items(), key=lambda item: -item[1])[:4]
    caption = f"Most of it in {', '.join(f'{lead} ({share:.0%})' for lead, share in shares)}. {DISCLAIMER}"
    return picture(plot_explanation(record, found), "explanation", f"What speaks for {printable(text, 60)}", caption)


@guarded
def statements(record):
    """Return rows of statement, probability, threshold, and whether it is reached, the most probable first."""
    classifier = load_classifier(STATEMENTS_MODEL)
    config = classifier.model.config
    names = {label: texts[0] for label, texts in load_prompts("all").items()}
    thresholds = dict(zip(config.id2label.values(), getattr(config, "thresholds", None) or [0.5] * config.num_labels))
    rows = []
    for row in classifier(record):
        label, score = row["label"], row["score"]
        name = f"{label} ({names[label]})" if label in names else label
        rows.append([name, round(score, 3), round(thresholds[label], 3), "●" if score >= thresholds[label] else ""])
    return rows


@guarded
def similar(record):
    """Return rows of similarity and what the index says of the nearest ECGs."""
    index = open_index(INDEX)
    columns = [name for name in ("record_id", "age", "sex", "report") if name in index.columns]
    found = index.search(embed_ecgs(*load(MODEL), record)[0].numpy(), k=NEIGHBOURS, columns=columns)
    return [
        [round(row["similarity"], 3), ", ".join(text_of(row[name]) for name in columns)]
        for row in found.to_dict("records")
    ]


@guarded
def embed(record):
    """Return the unit vector of the ECG, to be saved by the browser."""
    embedding = embed_ecgs(*load(MODEL), record)[0].tolist()
    return {"model": MODEL_NAME, "disclaimer": DISCLAIMER, "embedding": embedding}


@guarded
def report(record, language):
    model, processor = load(REPORT_MODEL, "AutoModelForMultimodalLM")
    options = {"max_new_tokens": 128, "do_sample": False}
    return f"{generate_reports(model, processor, record, language=language, **options)[0]}\n\n{DISCLAIMER}"


def suggested():
    """Return statements to begin with, in English and German."""
    return "\n".join(" / ".join(texts) for texts in zip(*map(first_wordings, ("en", "de"))))


def first_wordings(language):
    return [texts[0] for texts in load_prompts("all", [language], CLASSES).values()]
