"""The models: what goes in and what comes out, partial ECGs, and the ways to run them."""

import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import ENCODER, PATCH, TRANSFORMER, build, ecg_config, ecgs, merit_config, reports
from torch import nn
from transformers import Trainer, TrainingArguments

from modeling_merit import (
    MeritEcgConfig,
    MeritEcgModel,
    MeritFeatureExtractor,
    MeritForConditionalGeneration,
    MeritForEcgClassification,
    MeritForPreTraining,
    MeritGenerationConfig,
    MeritModel,
)
from modeling_merit.objective_merit import ngram_keys, patchify

LEADS = MeritEcgConfig().leads
TEXTS = ([2, 5, 6, 3], [2, 7, 3])
SUBSETS = {1: ["II"], 2: ["I", "II"], 6: LEADS[:6], 8: ["I", "II", *LEADS[6:]], 12: LEADS}
WINDOW = 160  # samples of the windowed encoder below


@pytest.fixture(scope="module")
def ecg_model() -> MeritEcgModel:
    return build(MeritEcgModel, ecg_config())


def mask_of(leads: list[str], samples: int, batch: int = 2) -> torch.Tensor:
    present = torch.tensor([name in leads for name in LEADS])
    return present[None, :, None].expand(batch, 12, samples)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=tolerance)


def test_shapes_and_pooling(ecg_model):
    """The feature is the mean and the maximum over time."""
    output = ecg_model(ecgs())
    hidden = output.last_hidden_state
    assert hidden.shape == (2, 63, 16) and output.token_mask is None
    assert close(output.pooler_output, torch.cat([hidden.mean(dim=1), hidden.amax(dim=1)], dim=1))
    assert hidden.std() > 0.1


def test_positions_are_ordered_in_time(ecg_model):
    """Changing one sample changes the outputs around it, as far as convolutions reach, and no others."""
    values = ecgs(1)
    changed = values.clone()
    changed[0, 3, 30 * PATCH] += 5.0
    gap = (ecg_model(values).last_hidden_state - ecg_model(changed).last_hidden_state).abs().amax(dim=(0, 2))
    moved = gap.nonzero().flatten()
    assert abs(gap.argmax() - 30) <= 2 and 24 <= moved.min() < 30 < moved.max() <= 36


def encoders() -> dict:
    """Every model that reads ECGs, as a function from ECGs and mask to one row of numbers for each."""
    dual = build(MeritModel, merit_config(num_words=5))
    dual.set_words(torch.arange(5), torch.linspace(0.1, 0.9, 5))
    generation = MeritGenerationConfig(
        ecg_config=ENCODER, text_config=TRANSFORMER | {"vocab_size": 50}, num_ecg_tokens=5
    )
    perceiver = MeritGenerationConfig.from_dict(generation.to_dict() | {"projector_type": "perceiver"})
    writers = [build(MeritForConditionalGeneration, config) for config in (generation, perceiver)]
    windowed = build(MeritEcgModel, ecg_config(window_seconds=WINDOW / 100))
    classifier = build(MeritForEcgClassification, ecg_config(num_labels=3), seed=1)
    whole = build(MeritEcgModel, ecg_config(hidden_act="gelu", hidden_sizes=[8, 12, 16], depths=[1, 2, 1]))
    return {
        "encoder": lambda *ecg: whole(*ecg).pooler_output,
        "encoder in windows": lambda *ecg: windowed(*ecg).pooler_output,
        "aligned": lambda *ecg: dual.get_ecg_features(*ecg).pooler_output,
        "words": dual.get_word_evidence,
        "classifier": lambda *ecg: classifier(*ecg).logits,
        "mlp projector": lambda *ecg: writers[0].get_ecg_features(*ecg).pooler_output.flatten(1),
        "perceiver projector": lambda *ecg: writers[1].get_ecg_features(*ecg).pooler_output.flatten(1),
    }


ENCODERS = encoders()
records = st.lists(
    st.tuples(st.integers(1, 700), st.sets(st.integers(0, 11), min_size=1), st.integers(0, 3)), min_size=1, max_size=4
)


@settings(max_examples=15)
@given(records, st.integers(0, 9), st.sampled_from([0.0, 1e4, float("nan"), float("-inf")]))
@example([(1, {0}, 0), (700, set(range(12)), 0), (160, {3}, 2)], 0, float("nan"))
@pytest.mark.parametrize("name", ENCODERS)
def test_a_batch_equals_its_records_one_by_one(name, batch, right, filler):
    """Records of any length and leads, padded left (by whole windows) and right, with anything where nothing is."""
    length = max(samples + WINDOW * left for samples, _, left in batch) + right
    values, mask = torch.full((len(batch), 12, length), filler), torch.zeros(len(batch), 12, length, dtype=torch.bool)
    alone = []
    for row, (samples, leads, left) in enumerate(batch):
        own, rows = ecgs(1, samples, seed=row), sorted(leads)
        visible = torch.zeros(1, 12, samples, dtype=torch.bool)
        visible[:, rows] = True
        place = slice(WINDOW * left, WINDOW * left + samples)
        values[row, :, place] = own[0].masked_fill(~visible[0], filler)
        mask[row, :, place] = visible[0]
        alone.append((own, visible))
    with torch.no_grad():
        together = ENCODERS[name](values, mask)
        expected = torch.cat([ENCODERS[name](*ecg) for ecg in alone])
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)
    assert together.isfinite().all()


@pytest.mark.parametrize("count", SUBSETS)
@pytest.mark.parametrize("filler", [0.0, 1e4, float("nan"), float("inf")])
def test_absent_leads_do_not_matter(ecg_model, count, filler):
    mask = mask_of(SUBSETS[count], 500)
    values = ecgs()
    output = ecg_model(values, mask)
    other = ecg_model(values.masked_fill(~mask, filler), mask)
    assert output.token_mask.all()
    assert torch.equal(output.last_hidden_state, other.last_hidden_state)
    assert torch.equal(output.pooler_output, other.pooler_output)
    assert output.pooler_output.isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 6, 8])
def test_absent_leads_equal_a_model_without_them(ecg_model, count):
    leads = SUBSETS[count]
    rows = [LEADS.index(name) for name in leads]
    smaller = build(MeritEcgModel, ecg_config(leads=leads))
    weights = ecg_model.state_dict()
    name = "stem.convolutions.0.convolution.weight"
    smaller.load_state_dict(weights | {name: weights[name][:, [*rows, *(12 + row for row in rows)]]})
    values = ecgs()
    expected = ecg_model(values, mask_of(leads, 500)).pooler_output
    assert close(smaller(values[:, rows]).pooler_output, expected, tolerance=2e-5)


def test_an_absent_lead_is_not_a_flat_one(ecg_model):
    values, mask = ecgs(), mask_of(LEADS[:6], 500)
    absent, flat = ecg_model(values, mask).pooler_output, ecg_model(values * mask).pooler_output
    assert (absent - flat).abs().max() > 1e-2


def test_a_mask_of_ones_changes_nothing(ecg_model):
    values = ecgs()
    masked = ecg_model(values, torch.ones_like(values, dtype=torch.bool))
    assert close(masked.last_hidden_state, ecg_model(values).last_hidden_state)
    integers = ecg_model(values, torch.ones_like(values, dtype=torch.long))
    assert torch.equal(integers.last_hidden_state, masked.last_hidden_state)


@pytest.mark.parametrize("window_seconds", [None, WINDOW / 100])
def test_a_record_without_any_signal_stays_finite(window_seconds):
    model = build(MeritEcgModel, ecg_config(window_seconds=window_seconds)).train()
    mask = mask_of(["I"], 500).clone()
    mask[1] = False
    output = model(ecgs(), mask)
    assert output.last_hidden_state[1].abs().max() == output.pooler_output[1].abs().max() == 0
    assert not output.token_mask[1].any() and output.token_mask[0].all()
    output.pooler_output.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_leads_are_known_by_name(ecg_model):
    """Rows in another order, with their names, give the same embedding; without them, another one."""
    extractor = MeritFeatureExtractor()
    order = np.random.default_rng(0).permutation(12)
    signal = ecgs(1)[0].numpy()
    metadata = {"sampling_rate": 100, "units": "mV", "return_tensors": "pt"}
    inputs = extractor(signal, leads=LEADS, **metadata)
    shuffled = extractor(signal[order], leads=[LEADS[i] for i in order], **metadata)
    mistaken = extractor(signal[order], leads=LEADS, **metadata)
    expected = ecg_model(**inputs).pooler_output
    assert torch.equal(ecg_model(**shuffled).pooler_output, expected)
    assert (ecg_model(**mistaken).pooler_output - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    "samples, positions", [(1, 1), (8, 1), (9, 2), (250, 32), (251, 32), (1000, 125), (3000, 375)]
)
def test_lengths(ecg_model, samples, positions):
    """Every sample counts: a rest makes a position of its own."""
    output = ecg_model(ecgs(samples=samples))
    assert output.last_hidden_state.shape == (2, positions, 16)
    masked = ecg_model(ecgs(samples=samples), torch.ones(2, 12, samples))
    assert masked.token_mask.all() and masked.token_mask.shape == (2, positions)
    assert output.pooler_output.isfinite().all()


@pytest.mark.parametrize("samples", [250, 251, 330, 999])
def test_padding_does_not_matter(ecg_model, samples):
    short = ecgs(1, samples)
    batch, mask = torch.full((2, 12, 1000), float("nan")), torch.zeros(2, 12, 1000, dtype=torch.bool)
    batch[0, :, :samples], mask[0, :, :samples] = short[0], True
    batch[1], mask[1] = ecgs(1, 1000, seed=1)[0], True
    alone, padded = ecg_model(short), ecg_model(batch, mask)
    positions = alone.last_hidden_state.shape[1]
    assert close(padded.pooler_output[:1], alone.pooler_output)
    assert close(padded.last_hidden_state[:1, :positions], alone.last_hidden_state)
    assert padded.last_hidden_state[0, positions:].abs().sum() == 0
    assert padded.token_mask.sum(dim=1).tolist() == [positions, 125]


def test_a_gap_is_not_seen(ecg_model):
    """Missing samples in the middle of all leads: whatever stands there changes nothing, and their place is empty."""
    values, mask = ecgs(), torch.ones(2, 12, 500, dtype=torch.bool)
    mask[:, :, 200:296] = False
    output = ecg_model(values, mask)
    again = ecg_model(values.masked_fill(~mask, 1e6), mask)
    assert torch.equal(output.last_hidden_state, again.last_hidden_state)
    assert output.token_mask[0].logical_not().nonzero().flatten().tolist() == list(range(25, 37))
    assert output.last_hidden_state[:, 25:37].abs().sum() == 0


def test_time_and_amplitude_are_seen(ecg_model):
    values = ecgs()
    expected = ecg_model(values)
    assert (ecg_model(values.flip(2)).pooler_output - expected.pooler_output).abs().max() > 1e-3
    assert (ecg_model(2 * values).pooler_output - expected.pooler_output).abs().max() > 1e-2
    rolled = ecg_model(values.roll(250, dims=2)).last_hidden_state
    assert (rolled - expected.last_hidden_state).abs().max() > 1e-2


@pytest.mark.parametrize(
    "values, mask, message",
    [
        (torch.zeros(12, 500), None, r"got \(12, 500\)"),
        (torch.zeros(1, 8, 500), None, r"\(batch, 12, samples\) with the rows I, II, .*got \(1, 8, 500\)"),
        (torch.zeros(1, 500, 12), None, r"got \(1, 500, 12\)"),
        (torch.zeros(1, 12, 0), None, r"got \(1, 12, 0\)"),
        (torch.zeros(1, 12, 500), torch.ones(1, 12), r"`ecg_mask` of the shape .*\(1, 12, 500\), got \(1, 12\)"),
    ],
)
def test_wrong_shapes_are_named(ecg_model, values, mask, message):
    with pytest.raises(ValueError, match=message):
        ecg_model(values, mask)


def test_hidden_states(ecg_model):
    output = ecg_model(ecgs(), output_hidden_states=True)
    assert [state.shape for state in output.hidden_states] == [(2, 8, 126), (2, 8, 126), (2, 16, 63)]
    assert torch.equal(output.hidden_states[-1].transpose(1, 2), output.last_hidden_state)
    assert ecg_model(ecgs()).hidden_states is None
    assert torch.equal(ecg_model(ecgs(), return_dict=False)[0], output.last_hidden_state)
    classifier = build(MeritForEcgClassification, ecg_config())
    states = classifier(ecgs(), output_hidden_states=True).hidden_states
    assert states[-1].shape == (2, 16, 63) and classifier(ecgs()).hidden_states is None


def pretraining_model(**fields) -> MeritForPreTraining:
    """With five words: the tokens 5 to 9."""
    model = build(MeritForPreTraining, merit_config(**{"num_words": 5, **fields}))
    if model.config.num_words:
        model.merit.set_words(torch.arange(6, 11), torch.linspace(0.1, 0.9, 5))
    return model


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients_and_statistics(reentrant):
    """Also in the second step: batch normalisation counts a batch once, though its layer is computed twice."""
    gradients, statistics = [], []
    for checkpointing in (False, True):
        model = pretraining_model().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            layers = [layer for stage in model.merit.ecg_model.stages for layer in stage.layers]
            assert len(layers) == 2 and all(layer.gradient_checkpointing for layer in layers)
        torch.manual_seed(0)
        for _ in range(2):
            model.zero_grad()
            model(ecgs(), **reports(*TEXTS)).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
        statistics.append(dict(model.named_buffers()))
    assert all(close(a, b, tolerance=1e-5 * (1 + b.abs().max())) for a, b in zip(*gradients))
    assert all(torch.equal(value, statistics[1][name]) for name, value in statistics[0].items())
    assert statistics[1]["merit.ecg_model.stages.0.layers.0.first.normalization.num_batches_tracked"] == 2


def replica(model: nn.Module) -> nn.Module:
    """What `nn.DataParallel` makes of a model for each device: its parameters are plain attributes."""
    modules = list(model.modules())
    copies = {module: module._replicate_for_data_parallel() for module in modules}
    for module, copied in copies.items():
        for name, child in module._modules.items():
            copied._modules[name] = None if child is None else copies[child]
        for name, parameter in module._parameters.items():
            if parameter is None:
                copied._parameters[name] = None
            else:
                setattr(copied, name, parameter.detach().clone())
    return copies[model]


@torch.no_grad()
def test_replicas_of_data_parallel_compute_the_same():
    dual, classifier = pretraining_model(reconstruction_weight=0.0), build(MeritForEcgClassification, ecg_config())
    text = reports(*TEXTS)
    assert torch.equal(replica(dual)(ecgs(), **text).loss, dual(ecgs(), **text).loss)
    assert torch.equal(replica(classifier)(ecgs()).logits, classifier(ecgs()).logits)
    config = MeritGenerationConfig(ecg_config=ENCODER, text_config=TRANSFORMER | {"vocab_size": 50}, num_ecg_tokens=5)
    for projector in ("mlp", "perceiver"):
        config.projector_type = projector
        writer = build(MeritForConditionalGeneration, config)
        ids = torch.tensor([[50] * 5 + [7]] * 2)
        assert torch.equal(replica(writer)(ids, ecgs()).logits, writer(ids, ecgs()).logits)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_model_equals_eager(ecg_model):
    values, mask = ecgs(), mask_of(["I", "II"], 500)
    with torch.no_grad():
        compiled = torch.compile(ecg_model, fullgraph=True)(values, mask)
        assert close(compiled.pooler_output, ecg_model(values, mask).pooler_output)


def test_graph_has_no_breaks(ecg_model):
    captured = torch.compile(ecg_model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert close(captured(ecgs(samples=999)).pooler_output, ecg_model(ecgs(samples=999)).pooler_output)


def test_bfloat16():
    model = pretraining_model()
    torch.manual_seed(0)
    expected = model(ecgs(), **reports(*TEXTS))
    model.to(torch.bfloat16)
    torch.manual_seed(0)
    output = model(ecgs(), **reports(*TEXTS))
    assert output.ecg_embeds.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    assert torch.equal(output.masked_patches, expected.masked_patches)
    assert nn.functional.cosine_similarity(output.ecg_embeds.float(), expected.ecg_embeds).min() > 0.99
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=0.1)


def test_autocast_keeps_the_losses_in_float32():
    model = pretraining_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(ecgs(), **reports(*TEXTS))
    for loss in (output.loss, output.reconstruction_loss, output.contrastive_loss, output.word_loss):
        assert loss.dtype == torch.float32
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_dual_encoder_scores():
    model = build(MeritModel, merit_config())
    text = reports(*TEXTS, [2, 9, 3])
    output = model(ecgs(), **text)
    assert output.logits_per_ecg.shape == (2, 3)
    assert close(output.ecg_embeds.norm(dim=1), torch.ones(2)) and close(output.text_embeds.norm(dim=1), torch.ones(3))
    assert close(output.logits_per_ecg, output.ecg_embeds @ output.text_embeds.T / 0.07, tolerance=1e-3)
    assert torch.equal(output.ecg_embeds, model.get_ecg_features(ecgs()).pooler_output)
    assert torch.equal(output.text_embeds, model.get_text_features(**text).pooler_output)
    assert model(ecgs()).text_embeds is None and model(**text).ecg_embeds is None
    alone = model.get_text_features(**reports(TEXTS[1])).pooler_output
    assert close(output.text_embeds[1:2], alone)
    with torch.no_grad():
        model.logit_scale.fill_(20.0)
    assert model.get_logit_scale().item() == 100
    with pytest.raises(ValueError, match="got neither"):
        model()


def test_the_loss_comes_first_in_a_tuple():
    text = reports(*TEXTS)
    dual, pretraining = build(MeritModel, merit_config()), pretraining_model()
    classifier = build(MeritForEcgClassification, ecg_config(num_labels=3))
    labels = {"labels": torch.tensor([0, 2])}
    noise = torch.rand(2, 12, 63)
    for model, inputs in (
        (dual, text | {"return_loss": True}),
        (pretraining, text | {"noise": noise}),
        (classifier, labels),
    ):
        output = model(ecgs(), **inputs)
        first = model(ecgs(), **inputs, return_dict=False)[0]
        assert first.ndim == 0 and first.item() == output.loss.item()
    assert classifier(ecgs(), return_dict=False)[0].shape == (2, 3)  # without labels, the logits
    classifier.config.return_dict = False
    assert classifier(ecgs(), **labels)[0].ndim == 0 and classifier(ecgs())[0].shape == (2, 3)
    with pytest.raises(ValueError, match="one text per ECG"):
        dual(ecgs(3), **text, return_loss=True)


def test_text_pooling():
    mean, cls = (build(MeritModel, merit_config(text_pooling=how)) for how in ("mean", "cls"))
    text = reports(*TEXTS)
    hidden = cls.text_model(**text).last_hidden_state
    assert torch.equal(cls.get_text_features(**text).pooler_output, cls.text_projection(hidden[:, 0]))
    expected = torch.stack([hidden[0].mean(dim=0), hidden[1, :3].mean(dim=0)])
    assert close(mean.get_text_features(**text).pooler_output, mean.text_projection(expected))


def test_words_start_at_their_frequencies():
    """Without training, the evidence of an ECG for any word is zero, and the information of the words as well."""
    torch.manual_seed(0)
    model = MeritForPreTraining(merit_config(num_words=3)).eval()
    frequencies = torch.tensor([0.5, 0.25, 0.5])
    model.merit.set_words(torch.tensor([8, 6, 7]), frequencies)
    assert model.merit.word_keys.tolist() == [6, 7, 8]  # ascending, and the frequencies with them
    assert close(model.merit.word_log_odds.sigmoid(), torch.tensor([0.25, 0.5, 0.5]))
    assert model.merit.get_word_evidence(ecgs()).abs().max() == 0
    # Reports that hold the words as often as said: tokens 5, 6, 7 in one, two and two of four.
    output = model(ecgs(4), **reports([5, 6], [6, 7], [7, 9], [9]))
    assert output.word_information.item() == pytest.approx(0, abs=1e-5)


def test_word_evidence_is_the_gain_in_log_probability():
    model = pretraining_model().merit
    evidence = model.get_word_evidence(ecgs())
    probability = model.get_word_logits(model.ecg_model(ecgs()).pooler_output).sigmoid()
    assert close(evidence, (probability / torch.linspace(0.1, 0.9, 5)).log(), tolerance=1e-4)
    assert evidence.abs().max() > 1e-2
    assert model.get_words(**reports([2, 5, 9, 3], [2, 50, 3])).tolist() == [[1, 0, 0, 0, 1], [0] * 5]
    with pytest.raises(ValueError, match="`num_words` 0"):
        build(MeritModel, merit_config()).get_word_evidence(ecgs())


@pytest.mark.parametrize("size", [110, 90])
@pytest.mark.parametrize("model_class", [MeritModel, MeritForPreTraining])
def test_phrases_are_found_after_the_vocabulary_changed(model_class, size, tmp_path):
    """Also in a loaded checkpoint; a new token is in no phrase, though with it a key could be that of another one."""
    outer = build(model_class, merit_config(num_words=6))
    model = getattr(outer, "merit", outer)
    phrases = [[5], [5, 6], [6, 5], [5, 6, 7], [0, 0], [89, 89, 89]]
    keys = [ngram_keys(torch.tensor([one]), None, 104, len(one))[0, -1] for one in phrases]
    model.set_words(torch.stack(keys), torch.full((6,), 0.5))
    text = reports([5, 6, 7], [6, 5], [89, 89, 89], [0, 0])
    expected = model.get_words(**text)
    assert expected.sum(dim=1).tolist() == [3, 2, 1, 1]
    assert "word_vocab_size" not in outer.config.to_dict()
    outer.resize_token_embeddings(size)
    outer.save_pretrained(tmp_path)
    for resized in (model, MeritModel.from_pretrained(tmp_path)):
        assert resized.config.text_config.vocab_size == size
        assert torch.equal(resized.get_words(**text), expected)
        assert resized.get_words(torch.tensor([[104, 5], [105, 5]])).sum(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize(
    "keys, frequencies, message",
    [
        ([1, 2, 3], [0.5] * 3, "Expected 5 different words, got 3"),
        ([1, 2, 3, 4, 4], [0.5] * 5, "Expected 5 different words, got 4"),
        ([1, 2, 3, 4, 5], [0.5, 0.5, 0.5, 0.5, 1.0], "above 0 and below 1"),
        ([1, 2, 3, 4, 5], [0.5, 0.5, 0.5, 0.5, 0.0], "above 0 and below 1"),
    ],
)
def test_wrong_words_are_named(keys, frequencies, message):
    with pytest.raises(ValueError, match=message):
        pretraining_model().merit.set_words(torch.tensor(keys), torch.tensor(frequencies))


@pytest.mark.parametrize("padding", [0, 37])
def test_partial_records_in_pre_training(padding):
    """Padding and absent leads are neither targets nor seen."""
    model = pretraining_model()
    mask = nn.functional.pad(mask_of(["II", "V5"], 480).clone(), (0, padding))
    mask[1, :, 240:] = False
    noise = torch.rand(2, 12, -(-mask.shape[2] // PATCH))
    outputs = [
        model(ecgs(samples=480 + padding).masked_fill(~mask, filler), mask, **reports(*TEXTS), noise=noise)
        for filler in (0.0, float("nan"))
    ]
    # 60 and 30 valid patches per lead, of which half are masked.
    assert outputs[0].masked_patches.sum(dim=2)[:, [1, 10]].tolist() == [[30, 30], [15, 15]]
    assert outputs[0].masked_patches.sum(dim=(1, 2)).tolist() == [60, 30]
    assert outputs[0].loss.isfinite() and outputs[0].loss.item() == outputs[1].loss.item()


@pytest.mark.parametrize("count, got", [(0, "none"), (3, "3")])
@pytest.mark.parametrize("fields", [{}, {"contrastive_weight": 0.0}, {"reconstruction_weight": 0.0}])
def test_pre_training_wants_one_report_per_ecg(count, got, fields):
    model = pretraining_model(**fields)
    text = reports(*[[2, 5, 3]] * count) if count else {}
    with pytest.raises(ValueError, match=rf"one report per ECG \(2\), got {got}"):
        model(ecgs(), **text)


def test_classification_losses():
    values = ecgs(3)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    model = build(
        MeritForEcgClassification, ecg_config(num_labels=3, problem_type="multi_label_classification"), seed=1
    )
    output = model(values, labels=labels)
    probability = output.logits.double().sigmoid()
    expected = -(labels * probability.log() + (1 - labels) * (1 - probability).log()).mean()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.equal(output.logits, model.classifier(model.ecg_model(values).pooler_output))

    model.config.problem_type = "single_label_classification"
    output = model(values, labels=torch.tensor([2, 0, 1]))
    expected = -output.logits.log_softmax(dim=1)[torch.arange(3), torch.tensor([2, 0, 1])].mean()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-4)

    model.config.problem_type = "regression"
    targets = torch.randn(3, 3)
    expected = (output.logits - targets).square().mean().item()
    assert model(values, labels=targets).loss.item() == pytest.approx(expected, rel=1e-5)

    assert model(values).loss is None
    model.config.problem_type = "ranking"
    with pytest.raises(ValueError, match="'regression', got 'ranking'"):
        model(values, labels=targets)


@pytest.mark.parametrize(
    "num_labels, labels, problem_type, loss",
    [
        (1, torch.tensor([0.5, -1.0]), "regression", lambda z, y: (z[:, 0] - y).square().mean()),
        (1, torch.tensor([[0.5], [-1.0]]), "regression", lambda z, y: (z - y).square().mean()),
        (3, torch.tensor([2, 0]), "single_label_classification", nn.functional.cross_entropy),
        (
            3,
            torch.tensor([[1.0, 0, 1], [0, 0, 1]]),
            "multi_label_classification",
            nn.functional.binary_cross_entropy_with_logits,
        ),
    ],
)
def test_labels_say_what_the_problem_is(num_labels, labels, problem_type, loss):
    model = build(MeritForEcgClassification, ecg_config(num_labels=num_labels))
    assert model.config.problem_type is None
    output = model(ecgs(), labels=labels)
    assert model.config.problem_type == problem_type
    assert output.loss.item() == pytest.approx(loss(output.logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize(("num_labels", "shape"), [(3, (3, 2)), (3, (6,)), (1, (1, 2)), (1, (3,)), (1, ())])
def test_labels_of_another_shape_are_refused_in_regression(num_labels, shape):
    model = build(MeritForEcgClassification, ecg_config(num_labels=num_labels, problem_type="regression"))
    with pytest.raises(ValueError, match=rf"shape \(2, {num_labels}\) .* got {re.escape(str(shape))}"):
        model(ecgs(), labels=torch.zeros(shape))


def first_block(drop_path: float, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Output of the last residual block of an encoder for 400 equal records, and of its shortcut."""
    model = build(MeritEcgModel, ecg_config(depths=[1, 2], drop_path_rate=drop_path))
    layer = model.stages[1].layers[1].train(training)
    for part in (layer.first, layer.second):
        part.eval()  # batch statistics would change the output by themselves
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(1, 16, 5, generator=generator).expand(400, -1, -1)
    torch.manual_seed(0)
    return layer(hidden, torch.ones(400, 1, 5)), hidden


def test_stochastic_depth_in_training_only():
    """A quarter of the records skip the block in training; the others keep the expectation; none in evaluation."""
    whole, hidden = first_block(0.0, training=True)
    evaluated, _ = first_block(0.25, training=False)
    assert torch.equal(evaluated, whole) and not close(whole, hidden, tolerance=1e-2)
    dropped, _ = first_block(0.25, training=True)
    skipped = (dropped == hidden).all(dim=2).all(dim=1)
    assert skipped.float().mean().item() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)
    kept = dropped[~skipped]
    assert close(kept, kept[:1].expand_as(kept))
    inner = (kept[0] > 0) & (whole[0] > 0)
    assert close((kept[0] - hidden[0])[inner] * 0.75, (whole[0] - hidden[0])[inner]) and inner.sum() > 20


def test_stochastic_depth_grows_to_the_last_block():
    model = MeritEcgModel(ecg_config(hidden_sizes=[8, 8, 8], depths=[2, 1, 2], drop_path_rate=0.4))
    rates = [layer.drop_path for stage in model.stages for layer in stage.layers]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_dropout_of_the_feature_in_training_only():
    model = build(MeritForEcgClassification, ecg_config(hidden_dropout=0.5))
    assert torch.equal(model(ecgs()).logits, model(ecgs()).logits)
    model.dropout.train()
    assert not torch.equal(model(ecgs()).logits, model(ecgs()).logits)


def test_training_lowers_all_losses():
    torch.manual_seed(0)
    model = MeritForPreTraining(merit_config(num_words=4)).train()
    model.merit.set_words(torch.arange(6, 10), torch.full((4,), 0.25))
    time = torch.arange(500) / 100
    rates = torch.tensor([1.0, 1.5, 2.0, 2.5])[:, None, None]
    values = torch.sin(2 * torch.pi * rates * time).expand(4, 12, 500).contiguous()
    inputs = {"input_values": values, **reports([2, 5, 3], [2, 6, 3], [2, 7, 3], [2, 8, 3])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(100):
        output = model(**inputs)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append([output[f"{name}_loss"].item() for name in ("reconstruction", "contrastive", "word")])
    assert history[-1][0] < 0.7 * history[0][0]
    assert history[-1][1] < 0.1 < 1.2 < history[0][1]  # from about log 4 to nearly nothing
    assert history[-1][2] < 0.5 < 2.2 < history[0][2]  # from the entropy of the words, 2.25


def test_same_seed_same_model():
    a, b, other = (build(MeritForPreTraining, merit_config(), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), other.parameters()))


def test_windows_are_encoded_as_records_of_their_own():
    """A record of three windows, the last of them with a masked lead, and one whose last window is not full."""
    whole = build(MeritEcgModel, ecg_config())
    windowed = MeritEcgModel(ecg_config(window_seconds=2.56)).eval()
    windowed.load_state_dict(whole.state_dict())
    values = ecgs(samples=768)
    mask = torch.ones_like(values, dtype=torch.bool)
    mask[:, 3, 512:] = False
    with torch.no_grad():
        joined = windowed(values, mask)
        parts = [whole(values[..., i : i + 256], mask[..., i : i + 256]) for i in (0, 256, 512)]
        torch.testing.assert_close(joined.last_hidden_state, torch.cat([p.last_hidden_state for p in parts], dim=1))
        torch.testing.assert_close(joined.pooler_output, torch.stack([p.pooler_output for p in parts]).mean(0))
        assert torch.equal(joined.token_mask, torch.cat([p.token_mask for p in parts], dim=1))
        short = windowed(values[..., :620])
        ends = [whole(values[..., i : min(i + 256, 620)]) for i in (0, 256, 512)]
        torch.testing.assert_close(short.pooler_output, torch.stack([p.pooler_output for p in ends]).mean(0))
        torch.testing.assert_close(short.last_hidden_state, torch.cat([p.last_hidden_state for p in ends], dim=1))
        one = windowed(values[..., :256]).pooler_output
        torch.testing.assert_close(one, whole(values[..., :256]).pooler_output)
        gap = mask.clone()
        gap[:, :, 256:512] = False  # a window without any sample counts for nothing
        rest = torch.stack([parts[0].pooler_output, parts[2].pooler_output]).mean(0)
        torch.testing.assert_close(windowed(values, gap).pooler_output, rest)


def test_pooled_feature_of_several_stages_and_windows():
    """It begins with that of the last stage, which alone a dual encoder aligns; the largest are over all windows."""
    plain = build(MeritModel, merit_config(ecg={"window_seconds": 2.56}))
    size = plain.config.ecg_config.pooler_size
    config = merit_config(ecg={"window_seconds": 2.56, "pooler_stages": 2, "pooler_largest": True})
    model = MeritModel(config).eval()
    model.load_state_dict(plain.state_dict())
    values, last, before = ecgs(samples=700), *config.ecg_config.hidden_sizes[:-3:-1]
    assert config.ecg_config.pooler_size == 3 * (last + before) and size == 2 * last == config.ecg_config.aligned_size
    with torch.no_grad():
        pooled = model.ecg_model(values).pooler_output
        windows = [model.ecg_model(values[..., i : min(i + 256, 700)]).pooler_output for i in (0, 256, 512)]
        assert torch.equal(pooled[:, :size], plain.ecg_model(values).pooler_output)
        means, largest = pooled.split([2 * (last + before), last + before], dim=1)
        torch.testing.assert_close(means, torch.stack(windows).mean(0)[:, : means.shape[1]])
        torch.testing.assert_close(largest, torch.stack(windows).amax(0)[:, means.shape[1] :])
        # In one window they are the maxima themselves.
        expected = torch.cat(
            [windows[0][:, last : 2 * last], windows[0][:, -2 * before - last : -before - last]], dim=1
        )
        torch.testing.assert_close(windows[0][:, means.shape[1] :], expected)
        hidden = model.ecg_model(values[..., :256], output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(windows[0][:, 2 * last : 2 * last + before], hidden.mean(dim=2))
        mask = torch.ones_like(values, dtype=torch.bool)
        mask[0, :, 256:512], mask[1] = False, False  # a window without any sample; no sample at all
        found = model.ecg_model(values, mask).pooler_output
        torch.testing.assert_close(found[0, -last:], torch.stack([windows[0], windows[2]]).amax(0)[0, -last:])
        assert (found[1] == 0).all()
        for name in ("get_ecg_features", "get_score_features"):
            a, b = (getattr(each, name)(values) for each in (plain, model))
            assert torch.equal(*(each if isinstance(each, torch.Tensor) else each.pooler_output for each in (a, b)))
        assert torch.equal(plain(values).ecg_embeds, model(values).ecg_embeds)


def test_reconstruction_has_the_patches_of_the_signal():
    model = pretraining_model()
    output = model(ecgs(samples=499), **reports(*TEXTS))
    patches = patchify(nn.functional.pad(ecgs(samples=499), (0, 5)), PATCH)
    assert output.reconstruction.shape == patches.shape == (2, 12, 63, 8)


class Rows(torch.utils.data.Dataset):
    def __init__(self, **columns: torch.Tensor):
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def trainer(model, folder, rows: Rows, **options) -> Trainer:
    defaults = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    return Trainer(
        model, TrainingArguments(str(folder), **(defaults | options)), train_dataset=rows, eval_dataset=rows
    )


def test_trainer_evaluates_pre_training(tmp_path):
    rows = Rows(input_values=ecgs(4), **reports(*TEXTS, [2, 8, 3], [2, 9, 9, 3]))
    model = pretraining_model(reconstruction_weight=0.0)  # no random masks: the loss can be checked
    metrics = trainer(model, tmp_path, rows, per_device_eval_batch_size=4).evaluate()
    assert metrics["eval_loss"] == pytest.approx(model(**rows.columns).loss.item(), rel=1e-5)


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_one_large_batch(tmp_path):
    """A step of stochastic gradient descent of the `Trainer`: eight records at once, or four times two."""
    labels = (torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    rows, weights = Rows(input_values=ecgs(8), labels=labels), []
    for size, steps in ((8, 1), (2, 4)):
        model = build(MeritForEcgClassification, ecg_config(num_labels=3))
        before = model.classifier.weight.detach().clone()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):  # statistics of a batch depend on its size
                module.train = lambda mode=True, module=module: module
        options = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
        options |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer(model, tmp_path / str(size), rows, **options).train()
        weights.append(model.state_dict())
        assert (model.classifier.weight - before).abs().max() > 1e-3
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5)
