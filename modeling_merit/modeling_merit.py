"""PyTorch MERIT models: an ECG encoder, an ECG-text dual encoder, their pre-training and an ECG classifier.

Independent implementation of the idea of "Information-theoretic Multimodal Representation Learning for
Electrocardiogram Signals" (arXiv:2605.27583). The encoder is a residual network (He et al., 2016), masked modelling
follows masked autoencoders (He et al., 2022), alignment follows CLIP (Radford et al., 2021); `objective_merit.py`
gives the bounds. The decoder never sees text and nothing of the text enters the ECG encoder.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_merit import MeritConfig, MeritEcgConfig
from .objective_merit import (
    bag_of_words,
    contrastive_loss,
    ngram_keys,
    patchify,
    random_masking,
    reconstruction_information,
    reconstruction_loss,
    report_fingerprints,
    text_information,
    word_information,
    word_loss,
)


@dataclass
class MeritEcgModelOutput(ModelOutput):
    """Output of [`MeritEcgModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, positions, hidden_size)`):
            One vector per `patch_length` samples; zero where nothing was recorded.
        pooler_output (`torch.FloatTensor` of shape `(batch, pooler_size)`):
            Mean and maximum of the vectors within each window, averaged over the windows, then the same of earlier
            stages and the maxima over all windows where the configuration asks for them: the feature for probes and
            classifiers.
        token_mask (`torch.BoolTensor` of shape `(batch, positions)`, *optional*):
            True where any lead was recorded; `None` when all were throughout.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            With `output_hidden_states=True`, the output of the stem and of every stage, each `(batch · windows,
            channels, positions)`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    token_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class MeritOutput(ModelOutput):
    """Output of [`MeritModel`].

    Args:
        loss (`torch.FloatTensor`, *optional*): With `return_loss=True`, the symmetric InfoNCE in nats.
        logits_per_ecg (`torch.FloatTensor` of shape `(ecgs, texts)`): Scaled cosine similarities.
        logits_per_text (`torch.FloatTensor` of shape `(texts, ecgs)`): The same, transposed.
        ecg_embeds (`torch.FloatTensor` of shape `(ecgs, projection_dim)`): Unit vectors.
        text_embeds (`torch.FloatTensor` of shape `(texts, projection_dim)`): Unit vectors.
        ecg_model_output ([`MeritEcgModelOutput`]): Output of the ECG encoder.
        text_model_output (`BaseModelOutputWithPooling`): Output of the text encoder.
    """

    loss: torch.FloatTensor | None = None
    logits_per_ecg: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    ecg_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    ecg_model_output: MeritEcgModelOutput | None = None
    text_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        nested = ("ecg_model_output", "text_model_output")
        return tuple(self[name].to_tuple() if name in nested else self[name] for name in self)


@dataclass
class MeritForPreTrainingOutput(ModelOutput):
    """Output of [`MeritForPreTraining`]; what belongs to a branch that is switched off is `None`.

    Args:
        loss (`torch.FloatTensor`): The three losses, weighted as the configuration says.
        reconstruction_loss (`torch.FloatTensor`): Mean-square error on masked, standardised patches.
        contrastive_loss (`torch.FloatTensor`): Symmetric InfoNCE in nats.
        word_loss (`torch.FloatTensor`): Cross-entropy of the words of the reports, nats per report.
        reconstruction_information (`torch.FloatTensor`): `½ log(1 / reconstruction_loss)`, nats per masked sample.
        text_information (`torch.FloatTensor`): `log B - InfoNCE`, a lower bound in nats on I(Z;T). The InfoNCE of the
            bound keeps equal reports in its denominator, which the loss leaves out.
        word_information (`torch.FloatTensor`): Nats per report that the words gain from the ECG, summed over words.
        reconstruction (`torch.FloatTensor` of shape `(batch, leads, patches, patch_length)`): Standardised patches as
            predicted.
        masked_patches (`torch.BoolTensor` of shape `(batch, leads, patches)`): True at masked patches.
        ecg_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): Unit vectors.
        text_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): Unit vectors.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): As in [`MeritEcgModelOutput`]; the masked views follow
            the full ones.
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    word_loss: torch.FloatTensor | None = None
    reconstruction_information: torch.FloatTensor | None = None
    text_information: torch.FloatTensor | None = None
    word_information: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    masked_patches: torch.BoolTensor | None = None
    ecg_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


def masked_mean(vectors: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of (..., tokens, width) over the tokens where the mask (..., tokens) is not 0; 0 if it is."""
    if mask is None:
        return vectors.mean(dim=-2)
    weights = mask[..., None].to(vectors.dtype)
    return (vectors * weights).sum(dim=-2) / weights.sum(dim=-2).clamp(min=1)


def mean_and_maximum(vectors: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return mean and maximum of (batch, width, positions) over the positions where (batch, 1, positions) is not 0,
    (batch, 2 · width); 0 if it is 0 throughout."""
    mean = (vectors * positions).sum(dim=2) / positions.sum(dim=2).clamp(min=1)
    largest = vectors.masked_fill(positions == 0, -torch.inf).amax(dim=2)
    return torch.cat([mean, largest.masked_fill(positions.amax(dim=2) == 0, 0.0)], dim=1)


def in_backward_pass() -> bool:
    """Return whether autograd is computing gradients just now, as `torch.utils.checkpoint` finds out itself."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() >= 0


class MeritEcgConvolution(nn.Module):
    """Convolution and batch normalisation; the number of positions is divided by the stride."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1):
        super().__init__()
        self.convolution = nn.Conv1d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False)
        self.normalization = nn.BatchNorm1d(outputs)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states, normalization = self.convolution(hidden_states), self.normalization
        if not (normalization.training and in_backward_pass()):
            return normalization(hidden_states)
        # Activation checkpointing computes a layer again, for its gradient: the statistics have this batch already.
        kept = normalization.momentum, normalization.num_batches_tracked
        normalization.momentum, normalization.num_batches_tracked = 0.0, normalization.num_batches_tracked.clone()
        try:
            return normalization(hidden_states)
        finally:
            normalization.momentum, normalization.num_batches_tracked = kept


class MeritEcgStem(nn.Module):
    """From samples and their visibility, two channels per lead, to a quarter of the positions.

    As nothing but zeros stands where no lead is visible, before every convolution, what is computed of a record does
    not depend on the length it is padded to.
    """

    def __init__(self, config: MeritEcgConfig):
        super().__init__()
        size, leads = config.embedding_size, len(config.leads)
        sizes = ((2 * leads, size, 2), (size, size, 1), (size, config.hidden_sizes[0], 1))
        self.convolutions = nn.ModuleList(
            MeritEcgConvolution(inputs, outputs, config.kernel_size, stride) for inputs, outputs, stride in sizes
        )
        self.act = ACT2FN[config.hidden_act]

    def forward(self, values: torch.Tensor, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (batch, channels, positions) and (batch, 1, positions), 1 where any lead is visible.

        Args:
            values (`torch.Tensor` of shape `(batch, leads, samples)`): mV, zero where not visible.
            visible (`torch.Tensor` of that shape): 1 at visible samples, else 0.
        """
        hidden_states = torch.cat([values, visible], dim=1)
        positions = nn.functional.max_pool1d(visible.amax(dim=1, keepdim=True), 2)
        for convolution in self.convolutions:
            hidden_states = self.act(convolution(hidden_states)) * positions
        hidden_states = nn.functional.max_pool1d(nn.functional.pad(hidden_states, (1, 0)), 3, 2)
        positions = nn.functional.max_pool1d(positions, 2)
        return hidden_states * positions, positions


class MeritEcgLayer(GradientCheckpointingLayer):
    """Two convolutions beside a shortcut that averages before it projects (He et al., CVPR 2019)."""

    def __init__(self, config: MeritEcgConfig, inputs: int, outputs: int, stride: int, drop_path: float):
        super().__init__()
        self.first = MeritEcgConvolution(inputs, outputs, config.kernel_size, stride)
        self.second = MeritEcgConvolution(outputs, outputs, config.kernel_size)
        self.shortcut = MeritEcgConvolution(inputs, outputs, 1) if inputs != outputs else None
        self.act = ACT2FN[config.hidden_act]
        self.stride, self.drop_path = stride, drop_path

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return (batch, outputs, positions), zero where `positions` of the output is."""
        shortcut = nn.functional.avg_pool1d(hidden_states, self.stride) if self.stride > 1 else hidden_states
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        residual = self.second(self.act(self.first(hidden_states)) * positions)
        if self.training and self.drop_path:
            kept = torch.rand(residual.shape[0], 1, 1, device=residual.device) >= self.drop_path
            residual = residual * kept / (1 - self.drop_path)
        return self.act(residual + shortcut) * positions


class MeritEcgStage(nn.Module):
    """Residual blocks of one width."""

    def __init__(self, config: MeritEcgConfig, index: int):
        super().__init__()
        sizes, depth = [config.hidden_sizes[0], *config.hidden_sizes], config.depths[index]
        self.stride = 2 if index else 1
        first, last = sum(config.depths[:index]), max(sum(config.depths) - 1, 1)
        self.layers = nn.ModuleList(
            MeritEcgLayer(
                config,
                sizes[index] if layer == 0 else sizes[index + 1],
                sizes[index + 1],
                self.stride if layer == 0 else 1,
                config.drop_path_rate * (first + layer) / last,
            )
            for layer in range(depth)
        )

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions)
        return hidden_states


class MeritProjectionHead(nn.Module):
    """Two linear layers from the feature of an encoder, or what it begins with, to a unit vector."""

    def __init__(self, input_size: int, config: MeritConfig):
        super().__init__()
        self.fc1 = nn.Linear(input_size, config.projection_hidden_size)
        self.fc2 = nn.Linear(config.projection_hidden_size, config.projection_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden_states = nn.functional.gelu(self.fc1(features[..., : self.fc1.in_features]))
        return nn.functional.normalize(self.fc2(hidden_states), dim=-1)


class MeritDecoderLayer(nn.Module):
    """A convolution over neighbouring positions, with a shortcut."""

    def __init__(self, size: int, kernel_size: int):
        super().__init__()
        self.layernorm = nn.LayerNorm(size)
        self.convolution = nn.Conv1d(size, size, kernel_size, padding=kernel_size // 2)
        self.fc = nn.Linear(size, size)

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        mixed = self.convolution((self.layernorm(hidden_states) * positions).transpose(1, 2)).transpose(1, 2)
        return hidden_states + self.fc(nn.functional.gelu(mixed))


class MeritDecoder(nn.Module):
    """Predict all patches of all leads from the vectors of the encoder."""

    def __init__(self, config: MeritConfig):
        super().__init__()
        encoder, size = config.ecg_config, config.decoder_hidden_size
        self.num_leads = len(encoder.leads)
        self.embedding = nn.Linear(encoder.hidden_size, size)
        self.layers = nn.ModuleList(
            MeritDecoderLayer(size, encoder.kernel_size) for _ in range(config.decoder_num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(size)
        self.prediction = nn.Linear(size, self.num_leads * encoder.patch_length)

    def forward(self, encoded: torch.Tensor, recorded: torch.Tensor) -> torch.Tensor:
        """Return (batch, leads, patches, patch_length).

        Args:
            encoded (`torch.Tensor` of shape `(batch, patches, hidden_size)`): Output of the encoder.
            recorded (`torch.BoolTensor` of shape `(batch, patches)`): Where any lead was recorded, masked or not.
        """
        hidden_states, positions = self.embedding(encoded), recorded[..., None].to(encoded.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions)
        predicted = self.prediction(self.layernorm(hidden_states))
        return predicted.unflatten(2, (self.num_leads, -1)).transpose(1, 2)


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
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.Conv1d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, MeritModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.word_head is not None:
                init.zeros_(module.word_head.weight)  # the frequencies of the words alone
                init.zeros_(module.word_log_odds)
                init.copy_(module.word_keys, torch.arange(module.word_keys.shape[0]))

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

    def resize_token_embeddings(self, *args, **kwargs):
        """As the method of the library; the phrases of the word head stay numbered as they are."""
        if isinstance(self.config, MeritConfig) and self.config.word_vocab_size is None:
            self.config.word_vocab_size = self.config.text_config.vocab_size
        return super().resize_token_embeddings(*args, **kwargs)


class MeritEcgModel(MeritPreTrainedModel):
    """The ECG encoder: a residual convolutional network that reads all leads and which samples of them are visible.

    Absent leads, padding, missing samples and masked patches are one thing to it: not visible. Batch normalisation
    uses stored statistics in evaluation mode, so that an ECG gives the same output in any batch.

    Example:

    >>> import torch
    >>> from modeling_merit import MeritConfig, MeritEcgModel
    >>> output = MeritEcgModel(MeritConfig.from_size("tiny").ecg_config).eval()(torch.randn(2, 12, 1000))
    >>> output.last_hidden_state.shape, output.pooler_output.shape
    (torch.Size([2, 32, 48]), torch.Size([2, 96]))
    """

    config: MeritEcgConfig
    input_modalities = ("audio",)
    _can_record_outputs = {"hidden_states": MeritEcgStage}
    # A dual encoder or pre-training checkpoint holds this encoder under a prefix.
    _checkpoint_keys = {r"^(merit\.)?ecg_model\.": ""}
    _keys_to_ignore_on_load_unexpected = [
        r"text_model",
        r"projection\.fc",
        r"logit_scale",
        r"word_",
        r"decoder\.",
        r"classifier\.",
    ]

    def __init__(self, config: MeritEcgConfig):
        super().__init__(config)
        self.stem = MeritEcgStem(config)
        self.stages = nn.ModuleList(MeritEcgStage(config, index) for index in range(len(config.hidden_sizes)))
        self.post_init()

    def get_input_embeddings(self):
        return self.stem.convolutions[0]

    def set_input_embeddings(self, value):
        self.stem.convolutions[0] = value

    def prepare_inputs(
        self, input_values: torch.Tensor, ecg_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs padded to whole patches, or whole windows where there are several, and their mask.

        Raises:
            ValueError: If a shape is not (batch, leads, samples) with the leads of the configuration.
        """
        if input_values.ndim != 3 or input_values.shape[1] != len(self.config.leads) or input_values.shape[2] == 0:
            raise ValueError(
                f"Expected `input_values` of shape (batch, {len(self.config.leads)}, samples) with the rows "
                f"{', '.join(self.config.leads)}, got {tuple(input_values.shape)}. Use the feature extractor."
            )
        if ecg_mask is not None and ecg_mask.shape != input_values.shape:
            raise ValueError(
                f"Expected `ecg_mask` of the shape of `input_values`, {tuple(input_values.shape)}, got "
                f"{tuple(ecg_mask.shape)}."
            )
        ecg_mask = torch.ones_like(input_values, dtype=torch.bool) if ecg_mask is None else ecg_mask.bool()
        length, window = self.config.patch_length, self.config.window_length
        if window is not None and input_values.shape[2] > window:
            length = window
        padding = -input_values.shape[2] % length
        input_values = nn.functional.pad(input_values.masked_fill(~ecg_mask, 0.0), (0, padding))
        weight = self.stem.convolutions[0].convolution.weight  # `self.dtype` has no parameters in a replica
        return input_values.to(weight.dtype), nn.functional.pad(ecg_mask, (0, padding))

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)  # channels come before positions in them
    def forward(
        self,
        input_values: torch.FloatTensor,
        ecg_mask: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MeritEcgModelOutput:
        r"""
        Args:
            input_values (`torch.FloatTensor` of shape `(batch, leads, samples)`):
                ECG in mV as the feature extractor prepares it, at `config.sampling_rate`, rows as `config.leads`.
            ecg_mask (`torch.BoolTensor` of shape `(batch, leads, samples)`, *optional*):
                True at visible samples; the values elsewhere (absent leads, padding, missing samples) do not matter.

        Raises:
            ValueError: If a shape is not as above.
        """
        complete = ecg_mask is None
        values, visible = self.prepare_inputs(input_values, ecg_mask)
        patches = -(-input_values.shape[2] // self.config.patch_length)
        window = self.config.window_length
        windows = 1 if window is None or values.shape[2] <= window else values.shape[2] // window
        if windows > 1:
            values, visible = (
                part.unflatten(2, (windows, window)).transpose(1, 2).flatten(0, 1) for part in (values, visible)
            )
        hidden_states, positions = self.stem(values, visible.to(values.dtype))
        recorded, outputs = positions.amax(dim=2), []
        for stage in self.stages:
            if stage.stride > 1:
                positions = nn.functional.max_pool1d(positions, 2)
            hidden_states = stage(hidden_states, positions)
            outputs.append((hidden_states, positions))
        hidden_states, token_mask = hidden_states.transpose(1, 2), positions[:, 0] > 0
        pooled = [mean_and_maximum(*output) for output in reversed(outputs[-self.config.pooler_stages :])]
        if windows > 1:
            # Over the windows, of which one without any visible sample counts for nothing.
            recorded = recorded.unflatten(0, (-1, windows)).transpose(1, 2)
            pooled = [mean_and_maximum(part.unflatten(0, (-1, windows)).transpose(1, 2), recorded) for part in pooled]
            hidden_states = hidden_states.unflatten(0, (-1, windows)).flatten(1, 2)[:, :patches]
            token_mask = token_mask.unflatten(0, (-1, windows)).flatten(1, 2)[:, :patches]
        sizes = self.config.hidden_sizes[::-1]
        features = [part[:, : 2 * size] for part, size in zip(pooled, sizes)]
        if self.config.pooler_largest:
            features += [part[:, -size:] for part, size in zip(pooled, sizes)]
        pooled = torch.cat(features, dim=1)
        return MeritEcgModelOutput(
            last_hidden_state=hidden_states, pooler_output=pooled, token_mask=None if complete else token_mask
        )


class MeritModel(MeritPreTrainedModel):
    """The dual encoder: an ECG encoder, a text encoder, a projection head for each, and a head that predicts words.

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
        # Of one dtype, whichever the encoders were stored in.
        self.ecg_model = MeritEcgModel._from_config(config.ecg_config, dtype=torch.get_default_dtype())
        self.text_model = AutoModel.from_config(config.text_config, dtype=torch.get_default_dtype())
        if getattr(self.text_model, "pooler", None) is not None:
            self.text_model.pooler = None  # never used here; DDP would wait for its gradient
        self.dropout = nn.Dropout(config.ecg_config.hidden_dropout)
        self.ecg_projection = MeritProjectionHead(config.ecg_config.aligned_size, config)
        self.text_projection = MeritProjectionHead(config.text_config.hidden_size, config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.word_head = None
        if config.num_words:
            self.word_head = nn.Linear(config.ecg_config.aligned_size, config.num_words)
            self.register_buffer("word_keys", torch.arange(config.num_words))
            self.register_buffer("word_log_odds", torch.zeros(config.num_words))
        self.post_init()

    @classmethod
    def from_ecg_text_pretrained(
        cls,
        ecg_model: str | os.PathLike | MeritEcgModel,
        text_model: str | os.PathLike | PreTrainedModel,
        **config_kwargs,
    ):
        """Return the model of a trained ECG encoder and a trained text encoder; only the heads are new.

        All of it has the default dtype of torch, float32, and is in evaluation mode.

        Args:
            ecg_model (`str`, path or [`MeritEcgModel`]):
                The ECG encoder, or a folder or Hub id of any MERIT checkpoint.
            text_model (`str`, path or `PreTrainedModel`): Any encoder of `AutoModel`, or a folder or Hub id.
            config_kwargs: Further fields of [`MeritConfig`].
        """
        if isinstance(ecg_model, (str, os.PathLike)):
            ecg_model = MeritEcgModel.from_pretrained(ecg_model)
        if isinstance(text_model, (str, os.PathLike)):
            text_model = AutoModel.from_pretrained(text_model)
        config = MeritConfig(
            ecg_config=ecg_model.config.to_dict(), text_config=text_model.config.to_dict(), **config_kwargs
        )
        model = cls(config)
        model.ecg_model.load_state_dict(ecg_model.state_dict())
        text_weights = {key: value for key, value in text_model.state_dict().items() if not key.startswith("pooler.")}
        model.text_model.load_state_dict(text_weights)
        return model.eval()

    def get_input_embeddings(self):
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.text_model.set_input_embeddings(value)

    @torch.no_grad()
    def set_words(self, word_keys: torch.Tensor, frequencies: torch.Tensor) -> None:
        """Say which words and phrases the model predicts, and how often they stand in the training reports.

        Args:
            word_keys (`torch.LongTensor` of shape `(num_words,)`): From `ngram_keys`, each once.
            frequencies (`torch.Tensor` of shape `(num_words,)`): Fraction of the reports that hold each, above 0 and
                below 1.

        Raises:
            ValueError: If there are not `config.num_words`, one is there twice, or a frequency is 0 or 1.
        """
        order = word_keys.argsort()
        keys, frequencies = word_keys[order], frequencies[order]
        if len(keys) != self.config.num_words or len(keys.unique()) < len(keys) or len(frequencies) != len(keys):
            raise ValueError(f"Expected {self.config.num_words} different words, got {len(keys.unique())}.")
        if not ((frequencies > 0) & (frequencies < 1)).all():
            raise ValueError("Expected frequencies above 0 and below 1: a word of none or all tells nothing.")
        self.word_keys.copy_(keys)
        self.word_log_odds.copy_(frequencies.logit())

    def get_logit_scale(self) -> torch.Tensor:
        """Return the factor of the cosine similarities, `exp(logit_scale)` but at most `config.logit_scale_max`."""
        return self.logit_scale.exp().clamp(max=self.config.logit_scale_max)

    @can_return_tuple
    def get_ecg_features(
        self, input_values: torch.Tensor, ecg_mask: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> MeritEcgModelOutput:
        """Return the output of the ECG encoder for ECGs (batch, leads, samples) in mV; its `pooler_output` are unit
        vectors (batch, projection_dim), to be compared with those of texts."""
        encoded = self.ecg_model(input_values, ecg_mask, **kwargs)
        encoded.pooler_output = self.ecg_projection(self.dropout(encoded.pooler_output))
        return encoded

    @can_return_tuple
    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Return the output of the text encoder for tokens (batch, length); its `pooler_output` are unit vectors
        (batch, projection_dim)."""
        encoded = self._encode_text(input_ids, attention_mask, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=self._project_text(encoded, attention_mask),
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )

    def get_word_evidence(self, input_values: torch.Tensor, ecg_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return `log q(word | ECG) - log p(word)` of ECGs, (batch, num_words): nats by which each word is likelier
        with the ECG than without.

        Raises:
            ValueError: If the model predicts no words.
        """
        if self.word_head is None:
            raise ValueError("Expected a model that predicts words, got one with `num_words` 0.")
        return self._word_evidence(self.ecg_model(input_values, ecg_mask).pooler_output)

    def get_score_features(self, input_values: torch.Tensor, ecg_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return what texts are scored against: unit vectors of ECGs, and behind them `get_word_evidence` of a model
        that predicts words, (batch, projection_dim + num_words)."""
        return self.score_features(self.ecg_model(input_values, ecg_mask).pooler_output)

    def score_features(self, pooler_output: torch.Tensor) -> torch.Tensor:
        """Return what `get_score_features` returns of `pooler_output` of the ECG encoder, which need not run again."""
        unit = self.ecg_projection(self.dropout(pooler_output))
        return unit if self.word_head is None else torch.cat([unit.float(), self._word_evidence(pooler_output)], dim=1)

    def get_word_logits(self, pooler_output: torch.Tensor) -> torch.Tensor:
        """Return the log-odds of every word, (batch, num_words), of `pooler_output` of the ECG encoder."""
        features = pooler_output[..., : self.word_head.in_features]
        return self.word_head(self.dropout(features)) + self.word_log_odds

    def _word_evidence(self, pooler_output: torch.Tensor) -> torch.Tensor:
        softplus = nn.functional.softplus  # log sigmoid(x) is -softplus(-x), which stays finite in ONNX, too
        return softplus(-self.word_log_odds.float()) - softplus(-self.get_word_logits(pooler_output).float())

    def get_words(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return which of the model's words and phrases texts hold, 0 or 1, (texts, num_words)."""
        vocabulary = self.config.word_vocab_size or self.config.text_config.vocab_size
        known = input_ids < vocabulary  # a token that was added later is in no phrase
        known = known if attention_mask is None else known & attention_mask.bool()
        return bag_of_words(ngram_keys(input_ids, known, vocabulary, self.config.max_ngram), self.word_keys)

    def _encode_text(self, input_ids, attention_mask, input_values=None, ecg_mask=None, **kwargs):
        """Text encoder; what a processor gives of ECGs beside the text is left aside."""
        return self.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    def _project_text(self, encoded, attention_mask):
        hidden = encoded.last_hidden_state
        return self.text_projection(
            hidden[:, 0] if self.config.text_pooling == "cls" else masked_mean(hidden, attention_mask)
        )

    @can_return_tuple
    def forward(
        self,
        input_values: torch.FloatTensor | None = None,
        ecg_mask: torch.BoolTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MeritOutput:
        r"""
        Args:
            input_values, ecg_mask (*optional*): ECGs, as [`MeritEcgModel`] takes them.
            input_ids (`torch.LongTensor` of shape `(texts, length)`, *optional*): Tokens of the texts.
            attention_mask (`torch.Tensor` of shape `(texts, length)`, *optional*): 0 at padding.
            return_loss (`bool`, *optional*): Whether to return the InfoNCE of ECGs and texts, pair by pair.

        Raises:
            ValueError: If neither ECGs nor texts are given, or a loss is asked for without as many of both.
        """
        if input_values is None and input_ids is None:
            raise ValueError("Expected `input_values`, `input_ids` or both, got neither.")
        output = MeritOutput()
        if input_values is not None:
            output.ecg_model_output = self.ecg_model(input_values, ecg_mask, **kwargs)
            output.ecg_embeds = self.ecg_projection(self.dropout(output.ecg_model_output.pooler_output))
        if input_ids is not None:
            output.text_model_output = self._encode_text(input_ids, attention_mask, **kwargs)
            output.text_embeds = self._project_text(output.text_model_output, attention_mask)
        if output.ecg_embeds is not None and output.text_embeds is not None:
            output.logits_per_ecg = self.get_logit_scale() * output.ecg_embeds @ output.text_embeds.T
            output.logits_per_text = output.logits_per_ecg.T
        if return_loss:
            if output.logits_per_ecg is None or output.ecg_embeds.shape != output.text_embeds.shape:
                raise ValueError("Expected one text per ECG for a loss.")
            output.loss = contrastive_loss(
                output.ecg_embeds,
                output.text_embeds,
                self.get_logit_scale(),
                report_fingerprints(input_ids, attention_mask),
            )
        return MeritOutput(**output)  # a tuple has the order of the class, the loss first


class MeritForPreTraining(MeritPreTrainedModel):
    """The dual encoder with the decoder and losses of pre-training.

    The full view of an ECG is aligned with its report and predicts the report's words; a masked view, in the same
    batch so that batch normalisation has one set of statistics, predicts its masked patches.

    Example:

    >>> import torch
    >>> from modeling_merit import MeritConfig, MeritForPreTraining
    >>> model = MeritForPreTraining(MeritConfig.from_size("tiny", text_config={"vocab_size": 100}))
    >>> output = model(torch.randn(2, 12, 1000), input_ids=torch.tensor([[5, 6], [7, 8]]))
    >>> output.reconstruction.shape, output.loss.isfinite().item()
    (torch.Size([2, 12, 32, 32]), True)
    """

    _new_modules = ("decoder.",)
    _keys_to_ignore_on_load_unexpected = [r"text_model\.pooler\."]
    accepts_loss_kwargs = False  # a mean over the batch, to be averaged over the steps of gradient accumulation

    def __init__(self, config: MeritConfig):
        super().__init__(config)
        self.merit = MeritModel(config)
        self.decoder = MeritDecoder(config)
        self.post_init()

    @classmethod
    def from_ecg_text_pretrained(
        cls,
        ecg_model: str | os.PathLike | MeritEcgModel,
        text_model: str | os.PathLike | PreTrainedModel,
        **config_kwargs,
    ):
        """As [`MeritModel.from_ecg_text_pretrained`]; the decoder is new, too."""
        dual_encoder = MeritModel.from_ecg_text_pretrained(ecg_model, text_model, **config_kwargs)
        model = cls(dual_encoder.config)
        model.merit = dual_encoder
        return model.eval()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.FloatTensor,
        ecg_mask: torch.BoolTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        noise: torch.FloatTensor | None = None,
        return_loss: bool | None = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MeritForPreTrainingOutput:
        r"""
        Args:
            input_values, ecg_mask: ECGs, as [`MeritEcgModel`] takes them.
            input_ids, attention_mask (*optional*):
                Their reports, as [`MeritModel`] takes texts; not needed when `contrastive_weight` and `word_weight` of
                the configuration are 0.
            noise (`torch.FloatTensor` of shape `(batch, leads, patches)`, *optional*):
                What `random_masking` draws, to repeat a mask.
            return_loss (`bool`, *optional*): Always returned; the argument tells `Trainer.evaluate` so.

        Raises:
            ValueError: If a branch needs reports and there are none, or not one per ECG.
        """
        config, merit = self.config, self.merit
        words = bool(config.word_weight and config.num_words)
        with_text = bool(config.contrastive_weight) or words
        batch = input_values.shape[0]
        if with_text and (input_ids is None or input_ids.shape[0] != batch):
            raise ValueError(
                f"Expected one report per ECG ({batch}), got {'none' if input_ids is None else input_ids.shape[0]}. "
                "Without reports, set `contrastive_weight` and `word_weight` to 0."
            )
        output, terms = MeritForPreTrainingOutput(), []
        values, recorded = merit.ecg_model.prepare_inputs(input_values, ecg_mask)
        views = [(values, recorded)] if with_text else []
        if config.reconstruction_weight:
            recorded_patches = patchify(recorded, config.ecg_config.patch_length)
            output.masked_patches = random_masking(recorded_patches.any(dim=3), config.mask_ratio, noise)
            counted = recorded_patches & output.masked_patches[..., None]
            views.append((values, recorded & ~counted.flatten(2)))
        # One pass, so that batch normalisation has the same statistics for both views.
        encoded = merit.ecg_model(*(torch.cat(parts) for parts in zip(*views)), **kwargs)
        output.hidden_states = encoded.hidden_states
        if config.reconstruction_weight:
            patches = patchify(values, config.ecg_config.patch_length)
            output.reconstruction = self.decoder(
                encoded.last_hidden_state[-batch:], recorded_patches.any(dim=3).any(dim=1)
            )
            output.reconstruction_loss = reconstruction_loss(output.reconstruction, patches, counted)
            output.reconstruction_information = reconstruction_information(output.reconstruction_loss.detach())
            terms.append(config.reconstruction_weight * output.reconstruction_loss)
        if config.contrastive_weight:
            output.ecg_embeds = merit.ecg_projection(merit.dropout(encoded.pooler_output[:batch]))
            output.text_embeds = merit.get_text_features(input_ids, attention_mask).pooler_output
            pairs = (output.ecg_embeds, output.text_embeds, merit.get_logit_scale())
            output.contrastive_loss = contrastive_loss(*pairs, report_fingerprints(input_ids, attention_mask))
            with torch.no_grad():
                output.text_information = text_information(contrastive_loss(*pairs), batch)
            terms.append(config.contrastive_weight * output.contrastive_loss)
        if words:
            bags = merit.get_words(input_ids, attention_mask)
            output.word_loss = word_loss(merit.get_word_logits(encoded.pooler_output[:batch]), bags)
            output.word_information = word_information(output.word_loss.detach(), merit.word_log_odds)
            terms.append(config.word_weight * output.word_loss)
        output.loss = sum(terms)
        return MeritForPreTrainingOutput(**output)  # a tuple has the order of the class, the loss first


class MeritForEcgClassification(MeritPreTrainedModel):
    """The ECG encoder with a linear head on its pooled feature.

    `problem_type` of the configuration chooses the loss: `"multi_label_classification"` (labels of 0 and 1, binary
    cross-entropy), `"single_label_classification"` (class indices, cross-entropy) or `"regression"` (mean-square
    error). Where it is absent the labels say it: one output is regression, integers are classes, else several labels.
    Loads the ECG encoder of any MERIT checkpoint.

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
    accepts_loss_kwargs = False  # a mean over the batch, to be averaged over the steps of gradient accumulation

    def __init__(self, config: MeritEcgConfig):
        super().__init__(config)
        self.ecg_model = MeritEcgModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.classifier = nn.Linear(config.pooler_size, config.num_labels)
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
            ValueError: If labels are given and `problem_type` is none of the three, or those of a regression are not
                one for each output.
        """
        encoded = self.ecg_model(input_values, ecg_mask, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = None
        if labels is not None:
            loss = self._loss(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.problem_type is None:
            several = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
            self.config.problem_type = "regression" if self.config.num_labels == 1 else several
        if self.config.problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        if self.config.problem_type == "single_label_classification":
            return nn.functional.cross_entropy(logits, labels)
        if self.config.problem_type == "regression":
            targets = labels.float()[:, None] if labels.ndim == 1 else labels.float()
            if targets.shape != logits.shape:
                raise ValueError(
                    f"Expected labels of the shape {tuple(logits.shape)} of the logits, got {tuple(labels.shape)}."
                )
            return nn.functional.mse_loss(logits, targets)
        raise ValueError(
            "Expected `config.problem_type` 'multi_label_classification', 'single_label_classification' or "
            f"'regression', got {self.config.problem_type!r}."
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
