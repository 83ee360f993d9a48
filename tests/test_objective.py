"""Properties of the losses, and of the pre-training model that uses them."""

import math
import socket

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import build, ecgs, merit_config, reports
from torch import nn

from modeling_merit import MeritForPreTraining
from modeling_merit.objective_merit import (
    contrastive_loss,
    patchify,
    random_masking,
    reconstruction_information,
    reconstruction_loss,
    report_fingerprints,
    standardize_patches,
    text_information,
)

TEXTS = ([2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 3], [2, 11, 3])


def pretrain(seed: int = 0, batch: int = 4, **fields):
    return build(MeritForPreTraining, merit_config(**fields)), {
        "input_values": ecgs(batch, seed=seed),
        **reports(*TEXTS[:batch]),
    }


def forward(model: MeritForPreTraining, mask_seed: int = 0, **inputs):
    torch.manual_seed(mask_seed)
    return model(**inputs)


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Largest absolute gradient per child of the model; 0 where the loss does not depend on it."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: 0.0 if grad is None else grad.abs().max().item() for name, grad in zip(named, found)}


@pytest.mark.parametrize("batch", [2, 5, 64])
def test_contrastive_loss_is_log_batch_when_all_embeddings_are_equal(batch):
    u, v = (nn.functional.normalize(torch.randn(1, 8), dim=1).expand(batch, 8) for _ in range(2))
    loss = contrastive_loss(u, v, torch.tensor(100.0))
    assert loss.item() == pytest.approx(math.log(batch), abs=1e-5)
    assert text_information(loss, batch).item() == pytest.approx(0, abs=1e-5)
    equal_reports = contrastive_loss(u, v, torch.tensor(100.0), torch.zeros(batch, dtype=torch.long))
    assert equal_reports.item() == pytest.approx(math.log(batch), abs=1e-5)


def test_model_starts_at_log_batch_when_its_heads_are_constant():
    model, inputs = pretrain()
    for head in (model.merit.ecg_projection, model.merit.text_projection):
        nn.init.zeros_(head.fc2.weight)
        nn.init.ones_(head.fc2.bias)
    output = forward(model, **inputs)
    assert output.contrastive_loss.item() == pytest.approx(math.log(4), abs=1e-5)
    assert output.text_information.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("alignment_view", ["full", "masked"])
def test_each_branch_trains_its_own_parts(alignment_view):
    model, inputs = pretrain(alignment_view=alignment_view)
    output = forward(model, **inputs)
    structure = gradients(model, output.reconstruction_loss)
    semantics = gradients(model, output.contrastive_loss)
    for name in structure:
        if name.endswith(("k_proj.bias", "key.bias")):
            continue  # softmax cancels it
        in_decoder, in_encoder = name.startswith("decoder."), name.startswith("merit.ecg_model.")
        assert (structure[name] > 0) == (in_decoder or in_encoder), name
        assert (semantics[name] > 0) == (not in_decoder), name


def test_reconstruction_loss_ignores_visible_targets():
    model, inputs = pretrain()
    output = forward(model, **inputs)
    patches, masked = patchify(inputs["input_values"], 50), output.masked_patches
    noise = torch.randn_like(patches)
    visible_changed = torch.where(masked[..., None], patches, patches + noise)
    masked_changed = torch.where(masked[..., None], patches + noise, patches)
    loss = output.reconstruction_loss
    assert reconstruction_loss(output.reconstruction, patches, masked).item() == loss.item()
    assert reconstruction_loss(output.reconstruction, visible_changed, masked).item() == loss.item()
    assert abs(reconstruction_loss(output.reconstruction, masked_changed, masked) - loss) > 1e-3


def test_encoder_and_decoder_do_not_see_masked_patches():
    model, inputs = pretrain()
    output = forward(model, **inputs)
    samples = output.masked_patches.view(4, 12, 10, 1).expand(-1, -1, -1, 50).flatten(2)
    inputs["input_values"] = inputs["input_values"].masked_fill(samples, 7.0)
    again = forward(model, **inputs)
    assert torch.equal(again.masked_patches, output.masked_patches)
    assert torch.equal(again.reconstruction, output.reconstruction)


def test_loss_is_the_error_on_standardised_masked_patches():
    patches = torch.randn(3, 4, 50) * 2 + 5
    standard = standardize_patches(patches)
    assert standard.mean(dim=-1).abs().max() < 1e-5
    assert standard.var(dim=-1, correction=0).sub(1).abs().max() < 1e-3
    assert standardize_patches(torch.full((1, 50), 3.0)).abs().max() == 0
    masked = torch.tensor([[True, False, False, False]]).expand(3, 4)
    prediction = standard.clone()
    prediction[:, 0] += 2
    prediction[:, 1:] += 100
    assert reconstruction_loss(prediction, patches, masked).item() == pytest.approx(4, abs=1e-4)
    assert reconstruction_information(torch.tensor(0.25)).item() == pytest.approx(math.log(2))


@settings(max_examples=50, deadline=None)
@given(patches=st.integers(2, 30), ratio=st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), seed=st.integers(0, 999))
def test_masks_cover_the_configured_number_in_every_lead(patches, ratio, seed):
    torch.manual_seed(seed)
    visible, masked = random_masking(torch.ones(2, 12, patches, dtype=torch.bool), ratio)
    expected = min(int(patches * ratio), patches - 1)
    assert (masked.view(2, 12, patches).sum(dim=2) == expected).all()
    assert visible.shape == (2, 12 * (patches - expected))
    assert torch.equal(~masked, torch.zeros_like(masked).scatter(1, visible, True))
    assert (visible.diff(dim=1) > 0).all()


def test_masks_are_independent_between_leads_and_uniform():
    torch.manual_seed(0)
    records, patches = 4000, 8
    _, masked = random_masking(torch.ones(records, 12, patches, dtype=torch.bool), 0.75)
    shown = (~masked).view(records, 12, patches).double()
    error = math.sqrt(0.25 * 0.75 / records)
    assert shown.mean(dim=0).sub(0.25).abs().max() < 4.5 * error
    together = torch.einsum("bip,bjp->ijp", shown, shown) / records
    others = ~torch.eye(12, dtype=torch.bool)
    assert together[others].sub(0.25**2).abs().max() < 5 * error / 2
    assert not torch.equal(shown[:2000], shown[2000:])


def test_masks_keep_real_patches_first_and_never_count_padding():
    torch.manual_seed(0)
    valid = torch.zeros(1, 3, 8, dtype=torch.bool)
    valid[:, 0], valid[:, 1, :3] = True, True
    visible, masked = random_masking(valid, 0.75)
    assert masked.view(3, 8).sum(dim=1).tolist() == [6, 1, 0]
    assert not (masked & ~valid.flatten(1)).any()
    assert (visible.view(3, 2)[1] - 8 < 3).all()


def test_contrastive_loss_does_not_depend_on_the_order_of_the_batch():
    model, inputs = pretrain()
    inputs |= reports(TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[2])
    order = torch.tensor([2, 0, 3, 1])
    shuffled = {name: value[order] for name, value in inputs.items()}
    loss = forward(model, **inputs).contrastive_loss
    assert forward(model, **shuffled).contrastive_loss.item() == pytest.approx(loss.item(), abs=1e-5)
    mismatched = inputs | {"input_values": shuffled["input_values"]}
    assert abs(forward(model, **mismatched).contrastive_loss - loss) > 1e-3


def test_without_contrast_it_is_a_masked_autoencoder():
    both, inputs = pretrain()
    masked_only, _ = pretrain(contrastive_weight=0.0)
    output = forward(masked_only, input_values=inputs["input_values"])
    assert output.loss.item() == forward(both, **inputs).reconstruction_loss.item()
    assert output.contrastive_loss is None and output.text_embeds is None and output.text_information is None
    trained = {name for name, size in gradients(masked_only, output.loss).items() if size > 0}
    assert all(name.startswith(("decoder.", "merit.ecg_model.")) for name in trained)


def test_without_reconstruction_it_is_clip():
    model, inputs = pretrain(reconstruction_weight=0.0)
    output = forward(model, **inputs)
    assert output.reconstruction_loss is None and output.masked_patches is None
    encoded = model.merit(**inputs)
    pairs = torch.arange(4)
    clip = sum(nn.functional.cross_entropy(s, pairs) for s in (encoded.logits_per_ecg, encoded.logits_per_ecg.T)) / 2
    assert output.loss.item() == pytest.approx(clip.item(), abs=1e-6)
    assert max(size for name, size in gradients(model, output.loss).items() if name.startswith("decoder.")) == 0


def test_loss_is_the_weighted_sum():
    model, inputs = pretrain(reconstruction_weight=0.5, contrastive_weight=3.0)
    output = forward(model, **inputs)
    expected = 0.5 * output.reconstruction_loss + 3 * output.contrastive_loss
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert output.text_information.item() == pytest.approx(math.log(4) - output.contrastive_loss.item(), abs=1e-6)


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
    # By hand: both losses depend on c = cos 2a alone; they fall with growing c if and only if the pair attracts.
    c = math.cos(1.0)
    pull = 1 / (1 + math.exp(1 - c))
    slope = -2 * math.sin(1.0)
    assert separate(0.5, torch.tensor([1, 1])) == pytest.approx(slope * (pull - 0.5), abs=1e-6)
    assert separate(0.5, torch.tensor([1, 2])) == pytest.approx(slope * pull, abs=1e-6)
    assert separate(0.5, torch.tensor([1, 1])) > 0 > separate(0.5, None)


def test_equal_reports_have_one_target():
    torch.manual_seed(0)
    u, v = (nn.functional.normalize(torch.randn(3, 4), dim=1) for _ in range(2))
    loss = contrastive_loss(u, v, torch.tensor(5.0), torch.tensor([7, 8, 7]))
    target = torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
    expected = sum(-(target * (5 * s).log_softmax(dim=1)).sum(dim=1).mean() for s in (u @ v.T, v @ u.T)) / 2
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


tokens = st.lists(st.integers(0, 30_000), min_size=1, max_size=20)


def fingerprint(text: list[int], left: int = 0, right: int = 0, filler: int = 0) -> int:
    ids = torch.tensor([[filler] * left + text + [filler] * right])
    mask = torch.tensor([[0] * left + [1] * len(text) + [0] * right])
    return report_fingerprints(ids, mask).item()


@settings(max_examples=100, deadline=None)
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


def contrastive_model() -> MeritForPreTraining:
    torch.manual_seed(0)
    return MeritForPreTraining(merit_config(reconstruction_weight=0.0, logit_scale_init_value=0.0)).double().eval()


def contrastive_gradient(rank: int, port: int, folder: str) -> None:
    """One of two processes: the gradient that DistributedDataParallel makes of half the pairs."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = contrastive_model()
    parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    half = slice(2 * rank, 2 * rank + 2)
    output = parallel(input_values=ecgs(4)[half], **reports(*PAIRS[half]))
    output.loss.backward()
    torch.distributed.all_reduce(output.loss.data)
    gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    result = {"loss": output.loss.item() / 2, "information": output.text_information.item(), "gradient": gradient}
    torch.save(result, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_contrastive_gradient_of_two_processes_is_that_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(contrastive_gradient, (port, str(tmp_path)), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    model = contrastive_model()
    output = model(input_values=ecgs(4), **reports(*PAIRS))
    output.loss.backward()
    assert results[0]["loss"] == pytest.approx(output.loss.item(), abs=1e-6)
    mean_information = (results[0]["information"] + results[1]["information"]) / 2
    assert mean_information == pytest.approx(output.text_information.item(), abs=1e-6)
    expected = torch.cat([parameter.grad.flatten() for parameter in model.merit.parameters()])
    for result in results:
        found = torch.cat(
            [result["gradient"][f"merit.{name}"].flatten() for name, _ in model.merit.named_parameters()]
        )
        assert (found - expected).abs().max() < 1e-9 < 1e-3 < expected.abs().max()
    distinct = model(input_values=ecgs(4), **reports(*TEXTS)).loss
    assert abs(distinct - output.loss) > 1e-3  # the shared report matters
