"""The smallest MERIT models, made the same way each time, and inputs for them."""

from typing import Any

import torch
from torch import nn

from modeling_merit import MeritConfig, MeritEcgConfig, MeritEcgModel

ENCODER = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
PATCH = 8  # samples of a position of this encoder
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT_ENCODER = {
    **TRANSFORMER,
    "vocab_size": 104,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def ecg_config(**fields: Any) -> MeritEcgConfig:
    return MeritEcgConfig(**(ENCODER | fields))


def merit_config(ecg: dict[str, Any] | None = None, **fields: Any) -> MeritConfig:
    defaults = {
        "projection_dim": 8,
        "projection_hidden_size": 8,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
    }
    return MeritConfig(ecg_config=ENCODER | (ecg or {}), text_config=TEXT_ENCODER, **(defaults | fields))


@torch.no_grad()
def wake(model: nn.Module) -> None:
    """Give residual blocks, statistics of batch normalisation and the head of words values as if they were trained."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
    if getattr(model, "word_head", None) is not None:
        nn.init.normal_(model.word_head.weight, std=0.2)


def build(model_class: Any, config: Any, seed: int = 0) -> Any:
    """A model in evaluation mode whose weights follow from the seed, large enough for differences to show."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    for module in model.modules():
        if isinstance(module, MeritEcgModel) or getattr(module, "word_head", None) is not None:
            wake(module)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "text_model" in name and "norm" not in name.lower():
                parameter.mul_(10)
    return model


def ecgs(batch: int = 2, samples: int = 500, leads: int = 12, seed: int = 0) -> torch.Tensor:
    """(batch, leads, samples) in mV."""
    return 0.3 * torch.randn(batch, leads, samples, generator=torch.Generator().manual_seed(seed))


def reports(*texts: list[int]) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of reports given as lists of tokens."""
    length = max(map(len, texts))
    return {
        "input_ids": torch.tensor([text + [0] * (length - len(text)) for text in texts]),
        "attention_mask": torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts]),
    }
