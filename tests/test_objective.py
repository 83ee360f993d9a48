"""Properties of the losses, and of the pre-training model that uses them."""

import itertools
import math
import socket

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import PATCH, build, ecgs, merit_config, reports
from torch import nn

from modeling_merit import MeritForPreTraining
from modeling_merit.objective_merit import (
    bag_of_words,
    contrastive_loss,
    ngram_keys,
    patchify,
    random_masking,
    reconstruction_information,
    reconstruction_loss,
    report_fingerprints,
    standardize_patches,
    text_information,
    word_information,
    word_loss,
)

TEXTS = ([2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 3], [2, 11, 3])


def pretrain(seed: int = 0, batch: int = 4, **fields):
    """A model that predicts the words of tokens 5 to 9, and its inputs."""
    model = build(MeritForPreTraining, merit_config(**{"num_words": 5, **fields}))
    if model.config.num_words:
        model.merit.set_words(torch.arange(6, 11), torch.linspace(0.1, 0.9, 5))
    return model, {"input_values": ecgs(batch, seed=seed), **reports(*TEXTS[:batch])}


def forward(model: MeritForPreTraining, mask_seed: int = 0, **inputs):
    torch.manual_seed(mask_seed)
    return model(**inputs)


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Largest absolute gradient per parameter; 0 where the loss does not depend on it."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: 0.0 if grad is None else grad.abs().max().item() for name, grad in zip(named, found)}


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_contrastive_loss_is_log_batch_when_all_embeddings_are_equal(batch):
    u, v = (nn.functional.normalize(torch.randn(1, 8), dim=1).expand(batch, 8) for _ in range(2))
    loss = contrastive_loss(u, v, torch.tensor(100.0))
    assert loss.item() == pytest.approx(math.log(batch), abs=1e-5)
    assert text_information(loss, batch).item() == pytest.approx(0, abs=1e-5)
    distinct = contrastive_loss(u, v, torch.tensor(100.0), torch.arange(batch))
    assert distinct.item() == pytest.approx(math.log(batch), abs=1e-5)
    # Reports that are all the same leave no negatives.
    assert contrastive_loss(u, v, torch.tensor(100.0), torch.zeros(batch, dtype=torch.long)).item() == 0


def test_model_starts_at_log_batch_when_its_heads_are_constant():
    model, inputs = pretrain()
    for head in (model.merit.ecg_projection, model.merit.text_projection):
        nn.init.zeros_(head.fc2.weight)
        nn.init.ones_(head.fc2.bias)
    output = forward(model, **inputs)
    assert output.contrastive_loss.item() == pytest.approx(math.log(4), abs=1e-5)
    assert output.text_information.item() == pytest.approx(0, abs=1e-5)


def test_each_branch_trains_its_own_parts():
    model, inputs = pretrain()
    output = forward(model, **inputs)
    structure = gradients(model, output.reconstruction_loss)
    contrast = gradients(model, output.contrastive_loss)
    words = gradients(model, output.word_loss)
    for name in structure:
        if name.endswith("key.bias"):
            continue  # softmax cancels it
        in_decoder, in_encoder = name.startswith("decoder."), name.startswith("merit.ecg_model.")
        in_word_head = name.startswith("merit.word_head.")
        assert (structure[name] > 0) == (in_decoder or in_encoder), name
        assert (contrast[name] > 0) == (not in_decoder and not in_word_head), name
        assert (words[name] > 0) == (in_word_head or in_encoder), name


def counted_samples(masked: torch.Tensor) -> torch.Tensor:
    """Masked patches (batch, leads, patches) of complete records as samples (…, patch_length)."""
    return masked[..., None].expand(*masked.shape, PATCH)


def test_reconstruction_loss_ignores_visible_targets():
    model, inputs = pretrain()
    inputs["input_values"] = inputs["input_values"][..., :496]
    output = forward(model, **inputs)
    patches, masked = patchify(inputs["input_values"], PATCH), counted_samples(output.masked_patches)
    noise = torch.randn_like(patches)
    visible_changed = torch.where(masked, patches, patches + noise)
    masked_changed = torch.where(masked, patches + noise, patches)
    loss = output.reconstruction_loss
    assert reconstruction_loss(output.reconstruction, patches, masked).item() == loss.item()
    assert reconstruction_loss(output.reconstruction, visible_changed, masked).item() == loss.item()
    assert abs(reconstruction_loss(output.reconstruction, masked_changed, masked) - loss) > 1e-3


def test_encoder_and_decoder_do_not_see_masked_patches():
    model, inputs = pretrain()
    noise = torch.rand(4, 12, 62)
    inputs["input_values"] = values = inputs["input_values"][..., :496].clone().requires_grad_()
    output = model(**inputs, noise=noise)
    samples = counted_samples(output.masked_patches).flatten(2)
    assert samples.float().mean().item() == 0.5
    seen = torch.autograd.grad(output.reconstruction.square().sum(), values)[0]
    assert (seen[samples] == 0).all() and (seen[~samples] != 0).float().mean() > 0.99
    inputs["input_values"] = values.detach().masked_fill(samples, 7.0)
    again = model(**inputs, noise=noise)
    assert torch.equal(again.masked_patches, output.masked_patches)
    assert torch.equal(again.reconstruction, output.reconstruction)
    assert (again.ecg_embeds - output.ecg_embeds).abs().max() > 1e-3  # the report is aligned with the full view
    with torch.no_grad():
        masked_view = model.merit.ecg_model(values, ~samples)
    recorded = torch.ones(4, 62, dtype=torch.bool)
    torch.testing.assert_close(model.decoder(masked_view.last_hidden_state, recorded), output.reconstruction)


def test_both_views_of_a_training_batch_share_the_statistics_of_batch_normalisation():
    """In training the encoder runs once for both views, so that a running mean moves by one step of 0.1."""
    model, inputs = pretrain()
    norm = model.merit.ecg_model.stem.convolutions[0].normalization
    before, seen = norm.running_mean.clone(), []
    hook = norm.register_forward_hook(lambda module, args, output: seen.append(args[0].detach()))
    forward(model.train(), **inputs)
    hook.remove()
    assert len(seen) == 1 and seen[0].shape[0] == 8
    expected = 0.9 * before + 0.1 * seen[0].mean(dim=(0, 2))
    torch.testing.assert_close(norm.running_mean, expected)


def test_loss_is_the_error_on_standardised_masked_patches():
    patches = torch.randn(3, 4, 50) * 2 + 5
    standard = standardize_patches(patches)
    assert standard.mean(dim=-1).abs().max() < 1e-5
    assert standard.var(dim=-1, correction=0).sub(1).abs().max() < 1e-3
    assert standardize_patches(torch.full((1, 50), 3.0)).abs().max() == 0
    masked = torch.tensor([[True, False, False, False]])[..., None].expand(3, 4, 50)
    prediction = standard.clone()
    prediction[:, 0] += 2
    prediction[:, 1:] += 100
    assert reconstruction_loss(prediction, patches, masked).item() == pytest.approx(4, abs=1e-4)
    assert reconstruction_information(torch.tensor(0.25)).item() == pytest.approx(math.log(2))


@settings(max_examples=50)
@given(st.integers(1, 50), st.integers(0, 99))
def test_a_patch_recorded_in_part_is_standardised_and_weighted_by_that_part(recorded, seed):
    """Against numpy on what was recorded alone; whatever stands elsewhere does not matter."""
    generator = torch.Generator().manual_seed(seed)
    patches, prediction = torch.randn(2, 3, 50, generator=generator) * 2 + 5
    counted = torch.ones(3, 50, dtype=torch.bool)
    counted[1, recorded:] = False
    counted[2] = False
    errors = []
    for row, length in ((0, 50), (1, recorded)):
        target = patches[row, :length].double().numpy()
        target = (target - target.mean()) / np.sqrt(target.var() + 1e-4)
        errors.append((prediction[row, :length].double().numpy() - target) ** 2)
    expected = np.concatenate(errors).mean()
    assert reconstruction_loss(prediction, patches, counted).item() == pytest.approx(expected, rel=1e-4)
    noisy = torch.where(counted, patches, 1e3)
    assert reconstruction_loss(prediction, noisy, counted).item() == pytest.approx(expected, rel=1e-4)
    nothing = torch.zeros(3, 50, dtype=torch.bool)
    assert reconstruction_loss(prediction, patches, nothing).item() == 0


@settings(max_examples=50)
@given(patches=st.integers(2, 30), ratio=st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), seed=st.integers(0, 999))
def test_masks_cover_the_configured_number_in_every_lead(patches, ratio, seed):
    torch.manual_seed(seed)
    masked = random_masking(torch.ones(2, 12, patches, dtype=torch.bool), ratio)
    assert masked.shape == (2, 12, patches) and masked.dtype == torch.bool
    assert (masked.sum(dim=2) == int(patches * ratio)).all()
    torch.manual_seed(seed)
    assert torch.equal(random_masking(torch.ones(2, 12, patches, dtype=torch.bool), ratio), masked)


def test_masks_are_independent_between_leads_and_uniform():
    torch.manual_seed(0)
    records, patches = 4000, 8
    masked = random_masking(torch.ones(records, 12, patches, dtype=torch.bool), 0.75)
    shown = (~masked).double()
    error = math.sqrt(0.25 * 0.75 / records)
    assert shown.mean(dim=0).sub(0.25).abs().max() < 4.5 * error
    together = torch.einsum("bip,bjp->ijp", shown, shown) / records
    others = ~torch.eye(12, dtype=torch.bool)
    assert together[others].sub(0.25**2).abs().max() < 5 * error / 2
    assert not torch.equal(shown[:2000], shown[2000:])


@settings(max_examples=50)
@given(st.integers(0, 999), st.sampled_from([0.25, 0.5, 0.75]))
def test_masks_never_count_padding(seed, ratio):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(2, 3, 8, generator=generator) > 0.4
    masked = random_masking(valid, ratio, torch.rand(2, 3, 8, generator=generator))
    assert not (masked & ~valid).any()
    assert torch.equal(masked.sum(dim=2), (valid.sum(dim=2) * ratio).floor().long())


def test_contrastive_loss_does_not_depend_on_the_order_of_the_batch():
    model, inputs = pretrain()
    inputs |= reports(TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {name: value[order] for name, value in inputs.items()}
    loss = forward(model, **inputs).contrastive_loss
    assert forward(model, **shuffled).contrastive_loss.item() == pytest.approx(loss.item(), abs=1e-5)
    mismatched = inputs | {"input_values": shuffled["input_values"]}
    assert abs(forward(model, **mismatched).contrastive_loss - loss) > 1e-3


def test_without_reports_it_is_a_masked_autoencoder():
    both, inputs = pretrain()
    masked_only, _ = pretrain(contrastive_weight=0.0, word_weight=0.0)
    output = forward(masked_only, input_values=inputs["input_values"])
    assert output.loss.item() == pytest.approx(forward(both, **inputs).reconstruction_loss.item(), rel=1e-6)
    for name in ("contrastive_loss", "text_embeds", "text_information", "word_loss", "word_information"):
        assert output[name] is None if name in output else output.get(name) is None
    trained = {name for name, size in gradients(masked_only, output.loss).items() if size > 0}
    assert all(name.startswith(("decoder.", "merit.ecg_model.")) for name in trained)


def test_contrast_alone_is_clip():
    model, inputs = pretrain(reconstruction_weight=0.0, word_weight=0.0)
    output = forward(model, **inputs)
    assert output.reconstruction_loss is None and output.masked_patches is None and output.word_loss is None
    encoded = model.merit(**inputs)
    pairs = torch.arange(4)
    clip = sum(nn.functional.cross_entropy(s, pairs) for s in (encoded.logits_per_ecg, encoded.logits_per_ecg.T)) / 2
    assert output.loss.item() == pytest.approx(clip.item(), abs=1e-6)
    idle = ("decoder.", "merit.word_head.")
    assert max(size for name, size in gradients(model, output.loss).items() if name.startswith(idle)) == 0


def test_words_alone_are_a_classifier_of_the_report():
    model, inputs = pretrain(reconstruction_weight=0.0, contrastive_weight=0.0, word_weight=2.0)
    output = forward(model, **inputs)
    assert output.contrastive_loss is None and output.ecg_embeds is None
    held = torch.tensor([[float(token in text) for token in range(5, 10)] for text in TEXTS])
    logits = model.merit.get_word_logits(model.merit.ecg_model(inputs["input_values"]).pooler_output)
    probability = logits.sigmoid()
    likelihood = torch.where(held > 0, probability, 1 - probability).log().sum(dim=1).mean()
    assert output.loss.item() == pytest.approx(-2 * likelihood.item(), rel=1e-5)
    trained = {name for name, size in gradients(model, output.loss).items() if size > 0}
    assert all(name.startswith(("merit.word_head.", "merit.ecg_model.")) for name in trained)


def test_loss_is_the_weighted_sum():
    model, inputs = pretrain(reconstruction_weight=0.5, contrastive_weight=3.0, word_weight=0.2)
    output = forward(model, **inputs)
    expected = 0.5 * output.reconstruction_loss + 3 * output.contrastive_loss + 0.2 * output.word_loss
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert output.text_information.item() == pytest.approx(math.log(4) - output.contrastive_loss.item(), abs=1e-6)
    information = word_information(output.word_loss, model.merit.word_log_odds)
    assert output.word_information.item() == pytest.approx(information.item(), abs=1e-5)


def test_text_information_keeps_equal_reports_in_its_denominator():
    model, inputs = pretrain()
    inputs |= reports(TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2])
    output = forward(model, **inputs)
    bound = math.log(4) - contrastive_loss(output.ecg_embeds, output.text_embeds, model.merit.get_logit_scale())
    assert output.text_information.item() == pytest.approx(bound.item(), abs=1e-6)
    assert output.contrastive_loss.item() < math.log(4) - bound.item() - 1e-3


def test_ecg_embedding_does_not_depend_on_the_text():
    model, inputs = pretrain()
    output = forward(model, **inputs)
    other = forward(model, **inputs | reports([2, 50, 3], [2, 51, 3], [2, 52, 3], [2, 53, 3]))
    assert torch.equal(output.ecg_embeds, other.ecg_embeds)
    assert torch.equal(output.reconstruction, other.reconstruction)
    assert (output.text_embeds - other.text_embeds).abs().max() > 1e-3


def separate(angle: float, fingerprints: torch.Tensor | None) -> float:
    """Rate at which the loss changes when two pairs, `angle` on either side of one direction, move apart."""
    half = torch.tensor(angle, requires_grad=True)
    embeds = torch.stack([torch.stack([half.cos(), half.sin()]), torch.stack([half.cos(), -half.sin()])])
    contrastive_loss(embeds, embeds, torch.tensor(1.0), fingerprints).backward()
    return half.grad.item()


def test_equal_reports_are_not_pushed_apart():
    # By hand: both losses depend on c = cos 2a alone, by log(1 + exp(c - 1)), unless the reports are equal.
    c = math.cos(1.0)
    push = -2 * math.sin(1.0) / (1 + math.exp(1 - c))
    assert separate(0.5, torch.tensor([1, 1])) == 0
    assert separate(0.5, torch.tensor([1, 2])) == pytest.approx(push, abs=1e-6)
    assert separate(0.5, None) == pytest.approx(push, abs=1e-6) and push < 0


REPEATED = torch.tensor([7, 8, 7, 9])


def repeated_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Orthogonal ECG embeddings, and those of texts of which the first and third are equal."""
    torch.manual_seed(0)
    text = nn.functional.normalize(torch.randn(4, 4), dim=1)
    text[2] = text[0]
    return torch.eye(4).requires_grad_(), text.requires_grad_()


def test_a_text_does_not_repel_the_ecgs_of_its_equals():
    """The gradient on a text is a sum of ECG embeddings; these are orthogonal, so each has a coordinate of its own."""
    ecg, text = repeated_pairs()
    for fingerprints, repelled in ((None, True), (REPEATED, False)):
        grad = torch.autograd.grad(contrastive_loss(ecg, text, torch.tensor(5.0), fingerprints), text)[0]
        assert (grad[0, 2] > 1e-3) == (grad[2, 0] > 1e-3) == repelled
        assert repelled or grad[0, 2] == grad[2, 0] == 0
        assert grad[0, 1] > 1e-3 and grad[0, 3] > 1e-3 > -1e-3 > grad[0, 0]  # others repel, its own attracts


def test_uniform_targets_over_equal_reports_change_nothing():
    """Equal texts have equal logits: loss and gradient are those of one target, and equal reports still repel."""
    ecg, text = repeated_pairs()
    logits = 5 * ecg @ text.T
    target = (REPEATED[:, None] == REPEATED).float()
    target = target / target.sum(dim=1, keepdim=True)
    uniform = sum(-(target * s.log_softmax(dim=1)).sum(dim=1).mean() for s in (logits, logits.T)) / 2
    one_hot = contrastive_loss(ecg, text, torch.tensor(5.0))
    assert uniform.item() == pytest.approx(one_hot.item(), abs=1e-6)
    gradients = [torch.autograd.grad(loss, (ecg, text), retain_graph=True) for loss in (uniform, one_hot)]
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    # A text encoder is given the sum over equal texts.
    shared = [grad[1][0] + grad[1][2] for grad in gradients]
    torch.testing.assert_close(shared[0], shared[1])
    assert abs(contrastive_loss(ecg, text, torch.tensor(5.0), REPEATED) - one_hot) > 0.05


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(0, 99))
def test_contrastive_loss_by_hand(fingerprints, seed):
    """Every pair against itself and the pairs of other reports, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    u, v = nn.functional.normalize(torch.randn(2, len(fingerprints), 4, generator=generator), dim=2)
    found = contrastive_loss(u, v, torch.tensor(5.0), torch.tensor(fingerprints)).item()
    expected = 0.0
    for (i, mine), (a, b) in itertools.product(enumerate(fingerprints), ((u, v), (v, u))):
        negatives = [j for j, other in enumerate(fingerprints) if j == i or other != mine]
        scores = 5 * (b[negatives] @ a[i]).double()
        expected += (scores.exp().sum().log() - 5 * (a[i] @ b[i])).item() / 2 / len(fingerprints)
    assert found == pytest.approx(expected, abs=1e-5)


VOCABULARY = 12
texts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=9), min_size=1, max_size=4)


def padded(rows: list[list[int]], left: int, right: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask of texts between random padding."""
    length = max(map(len, rows)) + left + right
    ids = torch.randint(VOCABULARY, (len(rows), length), generator=torch.Generator().manual_seed(length))
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, text in enumerate(rows):
        ids[row, left : left + len(text)], mask[row, left : left + len(text)] = torch.tensor(text), 1
    return ids, mask


def ngrams(text: list[int], longest: int) -> set[tuple[int, ...]]:
    return {
        tuple(text[start : start + size]) for size in range(1, longest + 1) for start in range(len(text) - size + 1)
    }


def key(ngram: tuple[int, ...]) -> int:
    """The tokens, counted from 1, as digits, the most significant one first."""
    return sum((token + 1) * (VOCABULARY + 1) ** place for place, token in enumerate(reversed(ngram)))


@settings(max_examples=100)
@given(texts, st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))
def test_ngrams_are_those_of_the_text(rows, left, right, longest):
    ids, mask = padded(rows, left, right)
    if ids.shape[1] == 0:
        return
    keys = ngram_keys(ids, mask, VOCABULARY, longest)
    assert keys.shape == (len(rows), longest * ids.shape[1])
    for found, text in zip(keys.tolist(), rows):
        assert sorted(set(found) - {-1}) == sorted(map(key, ngrams(text, longest)))
        assert sum(k >= 0 for k in found) == sum(max(len(text) - size, 0) for size in range(longest))
    assert len({key(ngram) for text in rows for ngram in ngrams(text, longest)}) == len(
        {ngram for text in rows for ngram in ngrams(text, longest)}
    )


@settings(max_examples=100)
@given(texts, st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3), min_size=1, max_size=9))
def test_bags_hold_the_words_of_the_text(rows, words):
    words = sorted({tuple(word) for word in words} | {tuple(text[:2]) for text in rows if text}, key=key)
    ids, mask = padded(rows, 1, 2)
    bags = bag_of_words(ngram_keys(ids, mask, VOCABULARY, 3), torch.tensor([key(word) for word in words]))
    assert bags.tolist() == [[float(word in ngrams(text, 3)) for word in words] for text in rows]


def test_word_loss_and_information_by_hand():
    logits, bags = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])

    def nats(z: float, y: float) -> float:
        return math.log(1 + math.exp(-z if y else z))

    expected = (nats(0, 1) + nats(2, 0) + nats(1, 1) + nats(-1, 1)) / 2
    loss = word_loss(logits, bags)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    entropy = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.5, 0.2))
    information = word_information(loss, torch.tensor([0.5, 0.2]).logit()).item()
    assert information == pytest.approx(entropy - expected, abs=1e-6)
    # Frequencies alone tell nothing; certainty tells the whole entropy.
    frequencies = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    odds = torch.tensor([0.5, 0.25]).logit()
    assert word_information(word_loss(odds.expand(4, 2), frequencies), odds).item() == pytest.approx(0, abs=1e-6)
    certain = word_loss(100 * (2 * frequencies - 1), frequencies)
    assert word_information(certain, odds).item() == pytest.approx(math.log(2) + 0.562335, abs=1e-5)


tokens = st.lists(st.integers(0, 30_000), min_size=1, max_size=20)


def fingerprint(text: list[int], left: int = 0, right: int = 0, filler: int = 0) -> int:
    ids = torch.tensor([[filler] * left + text + [filler] * right])
    mask = torch.tensor([[0] * left + [1] * len(text) + [0] * right])
    return report_fingerprints(ids, mask).item()


@settings(max_examples=100)
@given(tokens, tokens, st.integers(0, 9), st.integers(0, 9), st.integers(0, 30_000))
def test_fingerprints_are_equal_exactly_for_equal_reports(text, other, left, right, filler):
    assert fingerprint(text, left, right, filler) == fingerprint(text)
    assert report_fingerprints(torch.tensor([text])).item() == fingerprint(text)
    assert (fingerprint(other) == fingerprint(text)) == (other == text)
    assert fingerprint(text + [0]) != fingerprint(text)


def test_fingerprints_of_similar_reports_differ():
    """All reports of 7 tokens over {5, 6, 7, 8}: structured differences, such as swapped words, do not cancel."""
    texts = torch.cartesian_prod(*[torch.arange(5, 9)] * 7)
    assert report_fingerprints(texts).unique().numel() == len(texts) == 4**7


PAIRS = (TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[0])  # processes 0 and 1 share a report


def parallel_model() -> MeritForPreTraining:
    """In evaluation mode: statistics of batch normalisation are those of a process."""
    return pretrain(logit_scale_init_value=0.0)[0].double()


def parallel_inputs() -> dict[str, torch.Tensor]:
    """Four pairs; the first process has far fewer leads and samples than the second."""
    mask = torch.ones(4, 12, 500, dtype=torch.bool)
    mask[0, 2:], mask[1, 5:], mask[1, :, 203:], mask[3, 0] = False, False, False, False
    noise = torch.rand(4, 12, 63, generator=torch.Generator().manual_seed(0))
    return {"input_values": ecgs(4).double(), "ecg_mask": mask, "noise": noise, **reports(*PAIRS)}


LOSSES = ("loss", "reconstruction_loss", "contrastive_loss", "word_loss", "text_information", "word_information")


def gradient_of_half(rank: int, port: int, folder: str) -> None:
    """One of two processes: the gradient that DistributedDataParallel makes of half the pairs."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = parallel_model()
    parallel = nn.parallel.DistributedDataParallel(model)
    half = {name: value[2 * rank : 2 * rank + 2] for name, value in parallel_inputs().items()}
    output = parallel(**half)
    output.loss.backward()
    gradient = {name: p.grad for name, p in model.named_parameters()}
    torch.save({"gradient": gradient} | {name: output[name].item() for name in LOSSES}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_gradient_of_two_processes_is_that_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(gradient_of_half, (port, str(tmp_path)), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    model, inputs = parallel_model(), parallel_inputs()
    output = model(**inputs)
    output.loss.backward()
    for name in LOSSES:
        assert (results[0][name] + results[1][name]) / 2 == pytest.approx(output[name].item(), abs=1e-5), name
    # The halves differ, so that a mean of their own means would not do.
    masked = [output.masked_patches[half].sum().item() for half in (slice(0, 2), slice(2, 4))]
    assert 5 * masked[0] < masked[1]
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert max(grad.abs().max() for grad in expected.values()) > 1e-2
    for name, grad in expected.items():
        for result in results:
            torch.testing.assert_close(result["gradient"][name], grad, rtol=1e-4, atol=1e-6, msg=name)
    distinct = model(**inputs | reports(*TEXTS))
    assert abs(distinct.contrastive_loss - output.contrastive_loss) > 1e-3  # the shared report matters
