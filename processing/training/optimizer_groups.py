"""Parameter groups of an optimiser: what decays, and at which rate each parameter learns."""

from collections.abc import Callable
from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, learning_rate: float | Callable[[str], float | None], weight_decay: float
) -> list[dict[str, Any]]:
    """Return the trained parameters of a model in groups of one learning rate and one weight decay each.

    Weight matrices and convolution kernels decay. Biases, norms, scalars such as `logit_scale`, embeddings and learned
    tokens or positions do not: pulling them to zero restrains no function, it only shifts or rescales one.

    Args:
        model (`nn.Module`): Parameters that need no gradient are left out.
        learning_rate (`float` or callable): One rate, or the rate of a parameter by its name; `None` leaves it out.
        weight_decay (`float`): Of the parameters that decay.

    Example:

    >>> groups = parameter_groups(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)), 1e-3, 0.05)
    >>> [(group["weight_decay"], len(group["params"])) for group in groups]
    [(0.05, 1), (0.0, 3)]
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        rate = learning_rate(name) if callable(learning_rate) else learning_rate
        if rate is None or not parameter.requires_grad:
            continue
        owner, _, own_name = name.rpartition(".")
        is_embedding = isinstance(model.get_submodule(owner), nn.Embedding)
        decay = weight_decay if parameter.ndim >= 2 and own_name.endswith("weight") and not is_embedding else 0.0
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


__all__ = ["parameter_groups"]
