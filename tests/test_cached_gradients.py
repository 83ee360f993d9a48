"""The gradient of a contrastive batch that is encoded in parts."""

import pytest
import torch
from accelerate import Accelerator
from tiny_models import PATCH, build, merit_config
from torch import nn

from modeling_merit import MeritForPreTraining
from modeling_merit.processing.training.cached_gradients import backward_in_parts

PAIRS = 7


def model_of(**settings):
    """A tiny model in double precision, in training mode but for what parts do not share."""
    model = build(MeritForPreTraining, merit_config(**settings)).double()
    if model.config.num_words:
        model.merit.set_words(torch.arange(5, 10), torch.full((5,), 0.2))
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.BatchNorm1d)):
            module.eval()
    return model


def batch_of(pairs=PAIRS):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 10, (pairs, 6), generator=generator)
    ids[-1] = ids[0]  # equal reports
    return {
        "input_values": torch.randn(pairs, 12, 256, generator=generator).double(),
        "ecg_mask": torch.rand(pairs, 12, 256, generator=generator) > torch.linspace(0, 0.9, pairs)[:, None, None],
        "input_ids": ids,
        "attention_mask": (torch.arange(6) < torch.randint(2, 7, (pairs, 1), generator=generator)).long(),
        "noise": torch.rand(pairs, 12, 256 // PATCH, generator=generator),
    }


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("part_size", [1, 3, PAIRS, 100])
@pytest.mark.parametrize("settings", [{}, {"num_words": 5, "max_ngram": 1}, {"reconstruction_weight": 0.0}])
def test_gradient_and_losses_are_those_of_one_pass(part_size, settings):
    model, batch = model_of(**settings), batch_of()
    one = model(**batch)
    one.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    parts = backward_in_parts(model, batch, part_size, Accelerator(cpu=True))
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name],
            gradient,
            rtol=1e-6,
            atol=1e-7,
            check_dtype=False,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    for name, value in parts.items():
        torch.testing.assert_close(
            value,
            one[name].detach(),
            rtol=1e-6,
            atol=1e-7,
            check_dtype=False,
            msg=lambda text, name=name: f"{name}: {text}",
        )
        assert not value.requires_grad
    scalars = {name for name, value in one.items() if isinstance(value, torch.Tensor) and value.dim() == 0}
    assert set(parts) == scalars


def test_dropout_and_masks_are_the_same_in_both_passes():
    """Else the gradient would be that of other embeddings than were compared."""
    model = build(MeritForPreTraining, merit_config({"hidden_dropout": 0.5})).train()
    seen = []
    model.merit.ecg_projection.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    batch = {name: value.float() if value.is_floating_point() else value for name, value in batch_of().items()}
    batch.pop("noise")
    backward_in_parts(model, batch, 4, Accelerator(cpu=True))
    assert len(seen) == 4
    for first, second in zip(seen[:2], seen[2:]):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_batch_normalisation_counts_every_part_once():
    model = build(MeritForPreTraining, merit_config()).train()
    batch = {name: value.float() if value.is_floating_point() else value for name, value in batch_of().items()}
    backward_in_parts(model, batch, 4, Accelerator(cpu=True))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            assert layer.num_batches_tracked == 2 and layer.track_running_stats and layer.running_mean is not None


def test_refuses_a_model_that_aligns_nothing():
    with pytest.raises(ValueError, match="contrastive weight above 0"):
        backward_in_parts(model_of(contrastive_weight=0.0), batch_of(), 2, Accelerator(cpu=True))
