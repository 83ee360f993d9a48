"""The package that is built holds every module and data file, and its version is stated once."""

import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
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


@pytest.mark.slow
def test_sdist_and_wheel_hold_the_package_and_nothing_else(tmp_path):
    def build(kind: str, folder: Path) -> Path:
        """Build as pip does, with the setuptools installed here."""
        code = f"from setuptools import build_meta; print(build_meta.build_{kind}(r'{tmp_path}'))"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        return tmp_path / done.stdout.splitlines()[-1]

    tree = tmp_path / "tree"
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    for name in ("modeling_merit", "processing", "tests", "examples", "hub_cards", "docs"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    modules = {f"modeling_merit/{path.name}" for path in tree.glob("modeling_merit/*") if path.is_file()}
    parts = {path.relative_to(tree).as_posix() for path in tree.glob("processing/**/*") if path.is_file()}

    with tarfile.open(build("sdist", tree)) as archive:
        archive.extractall(tmp_path, filter="data")
        unpacked = tmp_path / archive.getnames()[0]
    in_sdist = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    beside = {name for name in in_sdist - modules - parts if not name.startswith("merit_ecg.egg-info/")}
    assert modules | parts <= in_sdist
    assert beside == {
        *("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "NOTICE", "PKG-INFO", "README.md"),
        *("constraints.txt", "pyproject.toml", "setup.cfg", "setup.py"),
    }

    with zipfile.ZipFile(build("wheel", unpacked)) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert in_wheel == modules | {f"modeling_merit/{name}" for name in parts}
    assert {"modeling_merit/py.typed", "modeling_merit/processing/metrics/statements.json"} <= in_wheel
    assert "modeling_merit/processing/metrics/ecg_report/ecg_report.py" in in_wheel
