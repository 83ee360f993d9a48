"""The MERIT objective: masked ECG modelling and contrastive alignment, each a lower bound on mutual information.

With X the ECG, T its report and Z the representation, which depends on the data through X alone, the objective
`α I(Z;X) + β I(Z;T)` equals `(α + β) I(Z;T) + α I(Z;X|T)`: the information of the report, plus
what only the signal holds. Both terms have tractable bounds:

* masked modelling (Barber and Agakov, 2003, on random patches): `H(X_M) + E log q(X_M | Z_V) ≤ I(Z_V; X_M)`; for a
  Gaussian decoder the bound is `-MSE / 2σ²` up to a constant;
* contrastive alignment (InfoNCE, van den Oord et al., 2018): `log B - L_nce ≤ I(Z;T)`, never above log B.

The loss is `reconstruction_weight · MSE + contrastive_weight · L_nce`. All functions here are free of weights.
"""

import torch
import torch.distributed as dist
from torch import nn


class AllGather(torch.autograd.Function):
    """Concatenate a tensor over the processes; the backward gives each one the summed gradient of its own rows."""

    @staticmethod
    def forward(ctx, tensor):
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def patchify(values: torch.Tensor, patch_length: int) -> torch.Tensor:
    """Return the patches of (batch, leads, samples), (batch, leads · patches, patch_length), lead by lead.

    Example:

    >>> patchify(torch.arange(8).reshape(1, 2, 4), 2).tolist()
    [[[0, 1], [2, 3], [4, 5], [6, 7]]]
    """
    return values.unflatten(2, (-1, patch_length)).flatten(1, 2)


def standardize_patches(patches: torch.Tensor, eps: float = 1e-4) -> torch.Tensor:
    """Return every patch at mean 0 and variance 1, the target of masked modelling (He et al., 2022, section 4.1).

    Args:
        patches (`torch.Tensor` of shape `(..., patch_length)`): Patches in mV.
        eps (`float`, defaults to 1e-4): Added to the variance (mV²), so that 0.01 mV noise on a flat line stays small.
    """
    patches = patches.float()
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True, correction=0)
    return (patches - mean) * (variance + eps).rsqrt()


def random_masking(valid: torch.Tensor, mask_ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patches that the encoder sees and those that are masked, drawn independently for every lead.

    Args:
        valid (`torch.BoolTensor` of shape `(batch, leads, patches)`): Patches that hold a signal; they are kept first.
        mask_ratio (`float`): `int(patches · mask_ratio)` patches of every lead are masked, but never all.

    Returns:
        `tuple(torch.LongTensor, torch.BoolTensor)`: The indices of the visible patches, `(batch, leads · visible)`,
        ascending within a lead, and `(batch, leads · patches)`, True at the valid ones that are masked.
    """
    batch, leads, patches = valid.shape
    visible = max(1, patches - int(patches * mask_ratio))
    noise = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0)
    keep = noise.argsort(dim=2)[:, :, :visible].sort(dim=2).values
    masked = valid.scatter(2, keep, False).flatten(1)
    offsets = torch.arange(leads, device=valid.device)[:, None] * patches
    return (keep + offsets).flatten(1), masked


def reconstruction_loss(prediction: torch.Tensor, patches: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Return the mean-square error on the masked patches, each standardised by itself.

    Args:
        prediction (`torch.Tensor` of shape `(batch, tokens, patch_length)`): Output of the decoder.
        patches (`torch.Tensor` of shape `(batch, tokens, patch_length)`): The signal in mV.
        masked (`torch.BoolTensor` of shape `(batch, tokens)`): Patches that count.

    Returns:
        `torch.Tensor`: Scalar; 1.0 is what predicting zero gives, 0.0 perfect.
    """
    error = (prediction.float() - standardize_patches(patches)).square().mean(dim=-1)
    return (error * masked).sum() / masked.sum().clamp(min=1)


def report_fingerprints(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return one 64-bit number per tokenised report, equal for equal reports whatever their padding.

    A sum of tokens times position-dependent odd multipliers, modulo 2⁶⁴.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, length)`): Tokens.
        attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 0 at padding.

    Returns:
        `torch.LongTensor` of shape `(batch,)`.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    multipliers = mask.cumsum(dim=1) * 0x5851F42D4C957F2D + 0x14057B7EF767814F | 1
    multipliers = multipliers ^ (multipliers >> 29)
    tokens = (input_ids.long() + 1) * mask
    return (tokens * (multipliers | 1)).sum(dim=1)


def contrastive_loss(
    ecg_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    fingerprints: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the symmetric InfoNCE of the local pairs against those of all processes; equal reports are positives.

    The mean over processes of this loss, and of its gradient, is that of one process with the whole batch. Targets are
    uniform over the pairs of equal `fingerprints`.

    Args:
        ecg_embeds (`torch.Tensor` of shape `(batch, dim)`): Unit vectors.
        text_embeds (`torch.Tensor` of shape `(batch, dim)`): Unit vectors.
        logit_scale (`torch.Tensor`): Factor of the cosine similarities (inverse temperature), a scalar.
        fingerprints (`torch.LongTensor` of shape `(batch,)`, *optional*): Equal numbers mark equal reports.

    Returns:
        `torch.Tensor`: Scalar in nats; log of the global batch size when all embeddings are equal.

    Example:

    >>> embeds = torch.ones(4, 1)
    >>> round(contrastive_loss(embeds, embeds, torch.tensor(10.0)).exp().item(), 4)
    4.0
    """
    if fingerprints is None:
        # Distinct over processes, too: the rank is the high half of the number.
        rank = dist.get_rank() if world_size() > 1 else 0
        fingerprints = torch.arange(len(ecg_embeds), device=ecg_embeds.device) + (rank << 32)
    # Logits up to 100 need more than the 8 bits of a bfloat16 mantissa.
    dtype = torch.promote_types(ecg_embeds.dtype, torch.float32)
    ecg_embeds, text_embeds = ecg_embeds.to(dtype), text_embeds.to(dtype)
    all_ecg, all_text, all_fingerprints = ecg_embeds, text_embeds, fingerprints
    if world_size() > 1:
        all_ecg, all_text = AllGather.apply(all_ecg), AllGather.apply(all_text)
        all_fingerprints = AllGather.apply(fingerprints)
    equal = (fingerprints[:, None] == all_fingerprints[None, :]).to(dtype)
    targets = equal / equal.sum(dim=1, keepdim=True)
    with torch.autocast(ecg_embeds.device.type, enabled=False):
        per_ecg = nn.functional.cross_entropy(logit_scale.to(dtype) * ecg_embeds @ all_text.T, targets)
        per_text = nn.functional.cross_entropy(logit_scale.to(dtype) * text_embeds @ all_ecg.T, targets)
    return (per_ecg + per_text) / 2


def text_information(contrastive: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return `log B - L_nce`, a lower bound on I(Z;T) in nats; B is the global batch (van den Oord et al., 2018)."""
    return torch.log(torch.tensor(float(batch_size * world_size()), device=contrastive.device)) - contrastive


def reconstruction_information(mse: torch.Tensor) -> torch.Tensor:
    """Return `½ log(1 / MSE)`: nats that the visible patches give on one masked, standardised, Gaussian sample."""
    return -0.5 * torch.log(mse)


__all__ = [
    "contrastive_loss",
    "patchify",
    "random_masking",
    "reconstruction_information",
    "reconstruction_loss",
    "report_fingerprints",
    "standardize_patches",
    "text_information",
]
