"""PyTorch MERIT models: an ECG encoder, an ECG-text dual encoder, their pre-training and an ECG classifier.

Independent implementation of the idea of "Information-theoretic Multimodal Representation Learning for
Electrocardiogram Signals" (arXiv:2605.27583). Masked modelling follows masked autoencoders (He et al., 2022),
alignment follows CLIP (Radford et al., 2021); `objective_merit.py` gives the bounds. The decoder never sees text
and no attention goes from text to the ECG.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_merit import MeritConfig, MeritEcgConfig
from .objective_merit import (
    contrastive_loss,
    patchify,
    random_masking,
    reconstruction_information,
    reconstruction_loss,
    report_fingerprints,
    text_information,
)


@dataclass
class MeritEcgModelOutput(ModelOutput):
    """Output of [`MeritEcgModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, tokens, hidden_size)`):
            One vector per patch, lead by lead; only the visible ones when `visible_patches` was given.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`):
            Mean of the vectors of valid patches: the feature for probes and classifiers.
        token_mask (`torch.BoolTensor` of shape `(batch, tokens)`, *optional*):
            True where `last_hidden_state` belongs to a valid patch; `None` when all do.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            With `output_hidden_states=True`, the output of every block.
        attentions (`tuple(torch.FloatTensor)`, *optional*):
            With `output_attentions=True` and eager attention, the weights of every block.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    token_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class MeritOutput(ModelOutput):
    """Output of [`MeritModel`].

    Args:
        logits_per_ecg (`torch.FloatTensor` of shape `(ecgs, texts)`): Scaled cosine similarities.
        ecg_embeds (`torch.FloatTensor` of shape `(ecgs, projection_dim)`): Unit vectors.
        text_embeds (`torch.FloatTensor` of shape `(texts, projection_dim)`): Unit vectors.
    """

    logits_per_ecg: torch.FloatTensor | None = None
    ecg_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None


@dataclass
class MeritForPreTrainingOutput(ModelOutput):
    """Output of [`MeritForPreTraining`]; what belongs to a branch that is switched off is `None`.

    Args:
        loss (`torch.FloatTensor`): `reconstruction_weight · reconstruction_loss + contrastive_weight ·
            contrastive_loss`.
        reconstruction_loss (`torch.FloatTensor`): Mean-square error on masked, standardised patches.
        contrastive_loss (`torch.FloatTensor`): Symmetric InfoNCE in nats.
        reconstruction_information (`torch.FloatTensor`): `½ log(1 / reconstruction_loss)`, nats per masked sample.
        text_information (`torch.FloatTensor`): `log B - contrastive_loss`, a lower bound in nats on I(Z;T).
        reconstruction (`torch.FloatTensor` of shape `(batch, tokens, patch_length)`): Standardised patches as
            predicted.
        masked_patches (`torch.BoolTensor` of shape `(batch, tokens)`): True at masked patches.
        ecg_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): Unit vectors.
        text_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): Unit vectors.
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    reconstruction_information: torch.FloatTensor | None = None
    text_information: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    masked_patches: torch.BoolTensor | None = None
    ecg_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None


def pad_samples(
    values: torch.Tensor, mask: torch.Tensor | None, padding: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return (batch, leads, samples) with `padding` more samples, and the mask, which is False at them."""
    if not padding:
        return values, mask
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return nn.functional.pad(values, (0, padding)), nn.functional.pad(mask, (0, padding))


def masked_mean(vectors: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of (..., tokens, width) over the tokens where the mask (..., tokens) is not 0; 0 if it is."""
    if mask is None:
        return vectors.mean(dim=-2)
    weights = mask[..., None].to(vectors.dtype)
    return (vectors * weights).sum(dim=-2) / weights.sum(dim=-2).clamp(min=1)


class MeritEcgPositions(nn.Module):
    """Position of a patch: fixed sin-cos of its time in seconds, plus a learned vector for its lead."""

    def __init__(self, config: MeritEcgConfig):
        super().__init__()
        self.config = config
        self.lead_embedding = nn.Embedding(len(config.leads), config.hidden_size)

    def forward(self, num_patches: int) -> torch.Tensor:
        """Return (leads · patches, hidden_size)."""
        config, leads = self.config, self.lead_embedding.weight
        half = config.hidden_size // 2
        seconds = torch.arange(num_patches, device=leads.device) * (config.patch_length / config.sampling_rate)
        ratio = math.log(config.max_wavelength / config.min_wavelength)
        wavelengths = config.min_wavelength * torch.exp(
            torch.arange(half, device=leads.device) * (ratio / max(half - 1, 1))
        )
        angles = 2 * math.pi * seconds[:, None] / wavelengths
        time = torch.cat([angles.sin(), angles.cos()], dim=1).to(leads.dtype)
        return (leads[:, None] + time[None]).flatten(0, 1)


class MeritEcgEmbeddings(nn.Module):
    """Patches to tokens: their shape through a linear layer, plus their mean and standard deviation and position."""

    def __init__(self, config: MeritEcgConfig):
        super().__init__()
        self.patch_norm = nn.LayerNorm(config.patch_length, eps=config.layer_norm_eps)
        self.patch_projection = nn.Linear(config.patch_length, config.hidden_size)
        self.token_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.amplitude_projection = (
            nn.Linear(2, config.hidden_size, bias=False) if config.amplitude_embedding else None
        )
        self.positions = MeritEcgPositions(config)

    def forward(self, patches: torch.Tensor, num_patches: int, visible: torch.Tensor | None = None) -> torch.Tensor:
        positions = self.positions(num_patches)
        if visible is not None:
            patches = patches.gather(1, visible[..., None].expand(-1, -1, patches.shape[-1]))
            positions = positions[visible]
        tokens = self.token_norm(self.patch_projection(self.patch_norm(patches))) + positions
        if self.amplitude_projection is not None:
            deviation, mean = torch.std_mean(patches, dim=-1, correction=0)
            # 0.01 mV: the resolution of an ECG print-out, below which a deviation is noise.
            tokens = tokens + self.amplitude_projection(torch.stack([mean, (deviation + 0.01).log()], dim=-1))
        return tokens


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MeritEcgQueryKey(nn.Linear):
    """A projection to queries or keys. Both start as the same orthogonal matrix (after the mimetic initialisation of
    Trockman and Kolter, 2023), so that a token looks from the start at the same moment in other leads and at the same
    lead at other moments; otherwise masked modelling gave no more than a constant prediction for hundreds of steps."""


class MeritEcgAttention(nn.Module):
    def __init__(self, config: MeritEcgConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = MeritEcgQueryKey(config.hidden_size, config.hidden_size)
        self.k_proj = MeritEcgQueryKey(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states, attention_mask=None, **kwargs: Unpack[TransformersKwargs]):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


class MeritEcgLayer(GradientCheckpointingLayer):
    def __init__(self, config: MeritEcgConfig):
        super().__init__()
        self.attention = MeritEcgAttention(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states, attention_mask=None, **kwargs: Unpack[TransformersKwargs]):
        attended, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(
            self.fc2(self.activation_fn(self.fc1(self.layernorm_after(hidden_states))))
        )


class MeritProjectionHead(nn.Module):
    """Two linear layers from the feature of an encoder to a unit vector."""

    def __init__(self, input_size: int, config: MeritConfig):
        super().__init__()
        self.fc1 = nn.Linear(input_size, config.projection_hidden_size)
        self.fc2 = nn.Linear(config.projection_hidden_size, config.projection_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.fc2(nn.functional.gelu(self.fc1(features))), dim=-1)


class MeritDecoder(nn.Module):
    """Predict all patches from the visible ones, with a mask token for each of the others."""

    def __init__(self, config: MeritConfig):
        super().__init__()
        decoder_config = copy.deepcopy(config.ecg_config)
        decoder_config.hidden_size = config.decoder_hidden_size
        decoder_config.num_attention_heads = config.decoder_num_attention_heads
        decoder_config.intermediate_size = config.decoder_intermediate_size
        self.config = decoder_config
        self.embedding = nn.Linear(config.ecg_config.hidden_size, config.decoder_hidden_size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_hidden_size))
        self.positions = MeritEcgPositions(decoder_config)
        self.layers = nn.ModuleList(MeritEcgLayer(decoder_config) for _ in range(config.decoder_num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.decoder_hidden_size, eps=decoder_config.layer_norm_eps)
        self.prediction = nn.Linear(config.decoder_hidden_size, decoder_config.patch_length)

    def forward(self, encoded: torch.Tensor, visible: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
        """Return (batch, tokens, patch_length).

        Args:
            encoded (`torch.Tensor` of shape `(batch, visible, hidden_size)`): Output of the encoder.
            visible (`torch.LongTensor` of shape `(batch, visible)`): Indices of the visible patches among all tokens.
            token_mask (`torch.BoolTensor` of shape `(batch, tokens)`): True at valid patches.
        """
        batch, tokens = token_mask.shape
        embedded = self.embedding(encoded)
        index = visible[..., None].expand_as(embedded)
        hidden_states = self.mask_token.to(embedded.dtype).expand(batch, tokens, -1).scatter(1, index, embedded)
        hidden_states = hidden_states + self.positions(tokens // len(self.config.leads))
        attention_mask = create_bidirectional_mask(self.config, hidden_states, token_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask)
        return self.prediction(self.layernorm(hidden_states))


class MeritPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and the features that all MERIT models share."""

    config: MeritConfig
    base_model_prefix = "merit"
    main_input_name = "input_values"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["MeritEcgLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _checkpoint_keys: dict[str, str] = {}
    _new_modules: tuple[str, ...] = ()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, MeritEcgQueryKey):
            # One seed, so that all of one shape are equal.
            generator = torch.Generator(module.weight.device).manual_seed(0)
            init.orthogonal_(module.weight, generator=generator)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, MeritModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
        elif isinstance(module, MeritDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """Load weights as `PreTrainedModel.from_pretrained` does, but never leave a part of an encoder random.

        Raises:
            OSError: If the checkpoint lacks weights of this model other than those of a head or decoder that a user
            trains.
        """
        if cls._checkpoint_keys:
            kwargs.setdefault("key_mapping", cls._checkpoint_keys)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        if cls._checkpoint_keys:
            model._weight_conversions = None  # saving would try to undo the renaming
        missing = sorted(key for key in info["missing_keys"] if not key.startswith(cls._new_modules))
        if missing:
            raise OSError(
                f"Expected {pretrained_model_name_or_path} to hold all weights of {cls.__name__}, but {len(missing)} "
                f"are missing, such as {', '.join(missing[:3])}. Load it with the class it was saved from."
            )
        return (model, info) if output_loading_info else model


class MeritEcgModel(MeritPreTrainedModel):
    """The ECG encoder: tokens of single-lead patches through pre-LayerNorm transformer blocks.

    Example:

    >>> import torch
    >>> from modeling_merit import MeritConfig, MeritEcgModel
    >>> output = MeritEcgModel(MeritConfig.from_size("tiny").ecg_config).eval()(torch.randn(2, 12, 1000))
    >>> output.last_hidden_state.shape, output.pooler_output.shape
    (torch.Size([2, 240, 128]), torch.Size([2, 128]))
    """

    config: MeritEcgConfig
    input_modalities = ("audio",)
    _can_record_outputs = {"hidden_states": MeritEcgLayer, "attentions": MeritEcgAttention}
    # A dual encoder or pre-training checkpoint holds this encoder under a prefix.
    _checkpoint_keys = {r"^(merit\.)?ecg_model\.": ""}
    _keys_to_ignore_on_load_unexpected = [
        r"text_model",
        r"projection\.fc",
        r"logit_scale",
        r"decoder\.",
        r"classifier\.",
    ]

    def __init__(self, config: MeritEcgConfig):
        super().__init__(config)
        self.embeddings = MeritEcgEmbeddings(config)
        self.layers = nn.ModuleList(MeritEcgLayer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def patch_mask(self, ecg_mask: torch.Tensor) -> torch.Tensor:
        """Return (batch, leads, patches), True where enough samples of (batch, leads, samples) are recorded."""
        coverage = ecg_mask.unflatten(2, (-1, self.config.patch_length)).float().mean(dim=-1)
        return coverage >= self.config.min_patch_coverage

    def prepare_inputs(
        self, input_values: torch.Tensor, ecg_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the inputs padded to whole patches, with zeros where nothing was recorded.

        Raises:
            ValueError: If a shape is not (batch, leads, samples) with the leads of the configuration.
        """
        if input_values.ndim != 3 or input_values.shape[1] != len(self.config.leads) or not input_values.shape[2]:
            raise ValueError(
                f"Expected `input_values` of shape (batch, {len(self.config.leads)}, samples) with the rows "
                f"{', '.join(self.config.leads)}, got {tuple(input_values.shape)}. Use the feature extractor."
            )
        if ecg_mask is not None and ecg_mask.shape != input_values.shape:
            raise ValueError(
                f"Expected `ecg_mask` of the shape of `input_values`, {tuple(input_values.shape)}, got "
                f"{tuple(ecg_mask.shape)}."
            )
        ecg_mask = None if ecg_mask is None else ecg_mask.bool()
        input_values, ecg_mask = pad_samples(input_values, ecg_mask, -input_values.shape[2] % self.config.patch_length)
        if ecg_mask is not None:
            input_values = input_values.masked_fill(~ecg_mask, 0.0)
        return input_values.to(self.dtype), ecg_mask

    def split_windows(
        self, input_values: torch.Tensor, ecg_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        """Return (batch · windows, leads, samples of a window) and the number of windows per ECG."""
        length = round(self.config.window_seconds * self.config.sampling_rate)
        windows = -(-input_values.shape[2] // length)
        if windows == 1:
            return input_values, ecg_mask, 1
        input_values, ecg_mask = pad_samples(input_values, ecg_mask, windows * length - input_values.shape[2])
        input_values = input_values.unflatten(2, (windows, length)).transpose(1, 2).flatten(0, 1)
        if ecg_mask is not None:
            ecg_mask = ecg_mask.unflatten(2, (windows, length)).transpose(1, 2).flatten(0, 1)
        return input_values, ecg_mask, windows

    def join_windows(self, tokens: torch.Tensor, batch: int, num_patches: int) -> torch.Tensor:
        """Return (batch, leads · num_patches, width), lead by lead, of (batch · windows, tokens per window, width)."""
        tokens = tokens.unflatten(1, (len(self.config.leads), -1)).unflatten(0, (batch, -1))
        return tokens.transpose(1, 2).flatten(2, 3)[:, :, :num_patches].flatten(1, 2)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_values: torch.FloatTensor,
        ecg_mask: torch.BoolTensor | None = None,
        visible_patches: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MeritEcgModelOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, leads, samples)`):
                ECG in mV (or as the feature extractor normalises it) at `config.sampling_rate`, rows as
                `config.leads`.
            ecg_mask (`torch.BoolTensor` of shape `(batch, leads, samples)`, *optional*):
                True at recorded samples; the values elsewhere (absent leads, padding) do not matter.
            visible_patches (`torch.LongTensor` of shape `(batch, visible)`, *optional*):
                Indices of the patches to encode; all others are masked (see `random_masking`).

        Raises:
            ValueError: If a shape is not as above.
        """
        input_values, ecg_mask = self.prepare_inputs(input_values, ecg_mask)
        batch, num_patches = len(input_values), input_values.shape[2] // self.config.patch_length
        windows = 1
        if visible_patches is None and self.config.window_seconds is not None:
            input_values, ecg_mask, windows = self.split_windows(input_values, ecg_mask)
        patches = patchify(input_values, self.config.patch_length)
        hidden_states = self.embeddings(patches, patches.shape[1] // len(self.config.leads), visible_patches)
        token_mask = None
        if ecg_mask is not None:
            token_mask = self.patch_mask(ecg_mask).flatten(1)
            if visible_patches is not None:
                token_mask = token_mask.gather(1, visible_patches)
        attended = token_mask
        if token_mask is not None:
            # A softmax over nothing is NaN; a record without a valid patch attends to all, and its output is not used.
            attended = token_mask | ~token_mask.any(dim=1, keepdim=True)
        attention_mask = create_bidirectional_mask(self.config, hidden_states, attended)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        hidden_states = self.layernorm(hidden_states)
        if windows > 1:
            hidden_states = self.join_windows(hidden_states, batch, num_patches)
            if token_mask is not None:
                token_mask = self.join_windows(token_mask[..., None], batch, num_patches)[..., 0]
        return MeritEcgModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=masked_mean(hidden_states, token_mask),
            token_mask=token_mask,
        )

    def get_lead_features(
        self, input_values: torch.Tensor, ecg_mask: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """Return (batch, leads, hidden_size): the mean over time of the vectors of each lead of `forward`'s inputs.

        It has as many times the values of the pooled feature, the mean over leads too, as there are leads, and tells
        them apart. A lead without a valid patch is zero.
        """
        output, shape = self(input_values, ecg_mask, **kwargs), (len(self.config.leads), -1)
        mask = None if output.token_mask is None else output.token_mask.unflatten(1, shape)
        return masked_mean(output.last_hidden_state.unflatten(1, shape), mask)


class MeritModel(MeritPreTrainedModel):
    """The dual encoder: an ECG encoder, a text encoder, and a projection head for each.

    Example:

    >>> import torch
    >>> from modeling_merit import MeritConfig, MeritModel
    >>> model = MeritModel(MeritConfig.from_size("tiny", text_config={"vocab_size": 100})).eval()
    >>> output = model(torch.randn(2, 12, 1000), input_ids=torch.tensor([[5, 6], [7, 8], [9, 9]]))
    >>> output.logits_per_ecg.shape
    torch.Size([2, 3])
    """

    _keys_to_ignore_on_load_unexpected = [r"decoder\.", r"text_model\.pooler\."]

    def __init__(self, config: MeritConfig):
        super().__init__(config)
        self.ecg_model = MeritEcgModel._from_config(config.ecg_config)
        self.text_model = AutoModel.from_config(config.text_config)
        if getattr(self.text_model, "pooler", None) is not None:
            self.text_model.pooler = None  # never used here; DDP would wait for its gradient
        self.ecg_projection = MeritProjectionHead(config.ecg_config.hidden_size, config)
        self.text_projection = MeritProjectionHead(config.text_config.hidden_size, config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    @classmethod
    def from_ecg_text_pretrained(
        cls, ecg_model: str | MeritEcgModel, text_model: str | PreTrainedModel, **config_kwargs
    ):
        """Return the model of a trained ECG encoder and a trained text encoder; only the two heads are new.

        Args:
            ecg_model (`str` or [`MeritEcgModel`]): The ECG encoder, or a folder or Hub id of any MERIT checkpoint.
            text_model (`str` or `PreTrainedModel`): Any encoder of `AutoModel`, or a folder or Hub id.
            config_kwargs: Further fields of [`MeritConfig`].
        """
        ecg_model = MeritEcgModel.from_pretrained(ecg_model) if isinstance(ecg_model, str) else ecg_model
        text_model = AutoModel.from_pretrained(text_model) if isinstance(text_model, str) else text_model
        config = MeritConfig(
            ecg_config=ecg_model.config.to_dict(), text_config=text_model.config.to_dict(), **config_kwargs
        )
        model = cls(config)
        model.ecg_model.load_state_dict(ecg_model.state_dict())
        text_weights = {key: value for key, value in text_model.state_dict().items() if not key.startswith("pooler.")}
        model.text_model.load_state_dict(text_weights)
        return model

    def get_input_embeddings(self):
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.text_model.set_input_embeddings(value)

    def get_logit_scale(self) -> torch.Tensor:
        """Return the factor of the cosine similarities, `exp(logit_scale)` but at most `config.logit_scale_max`."""
        return self.logit_scale.exp().clamp(max=self.config.logit_scale_max)

    def get_ecg_features(
        self, input_values: torch.Tensor, ecg_mask: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """Return unit vectors (batch, projection_dim) of ECGs (batch, leads, samples) in mV."""
        return self.ecg_projection(self.ecg_model(input_values, ecg_mask, **kwargs).pooler_output)

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """Return unit vectors (batch, projection_dim) of tokens (batch, length)."""
        hidden = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        if self.config.text_pooling == "cls":
            return self.text_projection(hidden[:, 0])
        return self.text_projection(masked_mean(hidden, attention_mask))

    @can_return_tuple
    def forward(
        self,
        input_values: torch.FloatTensor | None = None,
        ecg_mask: torch.BoolTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MeritOutput:
        r"""
        Args:
            input_values, ecg_mask (*optional*): ECGs, as [`MeritEcgModel`] takes them.
            input_ids (`torch.LongTensor` of shape `(texts, length)`, *optional*): Tokens of the texts.
            attention_mask (`torch.Tensor` of shape `(texts, length)`, *optional*): 0 at padding.

        Raises:
            ValueError: If neither ECGs nor texts are given.
        """
        if input_values is None and input_ids is None:
            raise ValueError("Expected `input_values`, `input_ids` or both, got neither.")
        ecg_embeds = text_embeds = logits_per_ecg = None
        if input_values is not None:
            ecg_embeds = self.get_ecg_features(input_values, ecg_mask, **kwargs)
        if input_ids is not None:
            text_embeds = self.get_text_features(input_ids, attention_mask)
        if ecg_embeds is not None and text_embeds is not None:
            logits_per_ecg = self.get_logit_scale() * ecg_embeds @ text_embeds.T
        return MeritOutput(logits_per_ecg=logits_per_ecg, ecg_embeds=ecg_embeds, text_embeds=text_embeds)


class MeritForPreTraining(MeritPreTrainedModel):
    """Both branches: a masked autoencoder of the ECG and the contrastive alignment of ECGs with their reports.

    Example:

    >>> import torch
    >>> from modeling_merit import MeritConfig, MeritForPreTraining
    >>> model = MeritForPreTraining(MeritConfig.from_size("tiny", text_config={"vocab_size": 100}))
    >>> output = model(torch.randn(2, 12, 1000), input_ids=torch.tensor([[5, 6], [7, 8]]))
    >>> output.masked_patches.sum(dim=1).tolist()
    [180, 180]
    """

    _new_modules = ("decoder.",)
    _keys_to_ignore_on_load_unexpected = [r"text_model\.pooler\."]

    def __init__(self, config: MeritConfig):
        super().__init__(config)
        self.merit = MeritModel(config)
        self.decoder = MeritDecoder(config)
        self.post_init()

    @classmethod
    def from_ecg_text_pretrained(
        cls, ecg_model: str | MeritEcgModel, text_model: str | PreTrainedModel, **config_kwargs
    ):
        """As [`MeritModel.from_ecg_text_pretrained`]; the decoder is new, too."""
        dual_encoder = MeritModel.from_ecg_text_pretrained(ecg_model, text_model, **config_kwargs)
        model = cls(dual_encoder.config)
        model.merit = dual_encoder
        return model

    @can_return_tuple
    def forward(
        self,
        input_values: torch.FloatTensor,
        ecg_mask: torch.BoolTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MeritForPreTrainingOutput:
        r"""
        Args:
            input_values, ecg_mask: ECGs, as [`MeritEcgModel`] takes them.
            input_ids, attention_mask (*optional*):
                Their reports, as [`MeritModel`] takes texts; not needed when `config.contrastive_weight` is 0.

        Raises:
            ValueError: If the contrastive branch is on and there are no reports, or not one per ECG.
        """
        config, encoder = self.config, self.merit.ecg_model
        if config.contrastive_weight and (input_ids is None or len(input_ids) != len(input_values)):
            raise ValueError(
                f"Expected one report per ECG ({len(input_values)}), got "
                f"{'none' if input_ids is None else len(input_ids)}. Without reports, set `contrastive_weight` to 0."
            )
        output, terms = MeritForPreTrainingOutput(), []
        if config.reconstruction_weight or config.alignment_view == "masked":
            values, mask = encoder.prepare_inputs(input_values, ecg_mask)
            valid = encoder.patch_mask(torch.ones_like(values, dtype=torch.bool) if mask is None else mask)
            visible, output.masked_patches = random_masking(valid, config.mask_ratio)
            encoded = encoder(values, mask, visible_patches=visible, **kwargs)
        if config.reconstruction_weight:
            patches = patchify(values, config.ecg_config.patch_length)
            output.reconstruction = self.decoder(encoded.last_hidden_state, visible, valid.flatten(1))
            output.reconstruction_loss = reconstruction_loss(output.reconstruction, patches, output.masked_patches)
            output.reconstruction_information = reconstruction_information(output.reconstruction_loss.detach())
            terms.append(config.reconstruction_weight * output.reconstruction_loss)
        if config.contrastive_weight:
            if config.alignment_view == "masked":
                output.ecg_embeds = self.merit.ecg_projection(encoded.pooler_output)
            else:
                output.ecg_embeds = self.merit.get_ecg_features(input_values, ecg_mask, **kwargs)
            output.text_embeds = self.merit.get_text_features(input_ids, attention_mask)
            output.contrastive_loss = contrastive_loss(
                output.ecg_embeds,
                output.text_embeds,
                self.merit.get_logit_scale(),
                report_fingerprints(input_ids, attention_mask),
            )
            output.text_information = text_information(output.contrastive_loss.detach(), len(input_ids))
            terms.append(config.contrastive_weight * output.contrastive_loss)
        output.loss = sum(terms)
        return output


class MeritForEcgClassification(MeritPreTrainedModel):
    """The ECG encoder with a linear head on its pooled feature.

    `problem_type` of the configuration chooses the loss: `"multi_label_classification"` (labels of 0 and 1, binary
    cross-entropy) or `"single_label_classification"` (class indices, cross-entropy). Loads the ECG encoder of any
    MERIT checkpoint.

    Example:

    >>> import torch
    >>> from modeling_merit import MeritConfig, MeritForEcgClassification
    >>> config = MeritConfig.from_size("tiny").ecg_config
    >>> config.num_labels, config.problem_type = 5, "multi_label_classification"
    >>> MeritForEcgClassification(config)(torch.randn(2, 12, 1000), labels=torch.ones(2, 5)).logits.shape
    torch.Size([2, 5])
    """

    config: MeritEcgConfig
    base_model_prefix = "ecg_model"
    input_modalities = ("audio",)
    _checkpoint_keys = {r"^merit\.ecg_model\.": "ecg_model."}
    _new_modules = ("classifier.",)
    _keys_to_ignore_on_load_unexpected = MeritEcgModel._keys_to_ignore_on_load_unexpected[:-1]

    def __init__(self, config: MeritEcgConfig):
        super().__init__(config)
        self.ecg_model = MeritEcgModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.FloatTensor,
        ecg_mask: torch.BoolTensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        r"""
        Args:
            input_values, ecg_mask: ECGs, as [`MeritEcgModel`] takes them.
            labels (`torch.Tensor` of shape `(batch, num_labels)` or `(batch,)`, *optional*): As `problem_type` asks.

        Raises:
            ValueError: If labels are given and `problem_type` is neither of the two.
        """
        encoded = self.ecg_model(input_values, ecg_mask, **kwargs)
        logits = self.classifier(encoded.pooler_output)
        loss = None
        if labels is not None:
            if self.config.problem_type == "multi_label_classification":
                loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
            elif self.config.problem_type == "single_label_classification":
                loss = nn.functional.cross_entropy(logits.float(), labels)
            else:
                raise ValueError(
                    "Expected `config.problem_type` 'multi_label_classification' or 'single_label_classification', "
                    f"got {self.config.problem_type!r}."
                )
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


__all__ = [
    "MeritEcgModel",
    "MeritEcgModelOutput",
    "MeritForEcgClassification",
    "MeritForPreTraining",
    "MeritForPreTrainingOutput",
    "MeritModel",
    "MeritOutput",
    "MeritPreTrainedModel",
]
