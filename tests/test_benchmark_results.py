"""What a results file says of the run that made it."""

import hashlib
import json
import math
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from modeling_merit.processing.benchmark import results
from modeling_merit.processing.benchmark.results import (
    data_fingerprint,
    git_commit,
    provenance,
    update_rows,
    write_json,
)

RESULTS = Path(__file__).resolve().parent.parent / "results"


def git(folder, *words):
    user = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *user, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_commit_of_clean_and_changed_code(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("one")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == head[:12]
    (tmp_path / "untracked.txt").write_text("a result")
    assert git_commit(tmp_path) == head[:12]
    (tmp_path / "code.py").write_text("two")
    assert git_commit(tmp_path) == f"{head[:12]}-dirty"


def test_no_commit_outside_a_repository_or_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert git_commit(tmp_path) is None


def test_fingerprint_is_the_hash_of_the_bytes():
    arrays = [np.arange(6, dtype=np.int16).reshape(2, 3), np.ones((2, 3))]
    expected = hashlib.sha256(arrays[0].tobytes() + arrays[1].tobytes()).hexdigest()[:16]
    assert data_fingerprint(arrays) == data_fingerprint(iter(arrays)) == expected
    assert data_fingerprint([arrays[0][:, ::2]]) == data_fingerprint([arrays[0][:, ::2].copy()])
    assert data_fingerprint(arrays[::-1]) != expected
    arrays[0][0, 0] += 1
    assert data_fingerprint(arrays) != expected


def test_provenance(monkeypatch):
    monkeypatch.setattr("sys.argv", ["examples/pretrain.py", "--data_dir", "my data"])
    found = provenance(seed=3, records=7)
    assert found["command"] == "python examples/pretrain.py --data_dir 'my data'"
    assert (found["seed"], found["records"]) == (3, 7)
    assert set(found["versions"]) == {"python", *results.PACKAGES}
    assert found["versions"]["numpy"] == np.__version__
    monkeypatch.setattr(results, "git_commit", lambda folder: str(folder))
    assert provenance()["commit"].endswith("examples")


def test_json_is_readable_and_finite(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(path, {"loss": 0.5, "text": "Q–T-Zeit verlängert"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"loss": 0.5, "text": "Q–T-Zeit verlängert"}
    assert "verlängert" in path.read_text(encoding="utf-8") and path.read_text(encoding="utf-8").endswith("}\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"loss": math.nan})
    assert json.loads(path.read_text(encoding="utf-8"))["loss"] == 0.5


def test_rows_written_at_the_same_time_are_all_kept(tmp_path):
    path = tmp_path / "rows.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: update_rows(path, [{"run": run, "value": 0.5}], ["run"]), range(24)))
    assert {row["run"] for row in json.loads(path.read_text())} == set(range(24))
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_earlier_rows_may_lack_a_field_of_the_key(tmp_path):
    """Their value is known: they are replaced as others are, and say it from then on."""
    path = tmp_path / "rows.json"
    write_json(path, [{"run": "joint", "value": 0.5}, {"run": "masked", "value": 0.4}])
    new = [{"run": "joint", "value": 0.6, "split": split} for split in ("test", "validation")]
    update_rows(path, new, ("run", "split"), absent={"split": "test"})
    assert json.loads(path.read_text()) == [new[0], {"run": "masked", "value": 0.4, "split": "test"}, new[1]]


@pytest.mark.parametrize("field", ["value", "difference"])
def test_rows_whose_interval_excludes_their_value_are_refused(tmp_path, field):
    row = {"run": "joint", field: 0.5, "ci_low": 0.4, "ci_high": 0.6}
    update_rows(tmp_path / "rows.json", [row, {"run": "masked", field: 0.1, "ci_low": None}], ["run"])
    with pytest.raises(ValueError, match="holds its value"):
        update_rows(tmp_path / "rows.json", [row | {"ci_low": 0.51}], ["run"])
    assert json.loads((tmp_path / "rows.json").read_text())[0] == row


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_recorded_interval_holds_its_value(path):
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows if isinstance(rows, list) else []:
        if row.get("ci_low") is not None:
            assert row["ci_low"] <= row.get("difference", row.get("value")) <= row["ci_high"], row
