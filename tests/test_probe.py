"""`merit-ecg probe`: from a table of files to a classifier with the probabilities of the probe."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ecg_tables import write_table
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tiny_models import build, merit_config
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor

from modeling_merit import MeritFeatureExtractor, MeritForEcgClassification, MeritModel, MeritProcessor
from modeling_merit.processing import inference, read_ecg
from modeling_merit.processing.benchmark.prompts import load_prompts
from modeling_merit.processing.cli import main
from modeling_merit.processing.data.simulation import CONDITIONS, simulate_ecg
from modeling_merit.processing.inference import embed_ecgs, embed_prompts, load_checkpoint, score_prompts
from modeling_merit.processing.metrics.classification import auroc
from modeling_merit.processing.probing.cross_validation import cross_validate, fit_classifier, patient_folds
from modeling_merit.processing.probing.logistic_probe import logistic_probe
from modeling_merit.processing.probing.zero_shot_prior import zero_shot_weights


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_tokenizer):
    """A folder with `table.csv` and its files, and a tiny checkpoint in `model`."""
    folder = tmp_path_factory.mktemp("probe")
    write_table(folder)
    build(MeritModel, merit_config(ecg={"hidden_sizes": [8, 32]})).save_pretrained(folder / "model")
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder / "model")
    return folder


def probe(work, out, *options, table="table.csv"):
    arguments = (work / table, "--model", work / "model", "--out", out, "--resamples", 50, *options)
    return main(["probe", *map(str, arguments)])


ROOT = Path(__file__).resolve().parent.parent
LABELS = ("--label-columns", "AF", "LBBB")
PATIENT = ("--patient-column", "patient")


def saved_probabilities(out, files):
    model, processor = MeritForEcgClassification.from_pretrained(out), AutoProcessor.from_pretrained(out)
    with torch.no_grad():
        return np.concatenate(
            [model(**processor(ecg=read_ecg(file), return_tensors="pt")).logits.sigmoid().numpy() for file in files]
        )


def test_the_saved_classifier_gives_the_probabilities_of_the_probe(work, tmp_path, capsys):
    assert probe(work, tmp_path / "out", *LABELS, *PATIENT, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert (results["files"], results["patients"], results["classes"]["AF"]["positives"]) == (60, 30, 20)
    assert results == json.loads((tmp_path / "out" / "probe_results.json").read_text())
    table = pd.read_csv(work / "table.csv")
    labels, files = table[["AF", "LBBB"]].to_numpy(), [work / path for path in table.path]

    encoder, processor = (
        AutoModel.from_pretrained(work / "model").ecg_model,
        AutoProcessor.from_pretrained(work / "model"),
    )
    with torch.no_grad():
        features = np.concatenate(
            [encoder(**processor(ecg=read_ecg(file), return_tensors="pt")).pooler_output.numpy() for file in files]
        )
    expected = fit_classifier(features, labels, results["c"]).probabilities(features)
    got = saved_probabilities(tmp_path / "out", files)
    assert np.abs(got - expected).max() < 1e-4
    reference = LogisticRegression(C=results["c"], tol=1e-8, max_iter=5000)
    scaled = StandardScaler().fit_transform(features)
    for column in range(2):
        assert (
            np.abs(reference.fit(scaled, labels[:, column]).predict_proba(scaled)[:, 1] - got[:, column]).max() < 1e-3
        )

    again = cross_validate(features, labels, table.patient, n_resamples=50)
    for name, interval in again.intervals.items():
        assert results[name]["value"] == pytest.approx(interval.value, abs=1e-3)
        assert results[name]["low"] <= results[name]["value"] <= results[name]["high"]


def test_what_is_saved(work, tmp_path, capsys):
    assert probe(work, tmp_path / "out", *LABELS, *PATIENT) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "probe_results.json").read_text())
    assert "60 files of 30 patients" in printed and "not a medical device" in printed
    config = MeritForEcgClassification.from_pretrained(tmp_path / "out").config
    assert config.id2label == {0: "AF", 1: "LBBB"} and config.label2id == {"AF": 0, "LBBB": 1}
    assert config.problem_type == "multi_label_classification"
    assert config.thresholds == [one["threshold"] for one in results["classes"].values()]
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path / "out"), MeritFeatureExtractor)
    assert AutoModel.from_pretrained(tmp_path / "out").config.id2label == {0: "AF", 1: "LBBB"}
    card = (tmp_path / "out" / "README.md").read_text()
    auroc_of_af = results["classes"]["AF"]["auroc"]["value"]
    assert f"| AF | 20 | {auroc_of_af:.3f} [" in card and "not a medical device" in card


def test_names_of_classes_in_one_column(work, tmp_path):
    assert probe(work, tmp_path / "out", "--label-columns", "finding", *PATIENT) == 0
    config = MeritForEcgClassification.from_pretrained(tmp_path / "out").config
    assert list(config.id2label.values()) == ["atrial_fibrillation", "left_bundle_branch_block"]
    assert probe(work, tmp_path / "two", *LABELS, *PATIENT) == 0
    one, two = (json.loads((tmp_path / name / "probe_results.json").read_text()) for name in ("out", "two"))
    assert one["macro_auroc"] == two["macro_auroc"]


def test_bad_rows_are_refused_or_listed(work, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(work, folder)
    (folder / "ecgs" / "002.npz").write_bytes(b"damaged")
    table = pd.read_csv(folder / "table.csv", dtype=str)
    table.loc[5, "AF"] = ""
    table.loc[7, "path"] = "ecgs/absent.edf"
    table.to_csv(folder / "table.csv", index=False)
    assert probe(folder, tmp_path / "out", *LABELS, *PATIENT) == 2
    assert "ecgs/002.npz" in (message := capsys.readouterr().err) and "--on-error skip" in message
    assert not (tmp_path / "out").exists()
    assert probe(folder, tmp_path / "out", *LABELS, *PATIENT, "--on-error", "skip") == 1
    listed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed:")]
    assert len(listed) == 3
    assert "ecgs/002.npz" in listed[0] and "blank" in listed[1] and "There is no file" in listed[2]
    assert json.loads((tmp_path / "out" / "probe_results.json").read_text())["files"] == 57


@pytest.mark.parametrize(
    "options, message",
    [
        (["--label-columns", "AF", "absent"], "Expected the column absent in table.csv"),
        (["--label-columns", "AF", "report"], "Expected 0 or 1 in every label column"),
        ([*LABELS, "--folds", "2"], "--folds of at least 3"),
        ([*LABELS, "--resamples", "-1"], "--resamples of at least 2, got -1"),
        ([*LABELS, "--path-column", "report"], "There is no file|more than once"),
    ],
)
def test_wrong_options_are_one_line(work, tmp_path, capsys, options, message):
    assert probe(work, tmp_path / "out", *options, *PATIENT) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("merit-ecg: ") and any(part in last for part in message.split("|"))


def test_numbers_that_become_classes_are_noted(work, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference, "load_checkpoint", lambda *args, **kwargs: pytest.fail("loaded"))
    table = pd.read_csv(work / "table.csv")
    table["score"] = np.arange(len(table)) // 2 % 3
    table.assign(score=lambda t: t["score"].where(t["score"] < 2, 700)).to_csv(work / "numbers.csv", index=False)
    with pytest.raises(pytest.fail.Exception):
        probe(work, tmp_path / "out", "--label-columns", "score", *PATIENT, table="numbers.csv")
    assert "numbers in 'score' are taken as names of the classes 0, 1, 700" in capsys.readouterr().err


def test_a_class_of_too_few_patients_is_named(work, tmp_path, capsys):
    table = pd.read_csv(work / "table.csv")
    table["rare"] = [1, 1, 1, *[0] * (len(table) - 3)]
    table.to_csv(work / "rare.csv", index=False)
    assert probe(work, tmp_path / "out", "--label-columns", "AF", "rare", *PATIENT, table="rare.csv") == 2
    assert "3 patients with class 'rare' and 3 without it, got 2 and 29" in capsys.readouterr().err


def test_more_folds_than_patients_of_any_class_are_refused_before_anything_is_embedded(
    work, tmp_path, capsys, monkeypatch
):
    table = pd.read_csv(work / "table.csv")
    chosen = table["patient"].drop_duplicates().iloc[:4]
    table["AF"] = table["patient"].isin(chosen).astype(int)
    table.to_csv(work / "four.csv", index=False)
    monkeypatch.setattr(inference, "load_checkpoint", lambda *args, **kwargs: pytest.fail("loaded"))
    assert probe(work, tmp_path / "out", "--label-columns", "AF", *PATIENT, table="four.csv") == 2
    assert "got at most 4. Use 4 folds" in capsys.readouterr().err
    labels = np.isin(np.arange(60), [0, 1, 2, 3]).astype(int)[:, None]
    with pytest.raises(ValueError, match="at most 4. Use 4 folds"):
        patient_folds(labels, np.arange(60))
    assert len(set(patient_folds(labels, np.arange(60), n_folds=4)[:4])) == 4


def test_nothing_is_overwritten_unasked(work, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert probe(work, tmp_path / "out", *LABELS) == 2
    assert "exists already" in capsys.readouterr().err
    assert probe(work, tmp_path / "out", *LABELS, "--overwrite") == 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert "every file counts as a patient" in capsys.readouterr().err


def test_folds_keep_patients_together_and_spread_classes():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 80, 400)
    labels = np.stack([patients % 10 == 0, patients % 3 == 0], axis=1).astype(int)
    folds = patient_folds(labels, patients, n_folds=4, seed=1)
    assert all(len(set(folds[patients == patient])) == 1 for patient in set(patients))
    assert min(labels[folds == fold, 0].sum() for fold in range(4)) > 0
    assert not np.array_equal(folds, patient_folds(labels, patients, n_folds=4, seed=2))
    with pytest.raises(ValueError, match="3 folds or more"):
        patient_folds(labels, patients, n_folds=2)


def test_labels_without_a_signal_are_not_predicted():
    """Features that tell the patient but not the label: a probe tested on patients it knows would score high."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(100), 4)
    features = rng.normal(size=(100, 40))[patients] + 0.1 * rng.normal(size=(400, 40))
    labels = rng.integers(0, 2, (100, 1))[patients]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # folds may leave the values of C at different ones
        found = cross_validate(features, labels, patients, n_resamples=50)
    assert 0.35 < found.intervals["macro_auroc"].value < 0.65
    known = fit_classifier(features, labels, c=1.0).probabilities(features)
    assert auroc(labels, known)[0] > 0.8


def test_the_classifier_does_not_depend_on_the_scale_of_the_features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    x[:, 2] = 5.0  # a feature that never changes
    y = (x[:, :1] > 0.3).astype(int)
    one, other = fit_classifier(x, y, 0.1), fit_classifier(100 * x + 7, y, 0.1)
    assert np.allclose(one.probabilities(x), other.probabilities(100 * x + 7), atol=1e-6)
    assert np.allclose(one.probabilities(x), expit(x @ one.weight.T + one.bias))
    with pytest.raises(ValueError, match="records with it and without it"):
        fit_classifier(x, np.ones((200, 1)), 0.1)


PROMPTS = {"AF": ["atrial fibrillation", "vorhofflimmern"], "LBBB": ["left bundle branch block"]}


def test_prompts_are_corrected_and_saved_in_a_linear_head(work, tmp_path, capsys):
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    assert probe(work, tmp_path / "out", *LABELS, *PATIENT, "--prompts", tmp_path / "prompts.json") == 0
    results = json.loads((tmp_path / "out" / "probe_results.json").read_text())
    assert f"prompts counted {results['prior_scale']:g} times" in capsys.readouterr().out
    table = pd.read_csv(work / "table.csv")
    labels, files = table[["AF", "LBBB"]].to_numpy(), [work / path for path in table.path]
    model, processor = load_checkpoint(str(work / "model"))
    features = embed_ecgs(model, processor, [read_ecg(file) for file in files], "pooled").numpy()
    weights = zero_shot_weights(model, embed_prompts(model, processor, PROMPTS), features)
    found = cross_validate(features, labels, table.patient, n_resamples=50, prior=features @ weights.T)
    assert (found.c, found.prior_scale) == (results["c"], results["prior_scale"])
    classifier = fit_classifier(features, labels, found.c, weights, found.prior_scale)
    assert np.abs(saved_probabilities(tmp_path / "out", files) - classifier.probabilities(features)).max() < 1e-4


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("rhythm", "LBBB"),
        ("all", "AF is near AFIB, AFLT, LAFB; LBBB is near CLBBB"),
        ("all", ".json file"),
        ("absent.json", "absent.json"),
        ("one.json", "LBBB"),
    ],
)
def test_prompts_that_do_not_fit_are_one_line(work, tmp_path, monkeypatch, capsys, prompts, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.json").write_text(json.dumps({"AF": "atrial fibrillation"}))
    assert probe(work, tmp_path / "out", *LABELS, *PATIENT, "--prompts", prompts) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed and not (tmp_path / "out").exists()


def test_a_classifier_of_a_strong_penalty_is_the_prior():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(200, 5)) * [1, 2, 3, 4, 5] + 7, rng.normal(size=(2, 5))
    y = (x @ weights.T - (x @ weights.T).mean(0) + 5 * rng.normal(size=(200, 2)) > 0).astype(int)
    scores = x @ weights.T
    strict = fit_classifier(x, y, 1e-9, weights, 2.0).probabilities(x)
    slopes = [np.ptp(logit(column)) / np.ptp(score) for column, score in zip(strict.T, scores.T)]
    np.testing.assert_allclose(slopes, 2 / scores.std(0), rtol=1e-4)
    assert np.abs(strict.mean(0) - y.mean(0)).max() < 1e-4  # the intercept is free
    # The prior is the optimum's centre: with it the log-odds are those of logistic_probe.
    probe = logistic_probe(x, y, x, y, x, (0.01,), [scores] * 3, (1.0,))
    np.testing.assert_allclose(
        fit_classifier(x, y, 0.01, weights, 1.0).probabilities(x), probe.test_probabilities, atol=1e-5
    )


def test_weights_of_prompts_rank_as_the_exact_scores_do():
    """The shipped model, on simulated ECGs: gradients at some stand for others."""
    model, processor = load_checkpoint(str(ROOT / "hub_cards/merit-ecg"))
    ecgs = [simulate_ecg(name, seed=seed) for seed in range(6) for name in CONDITIONS[:6]]
    prompts = embed_prompts(model, processor, load_prompts("rhythm"))
    exact = score_prompts(model, processor, ecgs, load_prompts("rhythm")).score
    pooled = embed_ecgs(model, processor, ecgs, "pooled").numpy()
    scores = pooled @ zero_shot_weights(model, prompts, pooled[:18]).T
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores[18:].T, exact[18:].T)]
    assert np.mean(r) > 0.9
    with pytest.raises(ValueError, match=r"Expected pooled features \(rows, 1920\), got \(36, 5\)"):
        zero_shot_weights(model, prompts, pooled[:, :5])
