"""Explanations: they add up, depend on the weights, and lie on the QRS of a bundle branch block."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_models import build, ecg_config, merit_config

from modeling_merit import MeritEcgModel, MeritForEcgClassification, MeritModel
from modeling_merit.processing import EcgRecord, MeritFeatureExtractor, MeritProcessor
from modeling_merit.processing.cli import main
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import load_checkpoint, score_prompts
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.writers import write_wfdb

pytest.importorskip("captum")
from modeling_merit.processing.explanation import Explanation, explain, plot_explanation  # noqa: E402

CHECKPOINT = str(Path(__file__).resolve().parent.parent / "hub_cards" / "merit-ecg")
BLOCKS = {"left_bundle_branch_block": "linksschenkelblock", "right_bundle_branch_block": "rechtsschenkelblock"}


@pytest.fixture(scope="module")
def record() -> EcgRecord:
    ecg = simulate_ecg("left_bundle_branch_block", seed=0, duration=5)
    return EcgRecord(ecg.signal, ecg.sampling_rate, ecg.leads)


@pytest.fixture(scope="module")
def classifier() -> MeritForEcgClassification:
    config = ecg_config(problem_type="multi_label_classification")
    config.id2label, config.label2id = {0: "SR", 1: "AFIB", 2: "CLBBB"}, {"SR": 0, "AFIB": 1, "CLBBB": 2}
    torch.manual_seed(0)
    return MeritForEcgClassification(config).eval()


@pytest.fixture(scope="module")
def loaded():
    return load_checkpoint(CHECKPOINT)


def assert_complete(explanation: Explanation) -> None:
    difference = explanation.score - explanation.baseline_score
    assert abs(difference) > 1e-3
    assert explanation.attributions.sum() == pytest.approx(difference, abs=0.02 * abs(difference))
    assert explanation.residual == pytest.approx(difference - explanation.attributions.sum(), abs=1e-12)


def test_attributions_of_a_logit_add_up(classifier, record):
    explanation = explain(classifier, MeritFeatureExtractor(), record, "CLBBB")
    inputs = MeritFeatureExtractor()(record, return_tensors="pt")
    with torch.no_grad():
        logits = classifier(**inputs).logits[0]
    assert (explanation.target, explanation.kind) == ("CLBBB", "logit")
    assert explanation.score == pytest.approx(logits[2].item(), abs=1e-5)
    assert explanation.attributions.shape == (12, 50)
    assert_complete(explanation)
    same = explain(classifier, MeritFeatureExtractor(), record, 2)
    np.testing.assert_array_equal(same.attributions, explanation.attributions)
    other = explain(classifier, MeritFeatureExtractor(), record, "AFIB")
    assert np.abs(other.attributions - explanation.attributions).max() > 1e-3


def test_attributions_of_a_similarity_add_up(loaded, record):
    texts = ["linksschenkelblock", "sinusrhythmus", "vorhofflimmern"]
    scores = score_prompts(*loaded, record, texts)
    alone = explain(*loaded, record, texts[0])
    assert alone.kind == "cosine_similarity"
    assert alone.score == pytest.approx(scores.cosine_similarity[0, 0], abs=1e-5)
    assert_complete(alone)
    compared = explain(*loaded, record, texts[0], against=texts[1:])
    assert compared.kind == "relative_similarity"
    assert compared.score == pytest.approx(scores.relative_similarity[0, 0], abs=1e-5)
    assert_complete(compared)


def test_the_baseline_is_flat_lines_at_the_median(classifier, record):
    inputs = MeritFeatureExtractor()(record, return_tensors="pt")
    medians = inputs["input_values"][..., :500].quantile(0.5, dim=2, keepdim=True, interpolation="lower")
    with torch.no_grad():
        score = classifier(medians.expand_as(inputs["input_values"]), inputs["ecg_mask"]).logits[0, 1]
    explanation = explain(classifier, MeritFeatureExtractor(), record, "AFIB", n_steps=16)
    assert explanation.baseline_score == pytest.approx(score.item(), abs=1e-5)
    assert explanation.baseline_score != pytest.approx(explanation.score, abs=1e-3)


def test_absent_leads_and_times_have_no_part(classifier, record):
    extractor = MeritFeatureExtractor(derive_leads=False, nan_policy="mask")
    explanation = explain(classifier, extractor, record.select(["II", "V2"]), "CLBBB")
    shares = explanation.lead_shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert {lead for lead, share in shares.items() if share} == {"II", "V2"}
    signal = record.signal.copy()
    signal[:, 200:300] = np.nan
    gap = explain(classifier, extractor, EcgRecord(signal, 100, record.leads), "CLBBB")
    assert not gap.attributions[:, 20:30].any() and gap.attributions[:, 30:40].any()


def test_padding_of_a_batch_has_no_columns(classifier):
    ecg = simulate_ecg("sinus_rhythm", seed=0, duration=4.3)
    explanation = explain(classifier, MeritFeatureExtractor(), ecg, "SR")
    assert explanation.attributions.shape == (12, 43)


def test_steps_sum_the_samples(classifier, record):
    fine, coarse = (explain(classifier, MeritFeatureExtractor(), record, "SR", step_s=step) for step in (0.01, 0.25))
    assert (fine.attributions.shape, coarse.attributions.shape) == ((12, 500), (12, 20))
    np.testing.assert_allclose(fine.attributions.reshape(12, 20, 25).sum(-1), coarse.attributions, atol=1e-9)


def test_strongest_are_the_largest(classifier, record):
    explanation = explain(classifier, MeritFeatureExtractor(), record, "SR")
    found = explanation.strongest(3)
    largest = np.sort(np.abs(explanation.attributions), axis=None)[::-1][:3]
    assert [abs(part["attribution"]) for part in found] == pytest.approx(largest.tolist())
    for part in found:
        row, column = explanation.leads.index(part["lead"]), round(part["start_s"] / 0.1)
        assert explanation.attributions[row, column] == part["attribution"]
        assert part["stop_s"] == pytest.approx(part["start_s"] + 0.1)


@pytest.mark.slow
def test_random_weights_destroy_the_map(loaded, record):
    """Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018."""
    model, processor = loaded
    trained = explain(model, processor, record, "linksschenkelblock")
    finer = explain(model, processor, record, "linksschenkelblock", n_steps=128)
    random, _ = load_checkpoint(CHECKPOINT)
    torch.manual_seed(0)
    random.ecg_model = MeritEcgModel(model.config.ecg_config).eval()
    destroyed = explain(random, processor, record, "linksschenkelblock")
    rank = {
        name: spearmanr(trained.attributions, other.attributions, axis=None).statistic
        for name, other in (("finer", finer), ("destroyed", destroyed))
    }
    assert rank["finer"] > 0.95 and abs(rank["destroyed"]) < 0.3


def qrs_shares(loaded, condition: str, seed: int) -> tuple[float, float]:
    """Share of the QRS complexes in the absolute attributions, and in time."""
    ecg = simulate_ecg(condition, seed=seed, duration=5)
    explanation = explain(*loaded, ecg, BLOCKS[condition], step_s=0.01)
    times = (np.arange(explanation.attributions.shape[1]) + 0.5) / 100
    within = np.zeros(len(times), dtype=bool)
    for onset in ecg.qrs_onsets:
        within |= (times >= onset) & (times <= onset + ecg.factors["qrs_width"] / 1000)
    weights = np.abs(explanation.attributions).sum(axis=0)
    return weights[within].sum() / weights.sum(), within.mean()


@pytest.mark.slow
@pytest.mark.parametrize("condition", BLOCKS)
def test_the_qrs_carries_the_explanation_of_a_bundle_branch_block(loaded, condition):
    attribution, time = np.mean([qrs_shares(loaded, condition, seed) for seed in range(3)], axis=0)
    assert 0.1 < time < 0.3
    assert attribution > 1.4 * time


def test_the_picture_has_a_field_per_step_under_its_lead(record):
    parts = np.zeros((12, 50))
    parts[1, 7], parts[6, 30] = 2.0, -1.0
    figure = plot_explanation(record, Explanation("CLBBB", "logit", 1.5, 0.5, parts, record.leads, 0.1))
    axes = figure.axes[0]
    images = {image.get_gid().removeprefix("attribution "): image for image in axes.images}
    assert set(images) == set(record.leads)
    lines = {line.get_gid().removeprefix("lead "): line for line in axes.lines if "lead" in (line.get_gid() or "")}
    for lead, image in images.items():
        left, right, low, high = image.get_extent()
        x, y = lines[lead].get_data()
        assert left == pytest.approx(x[0]) and right == pytest.approx(x[-1] + 25 / 100)
        assert low < np.median(y) < high
    strength = {lead: np.asarray(image.get_array())[0, :, 3] for lead, image in images.items()}
    assert np.flatnonzero(strength["II"]).tolist() == [7] and np.flatnonzero(strength["V1"]).tolist() == [30]
    assert strength["II"][7] == pytest.approx(2 * strength["V1"][30])
    colours = [np.asarray(images[lead].get_array())[0, step, :3] for lead, step in (("II", 7), ("V1", 30))]
    assert colours[0][0] > colours[0][2] and colours[1][2] > colours[1][0]  # orange and violet
    texts = [text.get_text() for text in axes.texts]
    assert any("CLBBB: logit 1.500, flat lines 0.500" in text for text in texts)
    assert any("not a medical device" in text for text in texts)


@pytest.mark.parametrize("layout", ["3x4", "3x4+1", "6x2"])
def test_every_layout_shows_the_steps_of_its_time(record, layout):
    parts = np.tile(np.arange(1, 51.0), (12, 1))
    explanation = Explanation("CLBBB", "logit", 1.5, 0.5, parts, record.leads, 0.1)
    axes = plot_explanation(record, explanation, layout=layout).axes[0]
    origin = min(image.get_extent()[0] for image in axes.images)
    assert len(axes.images) >= 12
    for image in axes.images:
        shown = np.asarray(image.get_array())[0, :, 3] / 0.9 * 50
        first = round((image.get_extent()[0] - origin) / 2.5)
        np.testing.assert_allclose(shown, np.arange(first + 1, first + 1 + len(shown)))


def test_what_cannot_be_explained_is_refused(classifier, loaded, record):
    extractor = MeritFeatureExtractor()
    with pytest.raises(ValueError, match=r"Expected a label of the model \(SR, AFIB, CLBBB\) .*got 'VT'"):
        explain(classifier, extractor, record, "VT")
    with pytest.raises(ValueError, match="Leave it out"):
        explain(classifier, extractor, record, "SR", against=["AFIB"])
    with pytest.raises(ValueError, match="Expected a text"):
        explain(*loaded, record, 0)
    for against in ((), ("sinusrhythmus",)):
        with pytest.warns(UserWarning, match="words that the model does not know"):
            explain(*loaded, record, "vorhofflimmern 心", against=against, n_steps=2, tolerance=9)
    with pytest.raises(ValueError, match="step_s of at least one sample, 0.01 s"):
        explain(classifier, extractor, record, "SR", step_s=0)


class TestCommand:
    @pytest.fixture(scope="class")
    def folders(self, tiny_tokenizer, tmp_path_factory, classifier) -> dict[str, str]:
        folders = {name: str(tmp_path_factory.mktemp(name)) for name in ("texts", "labels")}
        build(MeritModel, merit_config()).save_pretrained(folders["texts"])
        MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folders["texts"])
        classifier.save_pretrained(folders["labels"])
        MeritFeatureExtractor().save_pretrained(folders["labels"])
        return folders

    @pytest.fixture
    def file(self, record, tmp_path) -> str:
        return str(write_wfdb(EcgRecord(record.signal, 100, record.leads, record_id="block"), tmp_path))

    def test_a_label(self, folders, file, tmp_path, capsys):
        out = tmp_path / "heat.png"
        command = ["explain", file, "--model", folders["labels"], "--label", "CLBBB", "--out", str(out), "--json"]
        assert main(command) == 0
        content = json.loads(capsys.readouterr().out)
        assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert np.array(content["attributions"]).shape == (12, 50)
        total = np.sum(content["attributions"]) + content["residual"]
        assert content["score"] - content["baseline_score"] == pytest.approx(total, abs=1e-9)
        assert (content["target"], content["kind"], content["disclaimer"]) == ("CLBBB", "logit", DISCLAIMER)
        assert main(command) == 2 and "exists already" in json.loads(capsys.readouterr().out)["error"]["message"]

    def test_a_prompt(self, folders, file, capsys):
        command = ["explain", file, "--model", folders["texts"], "--prompt", "left bundle branch block"]
        assert main([*command, "--against", "sinus rhythm", "atrial fibrillation"]) == 0
        printed = capsys.readouterr().out
        assert "relative similarity" in printed and "strongest" in printed and DISCLAIMER in printed

    def test_an_ecg_without_a_signal_is_refused(self, folders, record, tmp_path, capsys):
        file = write_wfdb(EcgRecord(np.zeros_like(record.signal), 100, record.leads, record_id="flat"), tmp_path)
        assert main(["explain", str(file), "--model", folders["labels"], "--label", "CLBBB"]) == 2
        assert "one value throughout" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "folder, option, message",
        [
            ("texts", ["--label", "SR"], "Expected --prompt"),
            ("labels", ["--prompt", "sinus rhythm"], "Expected --label"),
            ("labels", ["--label", "SR", "--out", "heat.txt"], "to end in .png"),
        ],
    )
    def test_the_wrong_target_is_refused(self, folders, file, capsys, folder, option, message):
        assert main(["explain", file, "--model", folders[folder], *option]) == 2
        assert message in capsys.readouterr().err
