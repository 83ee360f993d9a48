"""The smallest MERIT models, made the same way each time, and inputs for them."""

from typing import Any

import torch

from modeling_merit import MeritConfig, MeritEcgConfig

ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = {f"decoder_{name}": value for name, value in (ENCODER | {"num_hidden_layers": 1}).items()}
TEXT_ENCODER = {
    **ENCODER,
    "num_hidden_layers": 1,
    "vocab_size": 104,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def ecg_config(**fields: Any) -> MeritEcgConfig:
    return MeritEcgConfig(**(ENCODER | fields))


def merit_config(ecg: dict[str, Any] | None = None, **fields: Any) -> MeritConfig:
    defaults = {"projection_dim": 8, "projection_hidden_size": 8, **DECODER}
    return MeritConfig(ecg_config=ENCODER | (ecg or {}), text_config=TEXT_ENCODER, **(defaults | fields))


def build(model_class: type, config: Any, seed: int = 0) -> Any:
    """A model in evaluation mode whose weights follow from the seed, large enough for differences to show."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "norm" not in name:
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
