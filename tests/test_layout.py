"""Imports point one way: no circle, no import of a higher layer, formats and examples apart from one another."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A module may import its own layer and those before it.
LAYERS = (
    r"processing\.(units|leads|resampling|conditioning|signal_quality|delineation|measurements)",
    r"processing\.(plotting|notebook|record|deidentify)",
    r"modeling_merit\.(\w+_merit|\w+_merit_\w+)|processing\.(feature_extraction_merit|processing_merit|augmentation)",
    r"processing\.(readers|writers)(\..+)?",
    r"processing(\.inspection)?",  # the public names of the package
    r"modeling_merit(\.registration)?",  # the same, and the registration with the Auto classes
    r"processing\.data(\..+)?",
    r"processing\.metrics(\..+)?",
    r"processing\.benchmark(\..+)?",
    r"processing\.probing(\..+)?",
    r"processing\.training(\..+)?",
    r"processing\.(inference|explanation|export|record_sources)",
    r"processing\.(batch_embedding|search)",
    r"processing\.commands(\..+)?",
    r"processing\.cli",
)
TRAVELS = r"modeling_merit\.\w+_merit\w*|processing\.(\w+_merit|leads|units|resampling|conditioning|signal_quality)"

# Modules of processing/readers that are no format of their own, and modules that are parts of one format.
SHARED = {"source", "compressed", "fields", "arrays", "lead_codes", "calibration", "xml_safety"}
PARTS = {
    "scp_huffman": "scp",
    "scp_signal": "scp",
    "wfdb_header": "wfdb_files",
    "wfdb_signals": "wfdb_files",
    "matlab5": "matlab",
    "xli": "sierra",
}


def modules(root: Path) -> dict[str, Path]:
    """File of every module, by name; `processing` is imported as `modeling_merit.processing`."""
    paths = [*root.glob("modeling_merit/*.py"), *root.glob("processing/**/*.py")]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths)}


def imports(root: Path) -> dict[str, set[str]]:
    """Modules that each module imports, at its top, in a function or for typing alone."""
    files = modules(root)
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        full = f"modeling_merit.{name}" if name.split(".")[0] == "processing" else name
        package = full if path.name == "__init__.py" else full.rpartition(".")[0]
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*start, *([node.module] if node.module else [])])
                targets = [f"{base}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                target = target.removeprefix("modeling_merit.") if ".processing" in target else target
                while target and target not in files:
                    target = target.rpartition(".")[0]
                if target and target != name:
                    graph[name].add(target)
    return graph


def layer(module: str) -> int:
    found = [index for index, pattern in enumerate(LAYERS) if re.fullmatch(pattern, module)]
    assert len(found) == 1, f"{module} is in {len(found)} layers: name it in LAYERS."
    return found[0]


def upward(graph: dict[str, set[str]]) -> list[str]:
    return [f"{a} -> {b}" for a, targets in graph.items() for b in sorted(targets) if layer(b) > layer(a)]


GRAPH = imports(ROOT)


def test_there_is_no_circle():
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(GRAPH) > 50


def test_no_module_imports_a_higher_layer():
    assert upward(GRAPH) == []


def test_formats_do_not_import_one_another():
    start = "processing.readers."
    formats = {name for name in GRAPH if name.startswith(start)} - {start + name for name in (*SHARED, "read")}
    wrong = []
    for name in formats:
        for target in GRAPH[name] & (formats | {start + "read"}):
            a, b = (PARTS.get(end, end) for end in (name.removeprefix(start), target.removeprefix(start)))
            wrong += [f"{name} -> {target}"] if a != b else []
    assert wrong == []


def test_what_travels_imports_only_siblings_that_travel():
    travels = {name for name in GRAPH if re.fullmatch(TRAVELS, name)}
    wrong = [
        f"{name} -> {target}"
        for name in travels
        for target in GRAPH[name]
        if target not in travels or target.split(".")[0] != name.split(".")[0]
    ]
    assert wrong == []


def test_no_example_imports_another():
    names = {path.stem for path in ROOT.glob("examples/*.py")}
    for path in ROOT.glob("examples/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not names & set(found), f"{path.name} imports {names & set(found)}"


def test_circles_and_upward_imports_are_seen(tmp_path):
    (tmp_path / "modeling_merit").mkdir()
    (tmp_path / "processing" / "readers").mkdir(parents=True)
    (tmp_path / "processing" / "record.py").write_text("def f():\n    from .readers import edf\n")
    (tmp_path / "processing" / "readers" / "edf.py").write_text("from ..record import f\n")
    (tmp_path / "processing" / "readers" / "__init__.py").write_text("")
    graph = imports(tmp_path)
    assert graph["processing.readers.edf"] == {"processing.record"}
    assert upward(graph) == ["processing.record -> processing.readers.edf"]
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph).static_order())
