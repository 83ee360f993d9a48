"""README.md: its code runs as pasted and prints what it shows; what it names is there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_merit.processing.benchmark.options import OPTIONS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
BLOCKS = [match.groupdict() for match in BLOCK.finditer(README)]
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
MOST_NOT_RUN = 4
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder that looks like a clone to the commands, where they may write."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("hub_cards", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(command: list[str], place: Path) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(command, cwd=place, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def assert_shown(shown: str, printed: str) -> None:
    """Compare word for word, numbers to `TOLERANCE`: other processors round otherwise."""
    assert NUMBER.sub("#", shown).split() == NUMBER.sub("#", printed).split(), f"README shows\n{shown}\ngot\n{printed}"
    for a, b in zip(NUMBER.findall(shown), NUMBER.findall(printed)):
        assert abs(float(a) - float(b)) <= max(TOLERANCE, 0.001 * abs(float(a))), f"{shown}\ngot\n{printed}"


def test_few_blocks_are_not_run_and_each_says_why():
    assert {block["kind"] for block in BLOCKS} == {"python", "text", "console", "bash"}
    for block in BLOCKS:
        assert (block["reason"] is not None) == (block["kind"] == "bash"), block["text"]
        assert block["reason"] is None or len(block["reason"].split()) >= 2
    assert sum(block["kind"] == "bash" for block in BLOCKS) <= MOST_NOT_RUN


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_code_runs_as_pasted_and_prints_what_is_shown(place):
    ran = 0
    for block, after in zip(BLOCKS, [*BLOCKS[1:], {"kind": None}]):
        if block["kind"] == "python":
            shown = after["text"] if after["kind"] == "text" else ""
            assert_shown(shown, run([sys.executable, "-W", "ignore", "-c", block["text"]], place))
            ran += 1
        elif block["kind"] == "console":
            parts = re.split(r"^\$ ", block["text"], flags=re.M)
            assert parts[0] == ""
            for part in parts[1:]:
                command, _, shown = part.partition("\n")
                assert_shown(shown, run(shlex.split(command), place))
                ran += 1
    assert ran == 6 and (place / "explanation.png").stat().st_size > 10_000


def test_options_of_blocks_that_are_not_run_exist():
    seen = 0
    for block in BLOCKS:
        if block["kind"] != "bash":
            continue
        for line in block["text"].replace("\\\n", " ").splitlines():
            script = re.search(r"examples/\w+\.py", line)
            if script:
                source = (ROOT / script[0]).read_text(encoding="utf-8")
                for option in re.findall(r"--(\w+)", line[script.end() :]):
                    assert f'"--{option}"' in source or option in OPTIONS, f"{script[0]} has no --{option}"
                    seen += 1
    assert seen > 15


def test_every_command_and_every_example_is_in_the_table():
    tasks = README.split("## Tasks")[1].split("\n## ")[0]
    commands = [path.stem for path in (ROOT / "processing" / "commands").glob("[a-z]*.py") if path.stem != "common"]
    assert len(commands) >= 10
    for command in commands:
        assert f"`merit-ecg {command} " in tasks, command
    for path in (ROOT / "examples").glob("*.py"):
        assert f"`{path.name}`" in tasks, path.name


def test_links_lead_to_files_and_headings():
    anchors = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in headings()}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (ROOT / target).is_file(), target


def headings() -> list[str]:
    return [line.lstrip("#") for line in README.splitlines() if line.startswith("#")]


def test_pictures_are_small_and_drawn_by_a_command_that_is_shown():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures == ["docs/images/explanation.png"]
    assert (ROOT / pictures[0]).stat().st_size <= 150_000
    assert f'savefig("{Path(pictures[0]).name}"' in "".join(b["text"] for b in BLOCKS if b["kind"] == "python")


def test_the_disclaimer_and_the_place_of_the_results_are_there():
    assert "> **Not a medical device.**" in README
    assert re.search(r"<!-- results -->\n.*<!-- /results -->", README, flags=re.S)


def test_no_error_text_names_a_package_of_an_index_that_is_not_ours():
    paths = [
        path
        for folder in ("modeling_merit", "processing", "examples", "hub_cards", "docs")
        for path in (ROOT / folder).rglob("*")
    ]
    texts = [path for path in paths if path.suffix in (".py", ".md", ".txt")]
    assert len(texts) > 100
    wrong = [
        str(path)
        for path in [*texts, ROOT / "README.md"]
        if re.search(r'pip install "?merit', path.read_text("utf-8"))
    ]
    assert wrong == []
