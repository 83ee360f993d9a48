"""The models: what goes in and what comes out, partial ECGs, and the ways to run them."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from tiny_models import build, ecg_config, ecgs, merit_config, reports
from torch import nn

from modeling_merit import (
    MeritEcgConfig,
    MeritEcgModel,
    MeritFeatureExtractor,
    MeritForEcgClassification,
    MeritForPreTraining,
    MeritModel,
)

LEADS = MeritEcgConfig().leads
TEXTS = ([2, 5, 6, 3], [2, 7, 3])
SUBSETS = {1: ["II"], 2: ["I", "II"], 6: LEADS[:6], 8: ["I", "II", *LEADS[6:]], 12: LEADS}


@pytest.fixture(scope="module")
def ecg_model() -> MeritEcgModel:
    return build(MeritEcgModel, ecg_config())


def mask_of(leads: list[str], samples: int, batch: int = 2) -> torch.Tensor:
    present = torch.tensor([name in leads for name in LEADS])
    return present[None, :, None].expand(batch, 12, samples)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(a, b, rtol=0, atol=tolerance)


def test_shapes_and_pooling(ecg_model):
    output = ecg_model(ecgs())
    assert output.last_hidden_state.shape == (2, 120, 16) and output.token_mask is None
    assert close(output.pooler_output, output.last_hidden_state.mean(dim=1))
    assert output.last_hidden_state.std() > 0.1


def test_lead_features_are_the_mean_over_time_of_valid_patches(ecg_model):
    values = ecgs()
    features = ecg_model.get_lead_features(values)
    assert features.shape == (2, 12, 16) and close(features.mean(dim=1), ecg_model(values).pooler_output)
    mask = mask_of(["I", "V2"], 500).clone()
    mask[:, LEADS.index("V2"), 250:] = False
    features, output = ecg_model.get_lead_features(values, mask), ecg_model(values, mask)
    assert features.abs().amax(dim=(0, 2)).nonzero().flatten().tolist() == [0, LEADS.index("V2")]
    vectors = output.last_hidden_state.unflatten(1, (12, 10))
    assert close(features[:, 0], vectors[:, 0].mean(dim=1))
    assert close(features[:, LEADS.index("V2")], vectors[:, LEADS.index("V2"), :5].mean(dim=1))


def test_tokens_are_ordered_by_lead_then_time(ecg_model):
    """With attention switched off, changing one patch changes one token."""
    model = build(MeritEcgModel, ecg_config(num_hidden_layers=0))
    values = ecgs(1)
    changed = values.clone()
    changed[0, 3, 100:150] += torch.randn(50)
    gap = (model(values).last_hidden_state - model(changed).last_hidden_state).abs().amax(dim=(0, 2))
    assert gap.nonzero().flatten().tolist() == [3 * 10 + 2]


@pytest.mark.parametrize("count", SUBSETS)
@pytest.mark.parametrize("filler", [0.0, 1e4, float("nan"), float("inf")])
def test_absent_leads_do_not_matter(ecg_model, count, filler):
    mask = mask_of(SUBSETS[count], 500)
    values = ecgs()
    output = ecg_model(values, mask)
    other = ecg_model(values.masked_fill(~mask, filler), mask)
    assert output.token_mask.sum(dim=1).tolist() == [10 * count] * 2
    assert torch.equal(output.last_hidden_state[output.token_mask], other.last_hidden_state[other.token_mask])
    assert torch.equal(output.pooler_output, other.pooler_output)
    assert output.pooler_output.isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 6, 8])
def test_absent_leads_equal_a_model_without_them(ecg_model, count):
    leads = SUBSETS[count]
    rows = [LEADS.index(name) for name in leads]
    smaller = build(MeritEcgModel, ecg_config(leads=leads))
    weights = ecg_model.state_dict()
    name = "embeddings.positions.lead_embedding.weight"
    smaller.load_state_dict(weights | {name: weights[name][rows]})
    values = ecgs()
    assert close(
        smaller(values[:, rows]).pooler_output, ecg_model(values, mask_of(leads, 500)).pooler_output, tolerance=2e-5
    )


def test_a_mask_of_ones_changes_nothing(ecg_model):
    values = ecgs()
    masked = ecg_model(values, torch.ones_like(values, dtype=torch.bool))
    assert close(masked.last_hidden_state, ecg_model(values).last_hidden_state)
    integers = ecg_model(values, torch.ones_like(values, dtype=torch.long))
    assert torch.equal(integers.last_hidden_state, masked.last_hidden_state)


def test_a_record_without_any_signal_stays_finite(ecg_model):
    mask = mask_of(["I"], 500).clone()
    mask[1] = False
    output = ecg_model(ecgs(), mask)
    assert output.pooler_output.isfinite().all()
    assert output.pooler_output[1].abs().max() == 0


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


@pytest.mark.parametrize("seconds, patches", [(2.5, 5), (2.51, 5), (3.3, 7), (5, 10), (10, 20), (30, 60)])
def test_lengths(ecg_model, seconds, patches):
    """A rest counts as a patch from half its length on."""
    output = ecg_model(ecgs(samples=round(100 * seconds)))
    counted = output.last_hidden_state.shape[1] if output.token_mask is None else output.token_mask[0].sum().item()
    assert counted == 12 * patches
    assert output.pooler_output.isfinite().all()


@pytest.mark.parametrize("samples", [250, 251, 330, 999])
def test_padding_does_not_matter(ecg_model, samples):
    short = ecgs(1, samples)
    batch, mask = torch.full((2, 12, 1000), float("nan")), torch.zeros(2, 12, 1000, dtype=torch.bool)
    batch[0, :, :samples], mask[0, :, :samples] = short[0], True
    batch[1], mask[1] = ecgs(1, 1000, seed=1)[0], True
    alone, padded = ecg_model(short), ecg_model(batch, mask)
    assert close(padded.pooler_output[:1], alone.pooler_output)
    patches = alone.last_hidden_state.shape[1] // 12
    tokens = padded.last_hidden_state.unflatten(1, (12, 20))[0, :, : samples // 50]
    assert close(tokens, alone.last_hidden_state.unflatten(1, (12, patches))[0, :, : samples // 50])


def test_time_and_amplitude_are_seen(ecg_model):
    values = ecgs()
    expected = ecg_model(values).pooler_output
    assert (ecg_model(values.roll(250, dims=2)).pooler_output - expected).abs().max() > 1e-3
    assert (ecg_model(2 * values).pooler_output - expected).abs().max() > 1e-2
    blind = build(MeritEcgModel, ecg_config(amplitude_embedding=False))
    assert close(blind(2 * values).pooler_output, blind(values).pooler_output, tolerance=1e-3)


def test_visible_patches_are_encoded_alone(ecg_model):
    values = ecgs()
    visible = torch.arange(0, 120, 3).expand(2, -1)
    output = ecg_model(values, visible_patches=visible)
    assert output.last_hidden_state.shape == (2, 40, 16)
    masked = torch.ones(2, 120, dtype=torch.bool).scatter(1, visible, False).view(2, 12, 10, 1).expand(-1, -1, -1, 50)
    other = ecg_model(values.masked_fill(masked.flatten(2), 9.0), visible_patches=visible)
    assert torch.equal(output.last_hidden_state, other.last_hidden_state)
    everything = ecg_model(values, visible_patches=torch.arange(120).expand(2, -1))
    assert close(everything.last_hidden_state, ecg_model(values).last_hidden_state)


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


@pytest.mark.parametrize("masked", [False, True])
def test_eager_attention_equals_sdpa(masked):
    models = [
        build(lambda config, how=how: MeritEcgModel._from_config(config, attn_implementation=how), ecg_config())
        for how in ("eager", "sdpa")
    ]
    mask = mask_of(["I", "V3"], 500) if masked else None
    eager, sdpa = (model(ecgs(), mask) for model in models)
    valid = slice(None) if eager.token_mask is None else eager.token_mask
    assert close(eager.last_hidden_state[valid], sdpa.last_hidden_state[valid])
    assert models[0].config._attn_implementation == "eager" and models[1].config._attn_implementation == "sdpa"


def test_hidden_states_and_attentions():
    model = build(lambda config: MeritEcgModel._from_config(config, attn_implementation="eager"), ecg_config())
    output = model(ecgs(), output_hidden_states=True, output_attentions=True)
    assert len(output.attentions) == 2 and output.attentions[0].shape == (2, 2, 120, 120)
    assert close(output.attentions[1].sum(dim=-1), torch.ones(2, 2, 120))
    assert all(state.shape == (2, 120, 16) for state in output.hidden_states)
    # The last one is what leaves the model, after the final LayerNorm.
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert model(ecgs()).hidden_states is None
    assert torch.equal(model(ecgs(), return_dict=False)[0], output.last_hidden_state)


@pytest.mark.parametrize("alignment_view", ["full", "masked"])
def test_activation_checkpointing_gives_the_same_gradients(alignment_view):
    gradients = []
    for checkpointing in (False, True):
        model = build(MeritForPreTraining, merit_config(alignment_view=alignment_view)).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert all(layer.gradient_checkpointing for layer in model.merit.ecg_model.layers)
        torch.manual_seed(0)
        model(ecgs(), **reports(*TEXTS)).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(close(a, b, tolerance=1e-6 * (1 + b.abs().max())) for a, b in zip(*gradients))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_model_equals_eager():
    model = build(MeritEcgModel, ecg_config(num_hidden_layers=1))
    values, mask = ecgs(), mask_of(["I", "II"], 500)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(values, mask)
        assert close(compiled.pooler_output, model(values, mask).pooler_output)


def test_graph_has_no_breaks(ecg_model):
    captured = torch.compile(ecg_model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert close(captured(ecgs(samples=999)).pooler_output, ecg_model(ecgs(samples=999)).pooler_output)


def test_bfloat16():
    model = build(MeritForPreTraining, merit_config())
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
    model = build(MeritForPreTraining, merit_config())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(ecgs(), **reports(*TEXTS))
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_dual_encoder_scores():
    model = build(MeritModel, merit_config())
    text = reports(*TEXTS, [2, 9, 3])
    output = model(ecgs(), **text)
    assert output.logits_per_ecg.shape == (2, 3)
    assert close(output.ecg_embeds.norm(dim=1), torch.ones(2)) and close(output.text_embeds.norm(dim=1), torch.ones(3))
    assert close(output.logits_per_ecg, output.ecg_embeds @ output.text_embeds.T / 0.07, tolerance=1e-3)
    assert torch.equal(output.ecg_embeds, model.get_ecg_features(ecgs()))
    assert torch.equal(output.text_embeds, model.get_text_features(**text))
    assert model(ecgs()).text_embeds is None and model(**text).ecg_embeds is None
    alone = model.get_text_features(**reports(TEXTS[1]))
    assert close(output.text_embeds[1:2], alone)
    with torch.no_grad():
        model.logit_scale.fill_(20.0)
    assert model.get_logit_scale().item() == 100
    with pytest.raises(ValueError, match="got neither"):
        model()


def test_text_pooling():
    mean, cls = (build(MeritModel, merit_config(text_pooling=how)) for how in ("mean", "cls"))
    text = reports(*TEXTS)
    hidden = cls.text_model(**text).last_hidden_state
    assert torch.equal(cls.get_text_features(**text), cls.text_projection(hidden[:, 0]))
    expected = torch.stack([hidden[0].mean(dim=0), hidden[1, :3].mean(dim=0)])
    assert close(mean.get_text_features(**text), mean.text_projection(expected))


def test_alignment_on_the_masked_view():
    model = build(MeritForPreTraining, merit_config(alignment_view="masked"))
    torch.manual_seed(0)
    output = model(ecgs(), **reports(*TEXTS))
    visible = (~output.masked_patches).nonzero()[:, 1].view(2, -1)
    pooled = model.merit.ecg_model(ecgs(), visible_patches=visible).pooler_output
    assert visible.shape == (2, 36)  # int(10 * 0.75) of 10 patches masked in each of 12 leads
    assert close(output.ecg_embeds, model.merit.ecg_projection(pooled))


def test_masked_alignment_without_reconstruction():
    model = build(MeritForPreTraining, merit_config(alignment_view="masked", reconstruction_weight=0.0))
    output = model(ecgs(), **reports(*TEXTS))
    assert output.reconstruction is None and output.loss.item() == output.contrastive_loss.item()


def test_partial_records_in_pre_training():
    """Padding and absent leads are neither targets nor seen."""
    model = build(MeritForPreTraining, merit_config())
    mask = mask_of(["II", "V5"], 500).clone()
    mask[1, :, 250:] = False
    outputs = []
    for filler in (0.0, float("nan")):
        torch.manual_seed(0)
        outputs.append(model(ecgs().masked_fill(~mask, filler), mask, **reports(*TEXTS)))
    # 10 and 5 valid patches per lead, of which 3 are kept.
    assert outputs[0].masked_patches.sum(dim=1).tolist() == [2 * 7, 2 * 2]
    assert outputs[0].loss.isfinite() and outputs[0].loss.item() == outputs[1].loss.item()


@pytest.mark.parametrize("count, got", [(0, "none"), (3, "3")])
def test_pre_training_wants_one_report_per_ecg(count, got):
    model = build(MeritForPreTraining, merit_config())
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
    probability = output.logits.sigmoid()
    expected = -(labels * probability.log() + (1 - labels) * (1 - probability).log()).mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.equal(output.logits, model.classifier(model.ecg_model(values).pooler_output))

    model.config.problem_type = "single_label_classification"
    output = model(values, labels=torch.tensor([2, 0, 1]))
    expected = -output.logits.log_softmax(dim=1)[torch.arange(3), torch.tensor([2, 0, 1])].mean()
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)

    assert model(values).loss is None
    model.config.problem_type = None
    with pytest.raises(ValueError, match="multi_label_classification.*got None"):
        model(values, labels=labels)


def test_training_lowers_both_losses():
    torch.manual_seed(0)
    model = MeritForPreTraining(merit_config()).train()
    time = torch.arange(500) / 100
    rates = torch.tensor([1.0, 1.5, 2.0, 2.5])[:, None, None]
    values = torch.sin(2 * torch.pi * rates * time).expand(4, 12, 500).contiguous()
    inputs = {"input_values": values, **reports([2, 5, 3], [2, 6, 3], [2, 7, 3], [2, 8, 3])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(100):
        output = model(**inputs)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append((output.reconstruction_loss.item(), output.contrastive_loss.item()))
    assert history[-1][0] < 0.7 * history[0][0]
    assert history[-1][1] < 0.1 < 1.386 < history[0][1]  # from above log 4 to nearly nothing


def test_same_seed_same_model():
    a, b, other = (build(MeritForPreTraining, merit_config(), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))
    assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), other.parameters()))
    pairs = itertools.combinations(MeritEcgModel(ecg_config()).embeddings.positions.lead_embedding.weight, 2)
    assert all(not torch.equal(x, y) for x, y in pairs)


def test_windows_are_encoded_as_records_of_their_own():
    """A record of 7.5 s in windows of 2.5 s, the last of them with a masked lead, and one that does not divide."""
    whole = build(MeritEcgModel, ecg_config())
    windowed = MeritEcgModel(ecg_config(window_seconds=2.5)).eval()
    windowed.load_state_dict(whole.state_dict())
    values = ecgs(samples=750)
    mask = torch.ones_like(values, dtype=torch.bool)
    mask[:, 3, 500:] = False
    with torch.no_grad():
        joined = windowed(values, mask)
        parts = [whole(values[..., i : i + 250], mask[..., i : i + 250]) for i in (0, 250, 500)]
        tokens = [part.last_hidden_state.unflatten(1, (12, 5)) for part in parts]
        torch.testing.assert_close(joined.last_hidden_state, torch.cat(tokens, dim=2).flatten(1, 2))
        means = torch.stack([part.pooler_output * part.token_mask.sum(1, keepdim=True) for part in parts]).sum(0)
        torch.testing.assert_close(joined.pooler_output, means / joined.token_mask.sum(1, keepdim=True))
        short = windowed(values[..., :620])
        assert short.last_hidden_state.shape[1] == 12 * 13 and short.last_hidden_state.isfinite().all()
        torch.testing.assert_close(windowed(values[..., :250]).pooler_output, whole(values[..., :250]).pooler_output)
