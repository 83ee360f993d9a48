"""Zero-shot scores as a linear classifier of the pooled feature, for probes that correct it instead of starting from
nothing.

The score of a class is linear in the unit vector of an ECG and in the evidence for every word, and these are nearly
linear in the pooled feature: `tests/test_probe.py` compares the scores of the mean gradient with the exact ones.
"""

import numpy as np
import torch

from modeling_merit import MeritModel
from modeling_merit.inference_merit import PromptEmbeddings, score_embeddings

MOST_RECORDS = 1000
"""Records whose gradients are averaged: enough for a mean, and few enough for the memory of the largest label set."""


def zero_shot_weights(model: MeritModel, prompts: PromptEmbeddings, pooled: np.ndarray) -> np.ndarray:
    """Return the mean gradient of the zero-shot score of every class by the pooled feature, `(classes, features)`.

    `pooled @ weights.T` are the scores, up to a constant per class, as far as they are linear.

    Args:
        model ([`MeritModel`]): In evaluation mode.
        prompts (`PromptEmbeddings`): Of the classes, from `embed_prompts`.
        pooled (`np.ndarray` of shape `(rows, features)`): `pooler_output` of ECGs of the kind that is to be scored; no
            label takes part.

    Raises:
        ValueError: If there is no row, or prompts or features are those of another model.

    Example:

    >>> from modeling_merit import MeritConfig
    >>> model = MeritModel(MeritConfig.from_size("tiny")).eval()
    >>> prompts = PromptEmbeddings(("a", "b"), np.eye(2, model.config.projection_dim, dtype=np.float32), ())
    >>> pooled = np.random.default_rng(0).normal(size=(8, model.ecg_model.config.pooler_size))
    >>> zero_shot_weights(model, prompts, pooled).shape == (2, pooled.shape[1])
    True
    """
    width = model.ecg_model.config.pooler_size
    if not len(pooled) or np.shape(pooled)[1:] != (width,):
        raise ValueError(f"Expected pooled features (rows, {width}), got {np.shape(pooled)}.")
    rows = np.linspace(0, len(pooled) - 1, min(len(pooled), MOST_RECORDS)).round().astype(int)
    parameter = model.logit_scale
    points = torch.from_numpy(np.asarray(pooled)[rows]).to(parameter.device, parameter.dtype).requires_grad_()
    features = model.score_features(points)
    of_features = score_embeddings(np.eye(features.shape[1], dtype=np.float32), prompts).score
    scores = features @ torch.from_numpy(of_features).to(features)
    gradients = [torch.autograd.grad(score.sum(), points, retain_graph=True)[0].mean(0) for score in scores.T]
    return torch.stack(gradients).double().cpu().numpy()


__all__ = ["zero_shot_weights"]
