"""The package that is built holds every module and data file, and its version is stated once."""

import runpy
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def packaging(monkeypatch) -> dict:
    """The arguments that setup.py hands to `setuptools.setup`."""
    handed: dict = {}
    monkeypatch.setattr(setuptools, "setup", handed.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return handed


def test_every_package_is_named(packaging):
    found = {path.parent.relative_to(ROOT / "processing").as_posix() for path in ROOT.glob("processing/*/__init__.py")}
    named = {name.removeprefix("modeling_merit.processing.") for name in packaging["packages"][2:]}
    assert found == named
    assert all((ROOT / folder).is_dir() for folder in packaging["package_dir"].values())


def test_every_file_is_included(packaging):
    included = set()
    for package in packaging["packages"]:
        folder = ROOT / packaging["package_dir"][package]
        for pattern in ("*.py", *packaging["package_data"].get(package, ())):
            included |= set(folder.glob(pattern))
    files = {path for path in ROOT.glob("modeling_merit/*") if path.is_file()}
    files |= {path for path in ROOT.glob("processing/**/*") if path.is_file() and "__pycache__" not in path.parts}
    assert files - included == set()
    assert ROOT / "modeling_merit" / "py.typed" in included


def test_the_version_is_that_of_the_module_and_of_the_citation(packaging):
    assert f'\n__version__ = "{packaging["version"]}"\n' in (ROOT / "modeling_merit" / "__init__.py").read_text()
    assert f"\nversion: {packaging['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_everything_says_the_same_oldest_python(packaging):
    oldest = packaging["python_requires"].removeprefix(">=")
    assert f'target-version = "py{oldest.replace(".", "")}"' in (ROOT / "pyproject.toml").read_text()
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text()
    assert f'python-version: ["{oldest}",' in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert f"Programming Language :: Python :: {oldest}" in packaging["classifiers"]
