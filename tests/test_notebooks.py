"""The notebooks run from the first cell to the last, and are stored with the outputs of their code."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """What the code cells print and return as text, without what a process prints on its way."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stdout":
                texts.append(output.text)
            elif output.output_type == "execute_result":
                texts.append(output.data["text/plain"])
    return texts


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["own_data_probe", "zero_shot"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_is_stored_with(path, monkeypatch):
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stored = nbformat.read(path, as_version=4)
    ran = nbformat.read(path, as_version=4)
    NotebookClient(ran, timeout=500, kernel_name="python3", resources={"metadata": {"path": path.parent}}).execute()
    before, after = shown(stored), shown(ran)
    assert len(before) >= 3
    for a, b in zip(before, after, strict=True):
        assert NUMBER.sub("#", a).split() == NUMBER.sub("#", b).split()
        for x, y in zip(NUMBER.findall(a), NUMBER.findall(b)):
            assert abs(float(x) - float(y)) <= 0.1, f"stored\n{a}\ngot\n{b}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_executed_small_and_names_nobody(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert path.stat().st_size < 400_000
    text = path.read_text(encoding="utf-8")
    assert "Not a medical device" in text and "simulate_ecg" in text
    for private in ("/home/", "/tmp/", "/work/", "ptb-xl", "patient_id", "record_id='"):
        assert private not in text, private
