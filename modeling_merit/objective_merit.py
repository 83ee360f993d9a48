"""The MERIT objective: masked ECG modelling, contrastive alignment and word prediction, each a lower bound on mutual
information.

With X the ECG, T its report and Z the representation, which depends on the data through X alone, the objective
`α I(Z;X) + β I(Z;T)` equals `(α + β) I(Z;T) + α I(Z;X|T)`: the information of the report, plus
what only the signal holds. Both terms have tractable bounds:

* masked modelling (Barber and Agakov, 2003, on random patches): `H(X_M) + E log q(X_M | Z_V) ≤ I(Z_V; X_M)`; for a
  Gaussian decoder the bound is `-MSE / 2σ²` up to a constant. It is tight when q is the true posterior of the masked
  samples, which a Gaussian of one variance is not;
* contrastive alignment (InfoNCE, van den Oord et al., 2018): `log B - L_nce ≤ I(Z;T)`, never above log B, and tight
  only for the optimal critic and large B;
* word prediction (Barber and Agakov again, on the report): `H(W) + E log q(W | Z) ≤ I(Z;W) ≤ I(Z;T)` for the words and
  phrases W of the report, which are a function of T. H(W) is a constant and not known; with q a product over words,
  what is logged is `Σ_w H(w) + E log q(w | Z)`, the gain over the frequencies of the words. It bounds `Σ_w I(Z;w)`
  from below, counts a fact once for every word that tells it, and exceeds the bound on I(Z;W) by the total
  correlation of the words: it is not capped by log B, and is compared between runs, not with the other bounds.

The loss is `reconstruction_weight · MSE + contrastive_weight · L_nce + word_weight · L_words`, the last in nats per
report. All functions here are free of weights.
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
    """Return the patches of (batch, leads, samples), (batch, leads, patches, patch_length).

    Example:

    >>> patchify(torch.arange(8).reshape(1, 2, 4), 2).tolist()
    [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]
    """
    return values.unflatten(2, (-1, patch_length))


def standardize_patches(
    patches: torch.Tensor, recorded: torch.Tensor | None = None, eps: float = 1e-4
) -> torch.Tensor:
    """Return every patch at mean 0 and variance 1, the target of masked modelling (He et al., 2022, section 4.1).

    Args:
        patches (`torch.Tensor` of shape `(..., patch_length)`): Patches in mV.
        recorded (`torch.BoolTensor` of that shape, *optional*): The samples that count; the others become 0.
        eps (`float`, defaults to 1e-4): Added to the variance (mV²), so that 0.01 mV noise on a flat line stays small.
    """
    patches = patches.float()
    weights = torch.ones_like(patches) if recorded is None else recorded.to(patches.dtype)
    counts = weights.sum(dim=-1, keepdim=True).clamp(min=1)
    centred = (patches - (patches * weights).sum(dim=-1, keepdim=True) / counts) * weights
    return centred * (centred.square().sum(dim=-1, keepdim=True) / counts + eps).rsqrt()


def random_masking(valid: torch.Tensor, mask_ratio: float, noise: torch.Tensor | None = None) -> torch.Tensor:
    """Return the patches to mask, drawn independently for every lead.

    Args:
        valid (`torch.BoolTensor` of shape `(batch, leads, patches)`): Patches that hold a signal.
        mask_ratio (`float`): Of the valid patches of every lead, `int(valid · mask_ratio)` are masked.
        noise (`torch.Tensor` of shape `(batch, leads, patches)`, *optional*): Uniform random numbers; the smallest of
            a lead are masked. Drawn here when absent.

    Returns:
        `torch.BoolTensor` of shape `(batch, leads, patches)`: True at masked patches, which are valid ones.

    Example:

    >>> valid = torch.tensor([[[True, True, True, False]]])
    >>> random_masking(valid, 0.7, torch.tensor([[[0.9, 0.1, 0.5, 0.0]]])).tolist()
    [[[False, True, True, False]]]
    """
    noise = torch.rand(valid.shape, device=valid.device) if noise is None else noise.to(valid.device)
    ranks = noise.masked_fill(~valid, 2.0).argsort(dim=2).argsort(dim=2)
    return (ranks < (valid.sum(dim=2, keepdim=True) * mask_ratio).floor()) & valid


def reconstruction_loss(prediction: torch.Tensor, patches: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the mean-square error of masked samples, each patch standardised by itself.

    The mean over processes of this loss, and of its gradient, is that of one process with the whole batch.

    Args:
        prediction (`torch.Tensor` of shape `(..., patch_length)`): Output of the decoder.
        patches (`torch.Tensor` of that shape): The signal in mV.
        counted (`torch.BoolTensor` of that shape): The recorded samples of masked patches. A patch that was recorded
            in part has that part of a patch's weight.

    Returns:
        `torch.Tensor`: Scalar; 1.0 is what predicting zero gives, 0.0 perfect.
    """
    error = (prediction.float() - standardize_patches(patches, counted)).square()
    count = counted.sum().float()
    if world_size() > 1:
        dist.all_reduce(count)
        count = count / world_size()
    return (error * counted).sum() / count.clamp(min=1)


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
    """Return the symmetric InfoNCE of the local pairs against those of all processes.

    The mean over processes of this loss, and of its gradient, is that of one process with the whole batch. A pair
    whose report equals that of another one is no negative of it: it is left out of the denominator, so that equal
    reports do not repel one another. (Uniform targets over equal reports would not do it: equal texts have equal
    logits, and the loss would be the one-hot one.)

    Args:
        ecg_embeds (`torch.Tensor` of shape `(batch, dim)`): Unit vectors.
        text_embeds (`torch.Tensor` of shape `(batch, dim)`): Unit vectors.
        logit_scale (`torch.Tensor`): Factor of the cosine similarities (inverse temperature), a scalar.
        fingerprints (`torch.LongTensor` of shape `(batch,)`, *optional*): Equal numbers mark equal reports.

    Returns:
        `torch.Tensor`: Scalar in nats; log of the global batch size when all embeddings are equal and all reports
        differ.

    Example:

    >>> embeds = torch.ones(4, 1)
    >>> round(contrastive_loss(embeds, embeds, torch.tensor(10.0)).exp().item(), 4)
    4.0
    """
    # Logits up to 100 need more than the 8 bits of a bfloat16 mantissa.
    dtype = torch.promote_types(ecg_embeds.dtype, torch.float32)
    ecg_embeds, text_embeds = ecg_embeds.to(dtype), text_embeds.to(dtype)
    all_ecg, all_text, first = ecg_embeds, text_embeds, 0
    if world_size() > 1:
        all_ecg, all_text = AllGather.apply(all_ecg), AllGather.apply(all_text)
        first = dist.get_rank() * ecg_embeds.shape[0]
    own = torch.arange(ecg_embeds.shape[0], device=ecg_embeds.device) + first
    with torch.autocast(ecg_embeds.device.type, enabled=False):
        per_ecg = logit_scale.to(dtype) * ecg_embeds @ all_text.T
        per_text = logit_scale.to(dtype) * text_embeds @ all_ecg.T
        if fingerprints is not None:
            all_fingerprints = AllGather.apply(fingerprints) if world_size() > 1 else fingerprints
            duplicate = fingerprints[:, None] == all_fingerprints[None, :]
            duplicate = duplicate & (own[:, None] != torch.arange(all_ecg.shape[0], device=own.device))
            per_ecg, per_text = (logits.masked_fill(duplicate, -torch.inf) for logits in (per_ecg, per_text))
        return (nn.functional.cross_entropy(per_ecg, own) + nn.functional.cross_entropy(per_text, own)) / 2


def ngram_keys(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, vocab_size: int, max_ngram: int
) -> torch.Tensor:
    """Return one number for every n-gram of tokens of a text, from 1 to `max_ngram` tokens long.

    Args:
        input_ids (`torch.LongTensor` of shape `(texts, length)`): Tokens.
        attention_mask (`torch.Tensor` of shape `(texts, length)`, *optional*): 0 at padding.
        vocab_size (`int`): Tokens of the tokenizer.
        max_ngram (`int`): Longest n-gram; `(vocab_size + 1) ** max_ngram` must fit 63 bits.

    Returns:
        `torch.LongTensor` of shape `(texts, max_ngram · length)`: The tokens, counted from 1, as the digits of a
        number in the base `vocab_size + 1`; -1 where an n-gram reaches into padding.

    Example:

    >>> ngram_keys(torch.tensor([[1, 2, 0]]), torch.tensor([[1, 1, 0]]), 9, 2).tolist()
    [[2, 3, -1, -1, 23, -1]]
    """
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    tokens, keys = input_ids.long() + 1, []
    key, whole = torch.zeros_like(tokens), torch.ones_like(mask)
    for shift in range(max_ngram):  # the n-gram that ends at each token, one token longer each time
        earlier = nn.functional.pad(tokens, (shift, 0))[:, : tokens.shape[1]]
        key = key + earlier * (vocab_size + 1) ** shift
        whole = whole & nn.functional.pad(mask, (shift, 0))[:, : tokens.shape[1]]
        keys.append(key.masked_fill(~whole, -1))
    return torch.cat(keys, dim=1)


def bag_of_words(keys: torch.Tensor, word_keys: torch.Tensor) -> torch.Tensor:
    """Return which words and phrases each text holds, 0 or 1.

    Args:
        keys (`torch.LongTensor` of shape `(texts, n-grams)`): From `ngram_keys`.
        word_keys (`torch.LongTensor` of shape `(words,)`): The keys of the words, ascending.

    Returns:
        `torch.FloatTensor` of shape `(texts, words)`.

    Example:

    >>> bag_of_words(torch.tensor([[7, 5, 5, -1], [6, -1, -1, -1]]), torch.tensor([5, 7])).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    places = torch.searchsorted(word_keys, keys).clamp(max=word_keys.shape[0] - 1)
    found = word_keys[places] == keys
    bags = torch.zeros(keys.shape[0], word_keys.shape[0] + 1, device=keys.device)
    return bags.scatter(1, places.masked_fill(~found, word_keys.shape[0]), 1.0)[:, :-1]


def word_loss(word_logits: torch.Tensor, bags: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the words of the reports, summed over the words: nats per report.

    Args:
        word_logits (`torch.Tensor` of shape `(batch, words)`): Predicted log-odds of every word.
        bags (`torch.Tensor` of shape `(batch, words)`): From `bag_of_words`.
    """
    loss = nn.functional.binary_cross_entropy_with_logits(word_logits.float(), bags, reduction="none")
    return loss.sum(dim=1).mean()


def word_information(loss: torch.Tensor, word_log_odds: torch.Tensor) -> torch.Tensor:
    """Return `Σ_w H(w) - L_words`, nats per report that the ECG tells of its words beyond their frequencies.

    Args:
        loss (`torch.Tensor`): From `word_loss`.
        word_log_odds (`torch.Tensor` of shape `(words,)`): Log-odds of every word in the training reports.
    """
    log_odds = word_log_odds.float()
    frequency = log_odds.sigmoid()
    entropy = nn.functional.binary_cross_entropy_with_logits(log_odds, frequency, reduction="sum")
    return entropy - loss


def text_information(contrastive: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return `log B - L_nce`, a lower bound on I(Z;T) in nats; B is the global batch (van den Oord et al., 2018)."""
    return torch.log(torch.tensor(float(batch_size * world_size()), device=contrastive.device)) - contrastive


def reconstruction_information(mse: torch.Tensor) -> torch.Tensor:
    """Return `½ log(1 / MSE)`: nats that the visible patches give on one masked, standardised, Gaussian sample."""
    return -0.5 * torch.log(mse)


__all__ = [
    "bag_of_words",
    "contrastive_loss",
    "ngram_keys",
    "patchify",
    "random_masking",
    "reconstruction_information",
    "reconstruction_loss",
    "report_fingerprints",
    "standardize_patches",
    "text_information",
    "word_information",
    "word_loss",
]
