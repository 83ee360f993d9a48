"""Contrastive batches that do not fit into memory: the gradient of the whole batch, encoded in parts.

The contrast needs the embeddings of all pairs at once, but only these. A first pass makes them without gradients, the
gradient of the contrastive loss with respect to them is taken, and a second pass takes it back through the encoders,
one part after the other (Gao et al., Scaling deep contrastive learning batch size under memory limited setup, 2021).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import nn

from modeling_merit.modeling_merit import MeritForPreTrainingOutput
from modeling_merit.objective_merit import (
    contrastive_loss,
    patchify,
    reconstruction_information,
    report_fingerprints,
    text_information,
    word_information,
)


def backward_in_parts(
    model: nn.Module, batch: Mapping[str, torch.Tensor], part_size: int, accelerator: Accelerator
) -> MeritForPreTrainingOutput:
    """Add to the gradients that of the loss of a batch, with the memory of a part of it.

    The gradient is that of one pass over the batch, but for what parts do not share: batch normalisation has the
    statistics of each part, as it has those of each process.

    Args:
        model (`nn.Module`): A `MeritForPreTraining`, as `accelerator.prepare` returned it, in training mode.
        batch (mapping of `str` to `torch.Tensor`): Its inputs, whose first dimension is that of the pairs.
        part_size (`int`): Pairs that are encoded at a time.
        accelerator (`Accelerator`): Of the run.

    Returns:
        `MeritForPreTrainingOutput`: The losses and information of the whole batch, without gradients.

    Raises:
        ValueError: If the model aligns nothing; then gradient accumulation does the same at half the price.

    Example:

    >>> from modeling_merit import MeritConfig, MeritForPreTraining
    >>> config = MeritConfig.from_size("tiny", text_config={"vocab_size": 100})
    >>> model, accelerator = MeritForPreTraining(config), Accelerator(cpu=True)
    >>> batch = {"input_values": torch.randn(4, 12, 256), "input_ids": torch.arange(20).reshape(4, 5)}
    >>> output = backward_in_parts(model, batch, 2, accelerator)
    >>> output.contrastive_loss.shape, model.merit.logit_scale.grad is not None
    (torch.Size([]), True)
    """
    merit, config = accelerator.unwrap_model(model).merit, accelerator.unwrap_model(model).config
    if not config.contrastive_weight:
        raise ValueError("Expected a model with a contrastive weight above 0, got 0. Accumulate gradients instead.")
    pairs = next(iter(batch.values())).shape[0]
    starts = range(0, pairs, part_size)
    parts = [{name: value[start : start + part_size] for name, value in batch.items()} for start in starts]
    states, embedded, counts = [], [], []
    with torch.no_grad(), _fixed_statistics(model):
        for part in parts:
            states.append(_random_state(accelerator.device))
            output = accelerator.unwrap_model(model)(**part)
            embedded.append((output.ecg_embeds, output.text_embeds))
            counts.append(_counted(merit, part, output.masked_patches, accelerator))
    ecg, text = (torch.cat(vectors).requires_grad_() for vectors in zip(*embedded))
    scale = merit.get_logit_scale().detach().requires_grad_()
    loss = contrastive_loss(ecg, text, scale, report_fingerprints(batch["input_ids"], batch.get("attention_mask")))
    ecg_gradient, text_gradient, scale_gradient = torch.autograd.grad(
        config.contrastive_weight * loss, (ecg, text, scale)
    )
    total = torch.stack(counts).sum().clamp(min=1)
    sums = {"reconstruction_loss": loss.new_zeros(()), "word_loss": loss.new_zeros(())}
    for number, (start, part) in enumerate(zip(starts, parts)):
        last = number == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            _set_random_state(states[number], accelerator.device)
            output = model(**part)
            rows, share = slice(start, start + part_size), len(part["input_ids"]) / pairs
            surrogate = (output.ecg_embeds * ecg_gradient[rows]).sum() + (
                output.text_embeds * text_gradient[rows]
            ).sum()
            if last:
                surrogate = surrogate + merit.get_logit_scale() * scale_gradient
            for name, weight, part_share in (
                ("reconstruction_loss", config.reconstruction_weight, counts[number] / total),
                ("word_loss", config.word_weight, share),
            ):
                if output.get(name) is not None:
                    surrogate = surrogate + weight * part_share * output[name]
                    sums[name] = sums[name] + part_share * output[name].detach()
            accelerator.backward(surrogate)
    whole: dict[str, torch.Tensor] = {"contrastive_loss": loss.detach()}
    whole["loss"] = config.contrastive_weight * whole["contrastive_loss"]
    with torch.no_grad():
        whole["text_information"] = text_information(contrastive_loss(ecg, text, scale), pairs)
    if config.reconstruction_weight:
        whole["reconstruction_loss"] = sums["reconstruction_loss"]
        whole["reconstruction_information"] = reconstruction_information(whole["reconstruction_loss"])
        whole["loss"] = whole["loss"] + config.reconstruction_weight * whole["reconstruction_loss"]
    if config.word_weight and config.num_words:
        whole["word_loss"] = sums["word_loss"]
        whole["word_information"] = word_information(whole["word_loss"], merit.word_log_odds)
        whole["loss"] = whole["loss"] + config.word_weight * whole["word_loss"]
    return MeritForPreTrainingOutput(**whole)  # type: ignore[arg-type]


def _counted(merit, part, masked_patches, accelerator) -> torch.Tensor:
    """Return how many samples of a part the masked term counts, the mean over the processes."""
    if masked_patches is None:
        return torch.zeros((), device=accelerator.device)
    _, recorded = merit.ecg_model.prepare_inputs(part["input_values"], part.get("ecg_mask"))
    counted = patchify(recorded, merit.config.ecg_config.patch_length) & masked_patches[..., None]
    return accelerator.reduce(counted.sum().float(), "mean")


@contextmanager
def _fixed_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation use the statistics of the batch, but not count it: the second pass does."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept):
            layer.track_running_stats, layer.running_mean, layer.running_var = True, mean, variance


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


__all__ = ["backward_in_parts"]
