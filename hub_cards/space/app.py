"""Space of merit-ecg: one ECG file, and everything the models say of it on one page. Not a medical device.

MERIT_MODEL names a checkpoint, a folder or Hub id. Three more variables add a section each: MERIT_STATEMENTS_MODEL, a
calibrated classifier of `finetune.py`; MERIT_REPORT_MODEL, one of `train_report_generation.py`; MERIT_INDEX, a folder
of `merit-ecg index`.
"""

import warnings
from typing import Any

import gradio as gr
import handlers
import wording
from handlers import KEPT_S, LABEL_SETS, PIECE_S

from modeling_merit.processing.benchmark.prompts import SCORE_MEANING
from modeling_merit.processing.explanation import MEANING
from modeling_merit.processing.record import DISCLAIMER

NOTICE = f"> **{DISCLAIMER}** / {wording.NO_DEVICE}"
LAUNCH: dict[str, Any] = {"max_file_size": "10mb", "run_history": False, "footer_links": ["api"], "css": wording.CSS}
QUIETLY: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
ALONG: dict[str, Any] = {"api_visibility": "private", "api_name": "along"}  # takes no name from the API


def table(**widths: int) -> gr.Dataframe:
    """A table of these columns, whose widths in percent let it fit a phone."""
    shares: list[str | int] = [f"{share}%" for share in widths.values()]
    return gr.Dataframe(
        headers=list(widths), type="array", wrap=True, interactive=False, max_height=420, column_widths=shares
    )


def build() -> gr.Blocks:
    with gr.Blocks(title="merit-ecg", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as demo:
        record = gr.State(time_to_live=KEPT_S)
        gr.Markdown(f"# {wording.TITLE}\n{wording.PURPOSE}\n\n{NOTICE}")
        files = gr.File(label="ECG file / EKG-Datei (WFDB: .hea + .dat)", file_count="multiple", height=170)
        files.preprocess = handlers.paths_of
        with gr.Accordion("What the file does not say / Was die Datei nicht sagt", open=False), gr.Row():
            start = gr.Number(0, label=f"First second, of more than {PIECE_S} s / Erste Sekunde")
            rate = gr.Number(None, label="Sampling rate (Hz) / Abtastrate")
            units = gr.Textbox(label="Unit / Einheit", placeholder="mV")
            leads = gr.Textbox(label="Leads in order / Ableitungen", placeholder="I, II, V1")
            index = gr.Number(None, precision=0, label="Which of several recordings, from 0 / Welche Aufnahme")
        gallery = gr.Dataset(
            label="Or an example: simulated, or of PTB-XL (CC BY 4.0) / Oder ein Beispiel",
            components=["html"],
            samples=handlers.cards(),
            type="index",
            samples_per_page=len(wording.EXAMPLES),
        )

        gr.Markdown("## ECG / EKG")
        plot = gr.HTML()
        gr.Markdown("## Measurements / Messwerte")
        measured = table(
            **{"measurement / Messwert": 36, "value / Wert": 18, "unit / Einheit": 20, "valid / gültig": 26}
        )
        results: list[Any] = []
        steps: list[tuple] = []  # function, inputs, output: what follows on every ECG
        if handlers.STATEMENTS_MODEL:
            gr.Markdown("## Statements, with probabilities / Aussagen mit Wahrscheinlichkeit")
            results.append(table(**{"statement / Aussage": 46, "probability": 20, "threshold": 20, "reached": 14}))
            gr.Markdown(wording.PROBABILITY_MEANING)
            steps.append((handlers.statements, [record], results[-1], "statements"))

        gr.Markdown("## In your own words / Mit eigenen Worten")
        words = gr.Textbox(
            handlers.suggested(),
            lines=6,
            max_lines=12,
            label='One statement per line, " / " between wordings / Eine Aussage pro Zeile',
        )
        compared = gr.Button("Compare / Vergleichen", variant="primary")
        scores = table(**{"statement / Aussage": 56, "score / Wert": 20, "cosine similarity": 24})
        gr.Markdown(SCORE_MEANING)
        with gr.Accordion("A label set of PTB-XL instead / Statt dessen Klassen von PTB-XL", open=False):
            label_set = gr.Dropdown(LABEL_SETS, value="superclass", label="Label set / Klassen")
            classified = gr.Button("Compare with its classes / Mit den Klassen vergleichen")

        gr.Markdown("## What the model reacts to / Worauf das Modell reagiert")
        wanted = gr.Textbox(label="Statement to explain; empty: the highest above / Aussage; leer: die höchste")
        explained = gr.Button("Explain / Erklären", variant="primary")
        heat_map = gr.HTML()
        gr.Markdown(MEANING)
        results += [scores, heat_map]
        steps.append((handlers.compare, [record, words], scores, None))
        steps.append((handlers.explanation, [record, wanted, words], heat_map, None))

        if handlers.REPORT_MODEL:
            gr.Markdown(f"## Draft report / Befundentwurf\n{NOTICE}")
            language = gr.Radio(["English", "German"], value="English", label="Language / Sprache")
            results.append(gr.Textbox(label="Not for clinical use / Nicht für den klinischen Gebrauch", lines=3))
            steps.append((handlers.report, [record, language], results[-1], "report"))
            language.input(handlers.report, [record, language], results[-1], **ALONG)
        if handlers.INDEX:
            gr.Markdown("## Similar recordings / Ähnliche Aufnahmen")
            results.append(table(**{"similarity / Ähnlichkeit": 30, "recording / Aufnahme": 70}))
            steps.append((handlers.similar, [record], results[-1], "similar"))

        gr.Markdown("## What was read / Was gelesen wurde")
        facts = table(**{"fact / Angabe": 42, "value / Wert": 58})
        embedding = gr.JSON(visible="hidden")
        embedded = gr.Button("Download the embedding (JSON) / Vektor herunterladen")
        shown = [record, plot, facts, measured]

        def forget():
            """Nothing of one ECG may stand beside the next one, or beside the error about it."""
            return [None] * len(everything)

        def follow(event, named=False):
            """Fill the page once an ECG is read; a result that fails keeps no other one away."""
            for function, inputs, output, name in steps:
                event.success(function, inputs, output, **({"api_name": name} if named and name else ALONG))

        everything = [*shown, *results, embedding]
        uploaded = files.upload(forget, None, everything, js=wording.CLOSE_ERRORS, **QUIETLY)
        taken = uploaded.then(handlers.read, [files, start, rate, units, leads, index], shown, api_name="read")
        taken.success(lambda: None, None, files, **QUIETLY)
        taken.failure(lambda: None, None, files, **QUIETLY)  # what was refused must not come along with the next
        follow(taken, named=True)
        chosen = gallery.click(forget, None, everything, js=wording.CLOSE_ERRORS, **QUIETLY)
        follow(chosen.then(handlers.example, gallery, shown, api_name="example"))
        compared.click(handlers.compare, [record, words], scores, api_name="compare")
        classified.click(handlers.classify, [record, label_set], scores, api_name="classify")
        explained.click(handlers.explanation, [record, wanted, words], heat_map, api_name="explain")
        embedded.click(handlers.embed, record, embedding, api_name="embed").success(
            None, embedding, None, js=wording.DOWNLOAD
        )
    return demo


demo = build()

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # those of libraries quote the uploaded file, and would stand in the log
    demo.launch(**LAUNCH)
