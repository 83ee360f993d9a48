"""Frozen features of ECGs: computed once, in evaluation mode, from an encoder that must not change."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..data import SignalView
from ..units import MICROVOLTS_PER_MILLIVOLT


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, the first 16 hexadecimal digits.

    Example:

    >>> layer = nn.Linear(2, 1)
    >>> before = weights_fingerprint(layer)
    >>> _ = layer(torch.ones(3, 2))
    >>> weights_fingerprint(layer) == before
    True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@torch.no_grad()
def embed_signals(
    encode: Callable[[torch.Tensor], torch.Tensor],
    view: SignalView,
    normalize: Callable[[np.ndarray], np.ndarray],
    batch_size: int = 128,
    device: str | torch.device = "cpu",
    description: str = "embedding",
) -> np.ndarray:
    """Encode every record of a table, none left out.

    Args:
        encode (callable): (batch, leads, samples) float32 to (batch, features), of a model in evaluation mode.
        view (`SignalView`): Records in µV.
        normalize (callable): (batch, leads, samples) in mV to what `encode` expects, of the feature extractor.
        batch_size (`int`): Records per pass.
        device: Where `encode` wants its input.
        description (`str`): Name of the progress bar.

    Returns:
        `np.ndarray` of shape `(records, features)`: float32, in the order of the view.
    """
    features = []
    for start in tqdm(range(0, len(view), batch_size), desc=description, unit="batch"):
        signals = (
            view.signals(range(start, min(start + batch_size, len(view)))).astype(np.float32)
            / MICROVOLTS_PER_MILLIVOLT
        )
        batch = torch.from_numpy(normalize(signals)).to(device)
        features.append(encode(batch).float().cpu().numpy())
    return np.concatenate(features)


__all__ = ["embed_signals", "weights_fingerprint"]
