"""Fetch the common test suites of transformers, which its source distribution on the package index holds.

    python tests/conformance/fetch.py build/conformance

The files (Apache-2.0) are not part of this repository. The version is that of the installed transformers.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


def fetch(folder: Path) -> Path:
    """Return the folder with the suites, `transformers_tests/`, after fetching it if it is of another version."""
    wanted, suites = version("transformers"), folder / "transformers_tests"
    stamp = suites / "VERSION"
    if stamp.is_file() and stamp.read_text() == wanted:
        return suites
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run(
            [*pip, "--no-binary", ":all:", "--dest", scratch, f"transformers=={wanted}"], check=True, cwd=scratch
        )
        with tarfile.open(next(Path(scratch).glob("transformers-*.tar.gz"))) as archive:
            archive.extractall(scratch, filter="data")
        shutil.rmtree(suites, ignore_errors=True)
        shutil.copytree(Path(scratch) / f"transformers-{wanted}" / "tests", suites)
    (suites / "__init__.py").touch()  # a package of its own name: `tests` is also this repository's
    stamp.write_text(wanted)
    return suites


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where `transformers_tests/` is put")
    print(fetch(parser.parse_args().folder))
