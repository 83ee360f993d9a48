"""Marks the deviations, each with its reason, and prints the counts per class."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from deviations import DEVIATIONS  # noqa: E402

COLUMNS = {"passed": "passed", "failed": "failed", "error": "failed", "xfailed": "deviations", "skipped": "skipped"}

# Those that the suites set.
MARKERS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "is_training_test",
    "torch_compile_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: set by the suites of transformers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = getattr(item, "originalname", None) or item.name
        reasons = [rules[name] for rules in DEVIATIONS.get(getattr(item.cls, "__name__", ""), []) if name in rules]
        if reasons:  # strict: one that passes has to leave the list
            item.add_marker(pytest.mark.xfail(reason=reasons[0], strict=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter] = {}
    for outcome, column in COLUMNS.items():
        for report in terminalreporter.stats.get(outcome, []):
            if len(parts := report.nodeid.split("::")) == 3:
                counts.setdefault(parts[1], Counter())[column] += 1
    columns = list(dict.fromkeys(COLUMNS.values()))
    terminalreporter.section("conformance")
    terminalreporter.write_line(f"{'class':44}" + "".join(f"{column:>12}" for column in columns))
    for name, found in sorted(counts.items()):
        terminalreporter.write_line(f"{name:44}" + "".join(f"{found[column]:12}" for column in columns))
