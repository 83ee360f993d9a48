"""Features of a frozen encoder: loaded or drawn at random, and applied once to every record of a data set."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoFeatureExtractor

from modeling_merit import MeritEcgModel, MeritFeatureExtractor

from ..benchmark.results import data_fingerprint
from ..data import SignalView
from ..data.microvolts import split_missing
from ..writers import placed

SAMPLING_RATE = 100
"""Hz of the tables that evaluation reads."""


def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers, the first 16 hexadecimal digits.

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
    encode: Callable[..., torch.Tensor],
    view: SignalView,
    prepare: Callable[..., np.ndarray],
    batch_size: int = 128,
    device: str | torch.device = "cpu",
    description: str = "embedding",
) -> np.ndarray:
    """Return the features of every record of a table, none left out.

    Args:
        encode (callable): (batch, leads, samples) float32 to (batch, features), of a model in evaluation mode. Where
            samples are missing it is given a mask, too, `True` at those that were recorded.
        view (`SignalView`): Records in µV.
        prepare (callable): (batch, leads, samples) in mV to what `encode` expects, of the feature extractor; with a
            mask as `encode`.
        batch_size (`int`): Records per pass.
        device: Where `encode` wants its input.
        description (`str`): Name of the progress bar.

    Returns:
        `np.ndarray` of shape `(records, features)`: float32, in the order of the view.
    """
    features = []
    for start in tqdm(range(0, len(view), batch_size), desc=description, unit="batch"):
        signals, missing = split_missing(view.signals(range(start, min(start + batch_size, len(view)))))
        masks = () if missing is None else (~missing,)
        inputs = (torch.from_numpy(part).to(device) for part in (prepare(signals, *masks), *masks))
        features.append(encode(*inputs).float().cpu().numpy())
    return np.concatenate(features)


def cached_features(cache: Path | None, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the features in a file; where it is absent they are computed and saved, whole or not at all."""
    if cache and cache.is_file():
        return load_file(cache)
    features = compute()
    if cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with placed([cache], overwrite=True) as (temporary,):
            save_file(features, temporary)
    return features


def load_extractor(model: str | Path) -> MeritFeatureExtractor:
    """Return the feature extractor of a checkpoint and see that the evaluation's signals fit it.

    Raises:
        ValueError: If the model works at another rate than 100 Hz.
    """
    extractor = AutoFeatureExtractor.from_pretrained(model)
    if extractor.sampling_rate != SAMPLING_RATE:
        raise ValueError(
            f"Expected a model for {SAMPLING_RATE} Hz, the rate of the evaluated signals, got one for "
            f"{extractor.sampling_rate} Hz in {model}."
        )
    return extractor


def load_encoder(
    model: str | Path, random_init: bool = False, seed: int = 0, device: str | torch.device = "cpu"
) -> tuple[MeritEcgModel, MeritFeatureExtractor]:
    """Return the ECG encoder of a checkpoint, in evaluation mode and single precision, and its feature extractor.

    Args:
        model (`str` or `Path`): Checkpoint folder or Hub id.
        random_init (`bool`): Keep the architecture, draw the weights anew from `seed`.
        seed (`int`), device: Of that draw; where the encoder shall be.

    Raises:
        ValueError: If the model works at another rate than 100 Hz.
    """
    extractor = load_extractor(model)
    encoder = MeritEcgModel.from_pretrained(model, dtype=torch.float32)
    if random_init:
        torch.manual_seed(seed)
        encoder = MeritEcgModel(encoder.config)
    return encoder.to(device).eval(), extractor


def embed_tables(
    encoder: MeritEcgModel,
    extractor: MeritFeatureExtractor,
    tables: Mapping[str, datasets.Dataset],
    cache_dir: str | Path | None = None,
    batch_size: int = 128,
) -> tuple[dict[str, np.ndarray], str, str]:
    """Return the features of every table, and the fingerprints of weights and signals they were made from.

    With a `cache_dir` features are computed once per weights, configurations of encoder and extractor, and signals.

    Args:
        encoder ([`MeritEcgModel`]), extractor ([`MeritFeatureExtractor`]): As `load_encoder` returns them.
        tables (mapping of `str` to `datasets.Dataset`): With signals in µV at 100 Hz.
        cache_dir (`str` or `Path`, *optional*), batch_size (`int`).

    Returns:
        `tuple`: float32 features (records, pooler_size) by table, fingerprint of the weights, fingerprint
        of the signals.

    Raises:
        RuntimeError: If the weights changed while embedding.
    """
    weights = weights_fingerprint(encoder)
    texts = encoder.config.to_json_string() + extractor.to_json_string()
    settings = hashlib.sha256(texts.encode()).hexdigest()[:8]
    views = {name: SignalView(table) for name, table in tables.items()}
    signals = data_fingerprint(view.signals(range(len(view))) for view in views.values())
    cache = None if cache_dir is None else Path(cache_dir) / f"{weights}-{settings}-{signals}.safetensors"

    def encode(*inputs: torch.Tensor) -> torch.Tensor:
        return encoder(*inputs).pooler_output

    def embed() -> dict[str, np.ndarray]:
        features = {
            split: embed_signals(encode, view, extractor.prepare, batch_size, encoder.device, split)
            for split, view in views.items()
        }
        if weights_fingerprint(encoder) != weights:
            raise RuntimeError(
                "Expected the frozen encoder to stay as it is, but its weights changed while embedding."
            )
        return features

    return cached_features(cache, embed), weights, signals


__all__ = [
    "SAMPLING_RATE",
    "cached_features",
    "embed_signals",
    "embed_tables",
    "load_encoder",
    "load_extractor",
    "weights_fingerprint",
]
