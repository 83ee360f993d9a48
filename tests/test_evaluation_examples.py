"""The evaluation scripts from command line to result rows, on a made-up PTB-XL of synthetic ECGs."""

import ast
import importlib.util
import json
import os
import runpy
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.numpy import load_file, save_file
from scipy.special import logit
from script_server import run_script
from tiny_models import build, ecg_config, merit_config
from toy_ptb_xl import write_record

from modeling_merit import (
    MeritEcgModel,
    MeritFeatureExtractor,
    MeritForEcgClassification,
    MeritForPreTraining,
    MeritProcessor,
)
from modeling_merit.processing import EcgRecord
from modeling_merit.processing.benchmark.label_sets import class_names
from modeling_merit.processing.benchmark.tasks import read_predictions
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import SIMILARITY_WEIGHT
from modeling_merit.processing.writers import write_wfdb

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CONDITIONS = (
    "sinus_rhythm",
    "atrial_fibrillation",
    "left_bundle_branch_block",
    "left_ventricular_hypertrophy",
    "inferior_infarction",
    "low_voltage+sinus_tachycardia",
)
WITHOUT_DIAGNOSIS = ("atrial_fibrillation", "low_voltage+sinus_tachycardia")
RECORDS = 180


def write_cohort(folder):
    """A PTB-XL folder: record i is in fold 1 + i % 10, and every fold has every condition three times."""
    rows = []
    for i in range(RECORDS):
        record = simulate_ecg(CONDITIONS[i // 10 % len(CONDITIONS)], seed=i, noise=0.3)
        path = f"records100/00000/{i + 1:05d}_lr"
        microvolts = np.rint(record.signal * 1000).astype(np.int16)
        write_record(folder / path, microvolts, 100)
        rows.append(
            {
                "ecg_id": i + 1,
                "patient_id": 1000 + i // 20 * 10 + i % 10,  # two records each, in one fold
                "age": 40 + i % 40,
                "sex": i // 10 % 2,
                "device": "CS100",
                "recording_date": "1990-01-01 09:17:34",
                "report": record.report,
                "scp_codes": str(record.scp_codes),
                "validated_by_human": i // 10 % 2 == 0,
                "strat_fold": 1 + i % 10,
                "filename_lr": path,
                "filename_hr": path.replace("100", "500"),
            }
        )
    pd.DataFrame(rows).to_csv(folder / "ptbxl_database.csv", index=False)


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_tokenizer):
    """A folder with the cohort in `ptb-xl`, a tiny checkpoint in `model`, and a cache of its own."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_cohort(folder / "ptb-xl")
    torch.manual_seed(0)
    model = MeritForPreTraining(merit_config(ecg={"hidden_sizes": [16, 32]}))
    model.save_pretrained(folder / "model")
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder / "model")
    return folder


def run(work, script, *arguments):
    """Run a script in `work`; returns what it printed."""
    environment = os.environ | {"HF_HOME": str(work / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = run_script(EXAMPLES / script, *arguments, cwd=work, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def load(monkeypatch, script, *arguments):
    """Return a script as a module, to be run in this process with these arguments."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, EXAMPLES / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
    return module


def fail(monkeypatch, capsys, script, *arguments):
    """Run a script in this process, expecting it to refuse; returns its message."""
    module = load(monkeypatch, script, *arguments)
    with pytest.raises((SystemExit, ValueError)) as error:
        module.main()
    return f"{error.value} {capsys.readouterr().err}"


@pytest.fixture
def stand_ins(monkeypatch, tmp_path):
    """Work in a folder with what looks like a model, `m`, and like PTB-XL, `d`, to the parser of a script."""
    for path in (tmp_path / "m" / "config.json", tmp_path / "d" / "ptbxl_database.csv"):
        path.parent.mkdir()
        path.touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("linear_probe.py", ["--model", "m", "--run", "a", "--data_dir"]),
        ("zero_shot.py", ["--model", "m", "--run", "a", "--data_dir"]),
        ("finetune.py", ["--model", "m", "--run", "a", "--output_dir", "o", "--data_dir"]),
        ("baselines.py", ["--baseline", "cnn", "--data_dir"]),
        ("distribution_shift.py", ["--model", "m", "--run", "a", "--data_dir"]),
        ("plot_results.py", ["--predictions", "p", "--data_dir"]),
        ("benchmark_reading.py", ["--data_dir"]),
        ("pretrain.py", ["--data_dir"]),
        ("train_report_generation.py", ["--ecg_model", "m", "--data_dir"]),
        ("evaluate_reports.py", ["--runs", "a=m", "--data_dir"]),
    ],
)
def test_a_wrong_data_folder_is_one_line(stand_ins, monkeypatch, capsys, script, arguments):
    text = fail(monkeypatch, capsys, script, *arguments, "nowhere")
    assert "argument --data_dir: Expected ptbxl_database.csv in data_dir='nowhere'" in text
    assert "Pass data_dir='d'" in fail(monkeypatch, capsys, script, *arguments, ".")


@pytest.mark.parametrize(
    "script, extra", [("linear_probe.py", ["--pooled_features"]), ("zero_shot.py", ["--similarity_weights", "0.1"])]
)
def test_a_comparison_on_fold_9_does_not_overwrite_the_rows_of_results(stand_ins, monkeypatch, capsys, script, extra):
    text = fail(monkeypatch, capsys, script, "--model", "m", "--run", "a", "--data_dir", "d", *extra)
    assert f"Expected an --output of its own with {extra[0]}: results/ptb_xl.json holds rows" in text


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("linear_probe.py", ["--run", "a", "--data_dir", "d", "--model", "{}"]),
        ("train_report_generation.py", ["--ecg_model", "{}"]),
        ("train_report_generation.py", ["--ecg_model", "m", "--language_model", "{}"]),
        ("pretrain.py", ["--text_model", "{}"]),
        ("evaluate_reports.py", ["--runs", "a={}"]),
        ("evaluate_reports.py", ["--runs", "a=m", "--retrieval_model", "{}"]),
        ("information_audit.py", ["--models", "a={}"]),
    ],
)
def test_a_missing_model_is_one_line_after_one_question(stand_ins, monkeypatch, capsys, script, arguments):
    asked = []

    def model_info(self, name, **options):
        asked.append((name, options))
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    text = fail(monkeypatch, capsys, script, *(argument.format("runs/absent") for argument in arguments))
    assert "There is no folder 'runs/absent', and the Hub did not answer" in text
    assert asked == [("runs/absent", {"timeout": 10})]
    text = fail(monkeypatch, capsys, script, *(argument.format("d") for argument in arguments))
    assert "Expected a model in 'd', got a folder without config.json" in text and len(asked) == 1


def test_a_missing_data_set_is_one_line(monkeypatch, capsys, tmp_path):
    def dataset_info(self, name, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    text = fail(monkeypatch, capsys, "pretrain.py", "--dataset", "nobody/nothing", "--output_dir", tmp_path)
    assert "There is no folder 'nobody/nothing', and the Hub did not answer for a data set of that name" in text


def rows_of(work, name, **wanted):
    rows = json.loads((work / "results" / name).read_text())
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def assert_scored(rows, tasks, metrics):
    """One row per task and metric, its value inside its interval and the interval inside [0, 1]."""
    assert sorted((row["task"], row["metric"]) for row in rows) == sorted((t, m) for t in tasks for m in metrics)
    for row in rows:
        assert 0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1, row
        assert row["n"] == (12 if row["task"].endswith("superclass") else 18)  # two conditions have no diagnosis
        assert row["command"].startswith("python ") and row["label_fraction"] == 1.0
    return {(row["task"], row["metric"]): row["value"] for row in rows}


def test_no_script_imports_another():
    scripts = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("*.py")}
    assert len(scripts) >= 10
    for stem, tree in scripts.items():
        nodes = list(ast.walk(tree))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not {name.split(".")[0] for name in names} & {*scripts, "examples", ""}, stem


FOUR = ("macro_auroc", "macro_auprc", "macro_f1_tuned", "macro_f1_at_0.5")


@pytest.mark.slow
def test_linear_probe_of_a_loaded_and_a_random_encoder(work):
    command = ("linear_probe.py", "--model", "model", "--data_dir", "ptb-xl", "--tasks", "superclass", "rhythm")
    probe = (*command, "--output", "results/probe.json", "--cache_dir", "probed", "--run")
    before = (work / "model/model.safetensors").read_bytes()
    run(work, *probe, "loaded")
    run(work, *probe, "random", "--random_init", "--seed", 3)
    few = run(work, *probe, "loaded", "--label_fraction", 0.5)
    assert (work / "model/model.safetensors").read_bytes() == before and "loaded superclass (C " in few
    rows = {run: rows_of(work, "probe.json", run=run) for run in ("loaded", "random")}
    values = {}
    for name, all_rows in rows.items():
        whole = [row for row in all_rows if row["label_fraction"] == 1.0]
        values[name] = assert_scored(whole, ("superclass", "rhythm"), FOUR)
    assert len(rows["loaded"]) == 16
    weights = {run: all_rows[0]["weights"] for run, all_rows in rows.items()}
    assert weights["loaded"] != weights["random"]
    assert {row["seed"] for row in rows["random"]} == {3}
    # Blocks, infarctions and voltages show even in features of random weights.
    assert values["random"]["superclass", "macro_auroc"] > 0.7
    cached = {path.name: load_file(path) for path in (work / "probed").iterdir()}
    assert len(cached) == 2
    pooled = cached[next(name for name in cached if name.startswith(weights["loaded"]))]
    assert pooled["test"].shape == (18, 64)
    record = simulate_ecg(CONDITIONS[0], seed=9, noise=0.3)  # ecg_id 10, the first record of fold 10
    model, extractor = MeritEcgModel.from_pretrained(work / "model"), MeritFeatureExtractor()
    with torch.no_grad():
        first = model(**extractor(record, return_tensors="pt")).pooler_output[0]
    np.testing.assert_allclose(pooled["test"][0], first, rtol=0.01, atol=0.01)  # stored in whole microvolts


@pytest.mark.slow
def test_linear_probe_that_corrects_zero_shot_scores(work):
    command = ("linear_probe.py", "--model", "model", "--data_dir", "ptb-xl", "--tasks", "superclass", "--grid", 0.01)
    run(work, *command, "--run", "guided", "--zero_shot_prior", "--output", "results/guided.json")
    [scale] = {row["prior_scale"] for row in rows_of(work, "guided.json", run="guided")}
    assert scale in (0, 0.5, 1, 2)
    assert_scored(rows_of(work, "guided.json", run="guided"), ("superclass",), FOUR)


@pytest.mark.slow
def test_classical_baseline_and_its_files(work):
    out = run(
        work, "baselines.py", "--baseline", "classical", "--data_dir", "ptb-xl", "--tasks", "superclass", "rhythm"
    )
    values = assert_scored(rows_of(work, "ptb_xl.json", run="classical"), ("superclass", "rhythm"), FOUR)
    # Bundle branch block, voltage and rhythm are what the features measure; 144 records suffice to find them.
    assert values["superclass", "macro_auroc"] > 0.9 and values["rhythm", "macro_auroc"] > 0.9
    assert f"macro_auroc {values['superclass', 'macro_auroc']:.3f}" in out
    predictions = read_predictions(work / "runs/predictions/classical-superclass-1-s0.safetensors")
    assert predictions.classes == class_names("superclass") and predictions.labels.shape == (12, 5)
    diagnosed = [i for i in range(10, RECORDS + 1, 10) if CONDITIONS[(i - 1) // 10 % 6] not in WITHOUT_DIAGNOSIS]
    assert predictions.ecg_ids.tolist() == diagnosed
    about = predictions.run, predictions.task, predictions.label_fraction, predictions.seed
    assert about == ("classical", "superclass", 1.0, 0)
    report = json.loads((work / "runs/predictions/classical-superclass-1-s0.json").read_text())
    assert report["report"]["macro_auroc"] == pytest.approx(values["superclass", "macro_auroc"])
    assert {row["class"] for row in report["report"]["per_class"]} == set(class_names("superclass"))
    assert report["report"]["undefined_classes"] == ["STTC"] and "torch" in report["versions"]
    assert len(list((work / "runs/embeddings").glob("classical-*.safetensors"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("network", "parameters"), [("cnn", "2,387,753"), ("cnn_transformer", "1,098,217")])
def test_supervised_network_learns_the_cohort(work, network, parameters):
    out = run(
        work, "baselines.py", "--baseline", network, "--data_dir", "ptb-xl", "--tasks", "superclass", "rhythm",
        "--epochs", 12, "--batch_size", 16, "--learning_rate", 2e-3,
    )  # fmt: skip
    values = assert_scored(rows_of(work, "ptb_xl.json", run=f"supervised_{network}"), ("superclass", "rhythm"), FOUR)
    assert values["superclass", "macro_auroc"] > 0.8 and values["rhythm", "macro_auroc"] > 0.8
    assert f"{network} of {parameters} parameters" in out


@pytest.mark.slow
def test_finetune_saves_a_classifier_that_predicts_what_was_scored(work):
    run(
        work, "finetune.py", "--model", "model", "--data_dir", "ptb-xl", "--run", "tuned", "--output_dir", "tuned",
        "--tasks", "superclass", "--epochs", 3, "--batch_size", 24, "--crop_seconds", 10, "--mixed_precision", "no",
    )  # fmt: skip
    assert_scored(rows_of(work, "ptb_xl.json", run="tuned"), ("superclass",), FOUR)
    results = json.loads((work / "tuned/finetuning_results.json").read_text())
    curve = [epoch["validation_macro_auroc"] for epoch in results["curve"]]
    assert results["best_epoch"] == int(np.argmax(curve)) and len(curve) == 3
    assert results["curve"][-1]["train_loss"] < results["curve"][0]["train_loss"]
    model = MeritForEcgClassification.from_pretrained(work / "tuned").eval()
    assert list(model.config.id2label.values()) == class_names("superclass")
    predictions = read_predictions(work / "runs/predictions/tuned-superclass-1-s0.safetensors")
    record = simulate_ecg(CONDITIONS[0], seed=9, noise=0.3)  # ecg_id 10, the first record of fold 10
    with torch.no_grad():
        logits = model(torch.from_numpy(MeritFeatureExtractor().prepare(record.signal))[None]).logits
    np.testing.assert_allclose(logits.sigmoid().numpy()[0], predictions.probabilities[0], atol=1e-4)


@pytest.mark.slow
def test_parts_of_the_pooled_feature(work):
    config = json.loads((work / "model/config.json").read_text())
    config["ecg_config"] |= {"pooler_stages": 2, "pooler_largest": True}
    shutil.copytree(work / "model", work / "two_stages")
    (work / "two_stages/config.json").write_text(json.dumps(config))
    command = ("linear_probe.py", "--data_dir", "ptb-xl", "--tasks", "superclass", "--grid", 1, "--model")
    run(work, *command, "two_stages", "--run", "x", "--pooled_features", "--output", "parts.json")
    parts = json.loads((work / "parts.json").read_text())["macro_auroc_fold_9"]
    sizes = {"last 1 stages": 64, "last 2 stages": 96, "last 1 stages, largest of last 1": 96}
    sizes |= {"last 2 stages, largest of last 1": 128, "last 2 stages, largest of last 2": 144}
    assert {name: part["features"] for name, part in parts.items()} == sizes
    assert all(0.5 < part["superclass"] <= 1 for part in parts.values())
    assert not (work / "runs/predictions/x-superclass-1-s0.safetensors").exists()  # fold 10 is left alone
    run(work, *command, "two_stages", "--run", "last", "--last_stage")
    run(work, *command, "model", "--run", "plain")
    last, plain = (
        read_predictions(work / f"runs/predictions/{x}-superclass-1-s0.safetensors") for x in ("last", "plain")
    )
    np.testing.assert_allclose(last.probabilities, plain.probabilities, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pilots_are_measured_at_a_budget_on_fold_9(work):
    command = ("pilot.py", "--data_dir", "ptb-xl", "--tasks", "superclass", "--grid", 1, "--budget_seconds", 2)
    recipe = ("--size", "tiny", "--min_reports", 3, "--batch_size", 16, "--keep_in_memory")
    out = run(work, *command, "--run", "joint", "--output", "pilots.json", "--", *recipe)
    [row] = json.loads((work / "pilots.json").read_text())
    assert row["run"] == "joint" and row["options"] == [str(word) for word in recipe]
    assert row["steps"] == pytest.approx(2 / row["step_seconds"], rel=0.05) and f"{row['steps']} steps" in out
    assert row["epochs"] == pytest.approx(row["steps"] * 16 / 144, abs=0.01) and row["validation"]["loss"] > 0
    assert row["macro_auroc_fold_9"].keys() == {"superclass", "zero_shot_superclass"}


@pytest.mark.slow
def test_finetune_can_begin_with_the_probe(work):
    run(
        work, "finetune.py", "--model", "model", "--data_dir", "ptb-xl", "--run", "from_probe", "--output_dir",
        "from_probe", "--tasks", "superclass", "--epochs", 1, "--crop_seconds", 10, "--head", "probe", "--mixup", 0.3,
        "--learning_rate", 1e-9, "--dropout", 0.5, "--drop_path", 0.25, "--keep_in_memory", "--calibrate",
        "--freeze_normalization",
    )  # fmt: skip
    values = assert_scored(rows_of(work, "ptb_xl.json", run="from_probe"), ("superclass",), FOUR)
    assert values["superclass", "macro_auroc"] > 0.8  # at this rate a random head stays one
    config = MeritForEcgClassification.from_pretrained(work / "from_probe").config
    assert (config.hidden_dropout, config.drop_path_rate, config.calibrated) == (0.5, 0.25, True)
    results = json.loads((work / "from_probe/finetuning_results.json").read_text())
    start, trained = results["curve"]  # the probe itself may be chosen
    assert (start["epoch"], start["train_loss"], trained["epoch"]) == (-1, None, 0) and trained["train_loss"] > 0
    assert results["best_epoch"] == (0 if trained["superclass"] > start["superclass"] else -1)
    # Neither weights nor statistics have moved.
    assert trained["superclass"] == pytest.approx(start["superclass"], abs=1e-3) and start["superclass"] > 0.8
    errors = results["calibration_error"]["superclass"]
    assert list(errors["before"]) == list(errors["after"]) == class_names("superclass")
    # The saved head gives the calibrated probabilities that were scored.
    command = ("score_classifier.py", "--model", "from_probe", "--data_dir", "ptb-xl", "--run", "scored", "--task")
    out = run(work, *command, "superclass")
    expected = np.nanmean(list(errors["after"].values()))
    assert float(out.split()[-1]) == pytest.approx(expected, abs=5e-3)  # a bin apart
    scored, tuned = (
        read_predictions(work / f"runs/predictions/{name}-superclass-1-s0.safetensors")
        for name in ("scored", "from_probe")
    )
    np.testing.assert_allclose(scored.probabilities, tuned.probabilities, atol=1e-4)
    with pytest.raises(AssertionError, match="Expected a classifier of the classes of rhythm"):
        run(work, *command, "rhythm")


@pytest.mark.parametrize("labels", [3, 2])
def test_finetuning_a_classifier_begins_with_a_new_head(monkeypatch, tmp_path, labels):
    config = ecg_config(num_labels=3, calibrated=True)
    former = build(MeritForEcgClassification, config)
    former.save_pretrained(tmp_path)
    args = Namespace(model=str(tmp_path), dropout=0.25, drop_path=None, from_scratch=False)
    names = [f"class {number}" for number in range(labels)]
    model = load(monkeypatch, "finetune.py").build(args, [Namespace(name="labels", classes=names)])
    assert model.classifier.out_features == labels and list(model.config.id2label.values()) == names
    assert labels != 3 or not torch.equal(model.classifier.weight, former.classifier.weight)
    assert not model.config.calibrated and model.dropout.p == 0.25
    found, expected = model.ecg_model.state_dict(), former.ecg_model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "d,m"], "Expected one data set, got d,m"),
        (["--dataset", "ptb_xl:m"], "Expected ptbxl_database.csv in data_dir='m'"),
        (["--data_dir", "d", "--seconds", "5"], "records of PTB-XL are 10 s long, got --seconds 5"),
        (["--data_dir", "d", "--crop_seconds", "5", "--calibrate"], "Expected --crop_seconds 10"),
    ],
)
def test_finetune_refuses_what_it_would_not_do(stand_ins, monkeypatch, capsys, arguments, message):
    text = fail(monkeypatch, capsys, "finetune.py", "--model", "m", "--run", "a", "--output_dir", "o", *arguments)
    assert message in text


def test_finetune_takes_the_folder_of_ptb_xl_behind_a_colon(stand_ins, monkeypatch):
    arguments = ("--model", "m", "--run", "a", "--output_dir", "o", "--dataset", "ptb_xl:d")
    args = load(monkeypatch, "finetune.py", *arguments).parse_args()
    assert (args.dataset, args.data_dir) == ("ptb_xl", "d")


@pytest.mark.slow
def test_finetune_from_scratch_stops_early(work):
    run(
        work, "finetune.py", "--model", "model", "--from_scratch", "--data_dir", "ptb-xl", "--run", "scratch",
        "--output_dir", "scratch", "--tasks", "superclass", "rhythm", "--epochs", 30, "--patience", 1,
        "--learning_rate", 1e-6, "--mixed_precision", "bf16", "--lead_dropout", 0.5, "--label_fraction", 0.5,
    )  # fmt: skip
    rows = rows_of(work, "ptb_xl.json", run="scratch")
    assert {(row["task"], row["label_fraction"]) for row in rows} == {("superclass", 0.5), ("rhythm", 0.5)}
    curve = json.loads((work / "scratch/finetuning_results.json").read_text())["curve"]
    assert len(curve) < 30  # at such a rate nothing improves for long
    labels = MeritForEcgClassification.from_pretrained(work / "scratch").config.id2label
    assert labels[0] == "superclass:CD" and labels[5] == "rhythm:AFIB"


@pytest.mark.slow
def test_zero_shot_with_own_and_given_prompts(work):
    command = ("zero_shot.py", "--model", "model", "--data_dir", "ptb-xl")
    run(work, *command, "--run", "joint", "--tasks", "superclass", "all")
    three, tasks = FOUR[:3], ("zero_shot_superclass", "zero_shot_all")
    own = assert_scored(rows_of(work, "ptb_xl.json", run="joint"), tasks, three)
    (work / "prompts.txt").write_text(
        "# one line per prompt\n" + "".join(f"{name}: the sign {name}\n" for name in class_names("superclass"))
    )
    run(work, *command, "--run", "given", "--tasks", "superclass", "--prompts", "prompts.txt")
    given = assert_scored(rows_of(work, "ptb_xl.json", run="given"), tasks[:1], three)
    assert given["zero_shot_superclass", "macro_auroc"] != own["zero_shot_superclass", "macro_auroc"]
    entry = rows_of(work, "ptb_xl.json", run="given")[0]
    assert entry["prompts"] == "prompts.txt" and len(entry["weights"]) == 16
    scores = load_file(work / "runs/predictions/joint-zero_shot_all-1-s0.safetensors")["probabilities"]
    assert scores.shape == (18, 71) and scores.std() > 0
    found = logit(scores.astype(np.float64))
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-3)  # relative to the other classes
    run(work, *command, "--run", "cosine", "--tasks", "all", "--score", "cosine_similarity")
    cosines = load_file(work / "runs/predictions/cosine-zero_shot_all-1-s0.safetensors")["probabilities"]
    cosines = logit(cosines.astype(np.float64))
    relative = cosines - cosines.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, SIMILARITY_WEIGHT / 0.07 * relative, atol=1e-3)  # a model without words


@pytest.mark.slow
def test_distribution_shift_and_transfer(work, tmp_path):
    challenge, cpsc = tmp_path / "challenge", tmp_path / "cpsc"
    codes = {"sinus_rhythm": ("426783006", 1), "atrial_fibrillation": ("164889003", 2)}
    reference = ["Recording,First_label,Second_label,Third_label"]
    for i in range(40):
        condition = list(codes)[i % 2]
        snomed, number = codes[condition]
        signal = simulate_ecg(condition, seed=500 + i, sampling_rate=500)
        record = EcgRecord(signal.signal, 500, signal.leads, record_id=f"A{i:04d}")
        for folder in (challenge, cpsc):
            folder.mkdir(exist_ok=True)
            header = write_wfdb(record, folder)
        (challenge / header.name).write_text(header.read_text() + f"#Dx: {snomed}\n")
        reference.append(f"A{i:04d},{number},,")
    (challenge / "A0000.dat").write_bytes(b"short")
    (cpsc / "REFERENCE.csv").write_text("\n".join(reference) + "\n")
    out = run(
        work, "distribution_shift.py", "--model", "model", "--data_dir", "ptb-xl", "--run", "joint",
        "--tasks", "superclass", "--corruptions", "gain", "lead_drop", "lead_absent", "--plot", "curves.png",
        "--external", f"challenge2021={challenge}", f"cpsc2018={cpsc}", "--reverse", "--n_resamples", 100,
    )  # fmt: skip
    rows = rows_of(work, "shift.json", metric="macro_auroc")
    curve = {(row["corruption"], row["severity"]): row for row in rows}
    assert len(curve) == 16 and curve["gain", 4]["level"] == 2.0 and curve["lead_absent", 5]["level"] == 9
    assert all(0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1 and row["n"] == 12 for row in rows)
    assert curve["lead_drop", 5]["value"] != curve["lead_absent", 5]["value"]
    assert (work / "curves.png").read_bytes()[:4] == b"\x89PNG"
    transfer = {(row["source"], row["target"], row["concept"]): row for row in rows_of(work, "transfer.json")}
    assert "left out A0000.hea" in out and transfer["ptb_xl", "challenge2021", "mean"]["n"] == 39
    flutter = transfer["ptb_xl", "challenge2021", "atrial flutter"]
    assert flutter["value"] is None and flutter["positives"] == 0
    for source, target in (("ptb_xl", "cpsc2018"), ("cpsc2018", "ptb_xl"), ("challenge2021", "ptb_xl")):
        fibrillation = transfer[source, target, "atrial fibrillation"]
        assert fibrillation["positives"] == (20 if source == "ptb_xl" else 3)
        assert 0 <= fibrillation["ci_low"] <= fibrillation["value"] <= fibrillation["ci_high"] <= 1


@pytest.mark.slow
def test_information_audit(work):
    run(
        work, "information_audit.py", "--models", "joint=model", "--num_records", 600, "--n_resamples", 200,
        "--output", "results/audit.json",
    )  # fmt: skip
    rows = {(row["run"], row["factor"], row["metric"]): row for row in rows_of(work, "audit.json")}
    assert {run for run, _, _ in rows} == {"report", "random", "joint"}
    # The report names the rhythm and so a part of the rate, and nothing of what is left of it.
    assert rows["report", "heart_rate", "r2"]["value"] > 0.3
    assert abs(rows["report", "heart_rate", "r2_given_report"]["value"]) < 0.1
    assert rows["joint", "amplitude", "r2"]["value"] > 0.3
    assert ("report", "AFIB", "auroc") not in rows
    assert (
        0.5 < rows["joint", "AFIB", "auroc"]["value"] <= 1 and rows["joint", "AFIB", "auroc"]["known_from"] == "report"
    )
    known = rows["joint", "pr_interval", "r2"]["n"]
    assert known < rows["joint", "qrs_width", "r2"]["n"]  # fibrillation has no PR interval
    assert all(row["value"] >= 0 for key, row in rows.items() if key[2].startswith("mi"))


@pytest.fixture(scope="module")
def prediction_files(tmp_path_factory):
    """Two runs on 300 records of 200 patients, `good` better than `poor`, and other files that do not go with them."""
    folder = tmp_path_factory.mktemp("predictions")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (300, 2)).astype(np.int8)
    order = rng.permutation(300)
    arrays = {"ecg_id": np.arange(300), "patient_id": np.arange(300) // 3 * 2, "labels": labels}
    for name, share, rows in (("good", 0.5, slice(None)), ("poor", 0.1, order), ("short", 0.1, slice(299))):
        chosen = {key: np.ascontiguousarray(value[rows]) for key, value in arrays.items()}
        scores = share * chosen["labels"] + (1 - share) * rng.random(chosen["labels"].shape)
        chosen |= {"probabilities": scores.astype(np.float32), "thresholds": np.full(2, 0.5, np.float32)}
        save_file(chosen, folder / f"{name}-rhythm-1-s0.safetensors", metadata={"classes": '["AFIB", "SR"]'})
    save_file(chosen, folder / "other-rhythm-1-s0.safetensors", metadata={"classes": '["SR", "AFIB"]'})
    save_file(chosen, folder / "nameless.safetensors", metadata={"classes": '["AFIB", "SR"]'})
    save_file({"labels": labels}, folder / "empty.safetensors")
    return folder


@pytest.mark.slow
def test_compare_aligns_rows_and_tests_the_difference(work, prediction_files):
    good, poor = (prediction_files / f"{name}-rhythm-1-s0.safetensors" for name in ("good", "poor"))
    out = run(work, "compare.py", "--a", good, poor, "--b", poor, good, "--n_resamples", 200)
    rows = {(row["run_a"], row["metric"]): row for row in rows_of(work, "paired.json")}
    assert len(rows) == 8 and "good - poor, rhythm, 300 records" in out
    forward, backward = rows["good", "macro_auroc"], rows["poor", "macro_auroc"]
    assert forward["run_b"] == "poor" and forward["task"] == "rhythm" and forward["n"] == 300
    assert forward["value_a"] == pytest.approx(1.0) and 0.5 < forward["value_b"] < 0.75
    assert forward["ci_low"] > 0 and forward["p"] == pytest.approx(1 / 201)
    assert backward["difference"] == pytest.approx(-forward["difference"])
    assert forward["ci_low"] <= forward["difference"] <= forward["ci_high"]


def test_pairs_with_another_task_have_rows_of_their_own(monkeypatch, tmp_path, prediction_files):
    good, poor = (prediction_files / f"{name}-rhythm-1-s0.safetensors" for name in ("good", "poor"))
    other = tmp_path / "poor-zero_shot_rhythm-1-s0.safetensors"
    shutil.copy(poor, other)
    out = tmp_path / "paired.json"
    chosen = ("--metrics", "macro_auroc", "--n_resamples", 20, "--output", out)
    load(monkeypatch, "compare.py", "--a", good, good, "--b", poor, other, *chosen).main()
    assert [row["task_b"] for row in json.loads(out.read_text())] == ["rhythm", "zero_shot_rhythm"]


@pytest.mark.parametrize("given", ["10", "0", "-0.1", "nan", "a tenth"])
def test_a_fraction_of_labels_is_one(monkeypatch, capsys, given):
    said = fail(monkeypatch, capsys, "linear_probe.py", "--label_fraction", given)
    assert f"above 0 and up to 1, as 0.1 for a tenth, got '{given}'" in said


def test_compare_refuses_what_cannot_be_compared(monkeypatch, capsys, prediction_files):
    def refusal(a, b):
        paths = (prediction_files / f"{name}.safetensors" for name in (a, b))
        return fail(monkeypatch, capsys, "compare.py", "--a", next(paths), "--b", next(paths))

    good = "good-rhythm-1-s0"
    assert "1 rows without" in refusal(good, "short-rhythm-1-s0")
    assert "Expected the same classes" in refusal(good, "other-rhythm-1-s0")
    assert "Rename it" in refusal(good, "nameless")
    assert "without ecg_id" in refusal(good, "empty")
    assert "Run linear_probe.py first" in refusal(good, "absent")


def test_tables_of_rows_and_of_pairs(monkeypatch, capsys, tmp_path):
    def row(seed, value, **names):
        about = {"task": "all", "metric": "macro_auroc", "label_fraction": 1.0, "seed": seed}
        return about | names | {"value": value, "difference": value, "ci_low": value - 0.01, "ci_high": value + 0.02}

    def table(rows, *arguments):
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        monkeypatch.setattr("sys.argv", ["tabulate_results.py", str(tmp_path / "rows.json"), *arguments])
        runpy.run_path(str(EXAMPLES / "tabulate_results.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    rows = [row(0, 0.8, run="joint"), row(1, 0.9, run="joint"), row(0, 0.7, run="masked", task="form")]
    for each in rows:
        del each["difference"]
    assert table(rows)[0] == "| macro_auroc, 100% of the labels [95 % interval over patients] | all | form |"
    assert table(rows)[2:] == ["| joint | 0.850 [0.840, 0.870] |  |", "| masked |  | 0.700 [0.690, 0.720] |"]
    of_seeds = table(rows, "--uncertainty", "seeds")
    assert of_seeds[0] == "| macro_auroc, 100% of the labels ± standard deviation over seeds | all |"
    assert of_seeds[2:] == ["| joint | 0.850 ± 0.071 |"]
    assert len(table(rows, "--tasks", "form")) == 3
    prompted = [row(0, 0.6, run="joint", task="zero_shot_form")]
    del prompted[0]["difference"]
    assert table(rows + prompted, "--tasks", "zero_shot_form")[0].startswith("| macro_auroc, zero-shot [")
    pairs = [row(0, 0.02, run_a="joint", run_b="masked"), row(1, 0.03, run_a="joint", run_b="masked")]
    assert table(pairs)[2] == "| joint - masked | +2.5 [+1.5, +4.5] |"
    assert table(pairs, "--uncertainty", "seeds")[2] == "| joint - masked | +2.5 (+2.0, +3.0) |"
    assert table(pairs[:1])[2] == "| joint - masked | +2.0 [+1.0, +4.0] |"
    fewer = [pairs[0] | {"label_fraction_b": 1.0}, pairs[1] | {"label_fraction_b": 0.01}]  # another comparison
    assert [line.split(" | ")[0] for line in table(fewer)[2:]] == [
        "| joint - masked",
        "| joint - masked (1% of the labels)",
    ]
    assert [line.split(" | ")[0] for line in table([pairs[0], pairs[0] | {"task_b": "form"}])[2:]] == [
        "| joint - masked",
        "| joint - masked (form)",
    ]
    with pytest.raises(SystemExit):
        table([rows[0] | {"subgroup": "men"}, rows[0] | {"subgroup": "women"}])
    assert "one row of each seed for joint, all, got several, which differ in subgroup" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        table(rows, "--label_fraction", "0.1")
    assert "There are: macro_auroc at 1." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        table(rows[:1], "--uncertainty", "seeds")
    assert "Expected a run of several seeds, got one seed of each" in capsys.readouterr().err


def test_zero_shot_refuses_incomplete_prompts(stand_ins, monkeypatch, capsys, tmp_path):
    given = tmp_path / "prompts.txt"
    command = (
        "zero_shot.py",
        "--model",
        "m",
        "--data_dir",
        "d",
        "--run",
        "a",
        "--tasks",
        "rhythm",
        "--prompts",
        given,
    )
    given.write_text("SR: sinus rhythm\n")
    assert "got none for AFIB" in fail(monkeypatch, capsys, *command)
    given.write_text("SR sinus rhythm\n")
    assert "`CLASS: prompt` in line 1" in fail(monkeypatch, capsys, *command)
    given = given.with_suffix(".json")
    given.write_text('{"SR": "sinus rhythm"}')
    assert "got none for AFIB" in fail(monkeypatch, capsys, *command[:-1], given)


def test_shift_and_audit_refuse_bad_arguments(stand_ins, monkeypatch, capsys, tmp_path):
    shift = ("distribution_shift.py", "--model", "m", "--data_dir", "d", "--run", "a", "--external")
    assert "got mimic=/nowhere" in fail(monkeypatch, capsys, *shift, "mimic=/nowhere")
    assert "got csn=absent" in fail(monkeypatch, capsys, *shift, "csn=absent")
    assert "Expected --csn_labels, the folder data_split" in fail(monkeypatch, capsys, *shift, "csn=m")
    assert "Expected labelled recordings of cpsc2018 in m" in fail(monkeypatch, capsys, *shift, "cpsc2018=m")
    audit = ("information_audit.py", "--models")
    assert "NAME=CHECKPOINT" in fail(monkeypatch, capsys, *audit, "joint")
    assert "names other than random" in fail(monkeypatch, capsys, *audit, "random=m")


def test_rows_of_a_transfer_are_kept_when_the_next_one_fails(stand_ins, monkeypatch):
    """Each data set takes an hour: what is scored is written."""
    arguments = ("--model", "m", "--data_dir", "d", "--run", "a", "--corruptions", "--external", "cpsc2018=m")
    module = load(monkeypatch, "distribution_shift.py", *arguments, "challenge2021=m")
    splits = ("train", "validation", "test")
    task = Namespace(classes=["SR"], rows=dict.fromkeys(splits, [0, 1]))
    task.labels, task.patient_ids = dict.fromkeys(splits, np.zeros((2, 1))), dict.fromkeys(splits, np.zeros(2))
    row = {"run": "a", "source": "ptb_xl", "concept": "mean", "metric": "macro_auroc", "value": 0.5, "seed": 0}

    def load_external(args, name, *rest):
        if name == "challenge2021":
            raise SystemExit("none can be read")
        return Namespace(name=name, labels=np.zeros((2, 1)))

    for name, stand_in in {
        "load_encoder": lambda *rest: (None, None),
        "load_ptb_xl": lambda folder: {},
        "embed_tables": lambda *rest: (dict.fromkeys(splits, np.zeros((2, 2))), None, None),
        "load_task": lambda *rest: task,
        "find_recordings": lambda *rest: ([], []),
        "load_external": load_external,
        "transfer": lambda args, origin, source, target, rows: [row | {"target": target.name}],
    }.items():
        monkeypatch.setattr(module, name, stand_in)
    with pytest.raises(SystemExit, match="none can be read"):
        module.main()
    assert [row["target"] for row in json.loads(Path("results/transfer.json").read_text())] == ["cpsc2018"]


@pytest.mark.real_data
@pytest.mark.slow
def test_transfer_reads_the_external_recordings(work, data_dir):
    """Every path over the few real recordings there are: headers, struct .mat files, label files of the literature."""
    csn_labels = data_dir.parent / "protocol/merl/finetune/data_split"
    if not csn_labels.is_dir():
        pytest.skip(f"no label files of the literature in {csn_labels}")
    folders = {name: data_dir / "external" / part for name, part in (
        ("challenge2021", "cinc2021"), ("cpsc2018", "cpsc2018_original"), ("csn", "cinc2021/chapman_shaoxing_ningbo"),
    )}  # fmt: skip
    out = run(
        work, "distribution_shift.py", "--model", "model", "--data_dir", "ptb-xl", "--run", "real", "--corruptions",
        "--csn_labels", csn_labels, "--n_resamples", 50,
        "--external", *(f"{name}={folder}" for name, folder in folders.items()),
        "--transfer_output", "results/real.json",
    )  # fmt: skip
    counts = {row["target"]: row["n"] for row in rows_of(work, "real.json", concept="mean")}
    assert counts == {"challenge2021": 33, "cpsc2018": 3, "csn": 6}, out  # the label files list six of the twelve


@pytest.mark.slow
def test_plots_and_subgroups(work):
    ids = np.arange(1, RECORDS + 1)
    labels = np.stack([ids % 2, ids % 3 == 0, np.zeros(RECORDS)], axis=1).astype(np.int8)
    scores = 0.2 + 0.6 * labels.astype(np.float32)
    scores[ids // 10 % 2 == 0, 0] = 0.5  # half of the records, mostly men, tell nothing of the first class
    arrays = {"ecg_id": ids, "patient_id": ids, "labels": labels, "probabilities": scores}
    path = work / "made-rhythm-0.1-s3.safetensors"
    classes = {"classes": '["AFIB", "SR", "PACE"]'}
    save_file(arrays | {"thresholds": np.full(3, 0.5, np.float32)}, path, metadata=classes)
    out = run(
        work, "plot_results.py", "--predictions", path, "--data_dir", "ptb-xl", "--min_records", 30,
        "--n_resamples", 50,
    )  # fmt: skip
    assert (work / "runs/plots/made-rhythm-0.1-s3.png").read_bytes()[:4] == b"\x89PNG"
    assert "made-rhythm-0.1-s3.png: AFIB, SR\n" in out  # no curve without a positive
    rows = {(row["subgroup"], row["level"], row["metric"]): row for row in rows_of(work, "subgroups.json")}
    assert {key[:2] for key in rows} == {
        ("sex", "male"), ("sex", "female"), ("age", "40-54"), ("age", "55-69"), ("age", "70-84"),
        ("device", "CS100"), ("validated_by_human", "True"), ("validated_by_human", "False"),
    }  # fmt: skip
    men, women = (rows["sex", sex, "macro_auroc"] for sex in ("male", "female"))
    assert men["n"] == women["n"] == 90 and men["undefined_classes"] == ["PACE"]
    assert (men["run"], men["task"], men["label_fraction"], men["seed"]) == ("made", "rhythm", 0.1, 3)
    # Of the men one negative in five is told from the positives: AUROC 0.2 + 0.8 / 2 for the first class, else 1.
    assert men["value"] == pytest.approx(0.8) and women["value"] == pytest.approx(1.0)


@pytest.mark.slow
def test_retrieval(work):
    """Records of a condition share a report; fold and weighting are part of a row's name."""
    command = ("retrieval.py", "--model", "model", "--data_dir", "ptb-xl", "--run", "joint", "--n_resamples", 50)
    out = run(work, *command)
    run(work, *command)  # takes the place of the same rows
    rows = rows_of(work, "retrieval.json")
    assert len(rows) == 12 and {row["split"] for row in rows} == {"validation"}
    reports = rows[0]["n_reports"]
    assert rows[0]["n"] == 18 and 6 <= reports <= 18 and f"18 ECGs, {reports} distinct reports" in out
    by_name = {(row["task"], row["queries"], row["metric"]): row for row in rows}
    for task in ("retrieval_report_to_ecg", "retrieval_ecg_to_report"):
        for queries in ("records", "distinct reports"):
            values = [by_name[task, queries, f"recall@{k}"] for k in (1, 5, 10)]
            assert [row["value"] for row in values] == sorted(row["value"] for row in values)
            assert all(0 <= row["ci_low"] <= row["value"] <= row["ci_high"] <= 1 for row in values)
    chance = by_name["retrieval_ecg_to_report", "records", "recall@5"]["chance"]
    assert chance == pytest.approx(min(1, 5 / reports))
