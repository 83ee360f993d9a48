"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import modeling_merit
import modeling_merit.processing

EXTRAS = {
    *("captum", "defusedxml", "edfio", "gradio", "h5py", "lancedb", "matplotlib", "nltk", "onnx", "onnxruntime"),
    *("onnxscript", "peft", "pydicom", "ray", "rouge_score", "soundfile"),
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    """All modules of the package. In an editable install `processing` stands beside it, not in it."""
    names = {package.__name__ for package in (modeling_merit, modeling_merit.processing)}
    for package in (modeling_merit, modeling_merit.processing):
        names |= {found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")}
    return sorted(names)


@pytest.mark.parametrize("name", modules())
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
        failed, _ = doctest.testmod(module, optionflags=OPTIONS)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"{name} needs {error.name}")
    assert failed == 0


@pytest.mark.parametrize(
    "owner", [getattr(modeling_merit, name) for name in modeling_merit.__all__], ids=lambda owner: owner.__name__
)
def test_public_classes_have_an_example(owner):
    assert ">>>" in (owner.__doc__ or "")
