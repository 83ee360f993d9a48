"""Space of merit-ecg: read an ECG file, draw it, compare it with texts, take its embedding. Not a medical device.

MERIT_MODEL names a checkpoint, a folder or Hub id; MERIT_REPORT_MODEL names one of `train_report_generation.py`, for
a further tab that writes reports.
"""

import warnings
from typing import Any

import gradio as gr
import handlers
from handlers import KEPT_S, LABEL_SETS, PIECE_S, classify, compare, embed, read, report, simulate, statements_in

from modeling_merit.processing.benchmark.prompts import SCORE_MEANING
from modeling_merit.processing.data.simulation import CONDITIONS
from modeling_merit.processing.record import DISCLAIMER

NOTICE = f"> **{DISCLAIMER}**"
LAUNCH: dict[str, Any] = {"max_file_size": "10mb", "run_history": False, "footer_links": ["api"]}


def build() -> gr.Blocks:
    with gr.Blocks(title="merit-ecg", analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)) as demo:
        record = gr.State(time_to_live=KEPT_S)
        with gr.Row():
            with gr.Column(scale=1):
                files = gr.File(label="ECG file; of WFDB the .hea and its signal files", file_count="multiple")
                files.preprocess = handlers.paths_of
                start = gr.Number(0, label=f"First second, of more than {PIECE_S} s")
                with gr.Accordion("What the file does not say", open=False):
                    rate = gr.Number(None, label="Sampling rate (Hz)")
                    units = gr.Textbox(label="Unit", placeholder="mV")
                    leads = gr.Textbox(label="Leads in order", placeholder="I, II, V1")
                    index = gr.Number(None, precision=0, label="Which of several recordings, from 0")
                names = [(name.replace("_", " "), name) for name in CONDITIONS]
                condition = gr.Dropdown(names, value="atrial_fibrillation", label="Or an example, simulated")
                simulated = gr.Button("Simulate")
            with gr.Column(scale=3):
                with gr.Tab("ECG"):
                    gr.Markdown(NOTICE)
                    plot = gr.Plot(format="png", show_label=False)
                    with gr.Row():
                        facts, quality = gr.JSON(label="Read"), gr.JSON(label="Signal quality")
                with gr.Tab("Statements"):
                    gr.Markdown(NOTICE)
                    label_set = gr.Dropdown(LABEL_SETS, value="superclass", label="Label set of PTB-XL")
                    classified = gr.Button("Compare with its classes", variant="primary")
                    language = gr.Radio(["de", "en"], value="de", label="Most reports it has learnt from are German")
                    statements = gr.Textbox(
                        statements_in("de"), lines=12, label="Or your own statements, one per line"
                    )
                    compared = gr.Button("Compare with the statements")
                    scores = gr.Dataframe(headers=["statement", "score", "cosine similarity"], type="array", wrap=True)
                    gr.Markdown(SCORE_MEANING)
                with gr.Tab("Embedding"):
                    gr.Markdown(NOTICE)
                    embedded = gr.Button("Embed", variant="primary")
                    embedding = gr.Code(language="json", label="JSON, to copy or download", wrap_lines=True)
                results = [scores, embedding]
                if handlers.REPORT_MODEL:
                    with gr.Tab("Report"):
                        gr.Markdown(NOTICE)
                        tongue = gr.Radio(["English", "German"], value="English", label="Language")
                        asked = gr.Button("Write a report", variant="primary")
                        results.append(gr.Textbox(label="Report"))
                        asked.click(report, [record, tongue], results[-1], api_name="report")

        shown = [record, plot, facts, quality]
        quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

        def forget():
            """Nothing of one ECG may stand beside the next one, or beside the error about it."""
            return [None] * len(shown + results)

        uploaded = files.upload(forget, None, shown + results, **quietly)
        taken = uploaded.then(read, [files, start, rate, units, leads, index], shown, api_name="read")
        taken.success(lambda: None, None, files, **quietly)
        taken.failure(lambda: None, None, files, **quietly)  # what was refused must not come along with the next
        chosen = simulated.click(forget, None, shown + results, **quietly)
        chosen.then(simulate, condition, shown, api_name="simulate")
        language.input(statements_in, language, statements, **quietly)
        classified.click(classify, [record, label_set], scores, api_name="classify")
        compared.click(compare, [record, statements], scores, api_name="compare")
        embedded.click(embed, record, embedding, api_name="embed")
    return demo


demo = build()

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # those of libraries quote the uploaded file, and would stand in the log
    demo.launch(**LAUNCH)
