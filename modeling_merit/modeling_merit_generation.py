"""MERIT before a language model: encoded ECGs replace the placeholders `<|ecg|>` in the prompts of any causal LM.

The language model is given the vectors of the positions in time, not the contrastive embedding, so that it can also
use what reports seldom name. Not a medical device: generated text is research output, not for clinical use.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_merit import MeritGenerationConfig
from .modeling_merit import MeritEcgModel, MeritPreTrainedModel


class MeritMlpProjector(nn.Module):
    """Means over equal spans of the recorded time, through two linear layers (as LLaVA-1.5, Liu et al., 2023).

    The spans divide the positions that were recorded, wherever they stand, so that padding changes nothing.
    """

    def __init__(self, config: MeritGenerationConfig):
        super().__init__()
        ecg_size, text_size = config.ecg_config.hidden_size, config.text_config.hidden_size
        self.spans = config.num_ecg_tokens
        self.absent = nn.Parameter(torch.zeros(ecg_size))  # used for an ECG of which nothing was recorded
        self.fc1 = nn.Linear(ecg_size, text_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.fc2 = nn.Linear(text_size, text_size)

    def forward(self, tokens: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return (batch, num_ecg_tokens, width of the LM) of (batch, positions, hidden_size)."""
        if token_mask is None:
            token_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        counts = token_mask.sum(dim=1)[:, None, None].float()
        ends = token_mask.cumsum(dim=1)[:, None, :].float()  # a recorded position covers (end - 1, end)
        borders = torch.arange(self.spans + 1, device=tokens.device)[None, :, None] * counts / self.spans
        overlap = torch.minimum(ends, borders[:, 1:]) - torch.maximum(ends - 1, borders[:, :-1])
        weights = overlap.clamp(min=0) * token_mask[:, None, :] * self.spans / counts.clamp(min=1)
        pooled = torch.where(counts > 0, weights.to(tokens.dtype) @ tokens, self.absent)
        return self.fc2(self.act(self.fc1(pooled)))


class MeritPerceiverLayer(nn.Module):
    def __init__(self, config: MeritGenerationConfig):
        super().__init__()
        size = config.ecg_config.hidden_size
        self.latent_norm, self.token_norm, self.mlp_norm = (nn.LayerNorm(size) for _ in range(3))
        self.attention = nn.MultiheadAttention(size, config.perceiver_num_attention_heads, batch_first=True)
        self.fc1 = nn.Linear(size, 4 * size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.fc2 = nn.Linear(4 * size, size)

    def forward(self, latents: torch.Tensor, tokens: torch.Tensor, ignored: torch.Tensor | None) -> torch.Tensor:
        queries = self.latent_norm(latents)
        keys = torch.cat([self.token_norm(tokens), queries], dim=1)
        latents = latents + self.attention(queries, keys, keys, key_padding_mask=ignored, need_weights=False)[0]
        return latents + self.fc2(self.act(self.fc1(self.mlp_norm(latents))))


class MeritPerceiverProjector(nn.Module):
    """Learned queries that attend to the tokens and to one another (Perceiver Resampler, Alayrac et al., 2022)."""

    def __init__(self, config: MeritGenerationConfig):
        super().__init__()
        size = config.ecg_config.hidden_size
        self.latents = nn.Parameter(torch.zeros(config.num_ecg_tokens, size))
        self.layers = nn.ModuleList(MeritPerceiverLayer(config) for _ in range(config.perceiver_num_layers))
        self.norm = nn.LayerNorm(size)
        self.fc = nn.Linear(size, config.text_config.hidden_size)

    def forward(self, tokens: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        latents, ignored = self.latents.expand(len(tokens), -1, -1), None
        if token_mask is not None:
            # The queries are keys, too: even an ECG without a valid patch leaves something to attend to.
            ignored = nn.functional.pad(~token_mask, (0, latents.shape[1]), value=False)
        for layer in self.layers:
            latents = layer(latents, tokens, ignored)
        return self.fc(self.norm(latents))


PROJECTORS = {"mlp": MeritMlpProjector, "perceiver": MeritPerceiverProjector}


class MeritForConditionalGeneration(MeritPreTrainedModel, GenerationMixin):
    """ECG encoder, projector and causal language model: text from ECGs and text.

    Every ECG takes `config.num_ecg_tokens` placeholders `config.ecg_token_id` in its prompt ([`MeritProcessor`] writes
    them). The language model keeps its own head, loss and cache; LoRA goes through `add_adapter`. Generated text is
    not for clinical use.

    Example:

    >>> import torch
    >>> from modeling_merit import MeritForConditionalGeneration, MeritGenerationConfig
    >>> encoder = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    >>> language_model = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    >>> config = MeritGenerationConfig(ecg_config=encoder, text_config=language_model, ecg_token_id=50)
    >>> model = MeritForConditionalGeneration(config).eval()
    >>> prompt = torch.tensor([[*[50] * config.num_ecg_tokens, 7, 8]])
    >>> text = model.generate(prompt, input_values=torch.randn(1, 12, 1000), max_new_tokens=4, min_new_tokens=4)
    >>> text.shape[1] - prompt.shape[1]
    4
    """

    config: MeritGenerationConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: MeritGenerationConfig):
        super().__init__(config)
        self.ecg_model = MeritEcgModel._from_config(config.ecg_config)
        self.projector = PROJECTORS[config.projector_type](config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.generation_config.suppress_tokens = [config.ecg_token_id]  # an ECG is an input, never written
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, MeritMlpProjector):
            init.normal_(module.absent, std=self.config.initializer_range)
        elif isinstance(module, MeritPerceiverProjector):
            init.normal_(module.latents, std=self.config.initializer_range)

    @classmethod
    def from_ecg_text_pretrained(
        cls, ecg_model: str | MeritEcgModel, language_model: str | PreTrainedModel, **config_kwargs
    ) -> "MeritForConditionalGeneration":
        """Return the model of a trained ECG encoder and a trained causal language model; only the projector is new.

        Args:
            ecg_model (`str` or [`MeritEcgModel`]): The ECG encoder, or a folder or Hub id of any MERIT checkpoint.
            language_model (`str` or `PreTrainedModel`): Any model of `AutoModelForCausalLM`, or a folder or Hub id.
            config_kwargs: Further fields of [`MeritGenerationConfig`], such as `ecg_token_id`.
        """
        ecg_model = MeritEcgModel.from_pretrained(ecg_model) if isinstance(ecg_model, str) else ecg_model
        if isinstance(language_model, str):
            language_model = AutoModelForCausalLM.from_pretrained(language_model)
        config = MeritGenerationConfig(
            ecg_config=ecg_model.config.to_dict(), text_config=language_model.config.to_dict(), **config_kwargs
        )
        with torch.device("meta"):  # no second copy of a large language model
            model = cls(config)
        model.ecg_model, model.language_model = ecg_model, language_model
        model.projector = PROJECTORS[config.projector_type](config).apply(model._init_weights)
        model.projector.to(device=language_model.device, dtype=language_model.dtype)
        model.generation_config.update(**language_model.generation_config.to_diff_dict())
        model.generation_config.suppress_tokens = [config.ecg_token_id]
        return model.eval()

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value):
        self.language_model.set_output_embeddings(value)

    def get_ecg_features(
        self,
        input_values: torch.Tensor | None = None,
        ecg_mask: torch.Tensor | None = None,
        ecg_hidden_states: torch.Tensor | None = None,
        ecg_token_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return vectors (ecgs, num_ecg_tokens, width of the LM) of ECGs, or of the output of `ecg_model` for them."""
        if ecg_hidden_states is None:
            encoded = self.ecg_model(input_values, ecg_mask)
            ecg_hidden_states, ecg_token_mask = encoded.last_hidden_state, encoded.token_mask
        dtype = next(self.projector.parameters()).dtype
        return self.projector(ecg_hidden_states.to(dtype), ecg_token_mask)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        ecg_mask: torch.BoolTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        ecg_hidden_states: torch.FloatTensor | None = None,
        ecg_token_mask: torch.BoolTensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): Prompts with placeholders for ECGs.
            input_values, ecg_mask (*optional*):
                The ECGs of all prompts in order, as [`MeritEcgModel`] takes them; None for text alone.
            attention_mask, position_ids, inputs_embeds: As the language model takes them.
            ecg_hidden_states (`torch.FloatTensor` of shape `(ecgs, tokens, hidden_size)`, *optional*):
                `last_hidden_state` of `ecg_model`, instead of `input_values`, where a frozen encoder ran before.
            ecg_token_mask (`torch.BoolTensor` of shape `(ecgs, tokens)`, *optional*): `token_mask` of `ecg_model`.
            kwargs: `labels`, `past_key_values` and all else goes to the language model.

        Raises:
            ValueError: If the placeholders in a prompt are not `num_ecg_tokens` for each ECG.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Expected either `input_ids` or `inputs_embeds`, got both or neither.")
        if inputs_embeds is None:
            is_ecg = input_ids == self.config.ecg_token_id
            # The placeholder may lie outside the vocabulary of the language model, so it never reaches its embedding.
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(is_ecg, 0))
            past = kwargs.get("past_key_values")
            if input_values is not None or ecg_hidden_states is not None:
                features = self.get_ecg_features(input_values, ecg_mask, ecg_hidden_states, ecg_token_mask)
                self._check_placeholders(is_ecg, len(features))
                inputs_embeds = inputs_embeds.masked_scatter(is_ecg[..., None], features.to(inputs_embeds))
            elif past is None or past.get_seq_length() == 0:
                self._check_placeholders(is_ecg, 0)
        if position_ids is not None:
            kwargs["position_ids"] = position_ids
        return self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    def _check_placeholders(self, is_ecg: torch.Tensor, ecgs: int) -> None:
        counts, size = is_ecg.sum(dim=1).tolist(), self.config.num_ecg_tokens
        if sum(counts) != ecgs * size or any(count % size for count in counts):
            raise ValueError(
                f"Expected {size} placeholders (token {self.config.ecg_token_id}) in the prompts for each of {ecgs} "
                f"ECGs, got {counts} in the prompts. Let `MeritProcessor` of this checkpoint write them, and pass the "
                "ECGs with the prompts."
            )

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        # A copy of a prompt needs all its ECGs in a row; the method of the library would repeat each ECG by itself.
        ecgs = {}
        if expand_size > 1 and input_ids is not None and model_kwargs.get("input_values") is not None:
            counts = (input_ids == self.config.ecg_token_id).sum(dim=1) // self.config.num_ecg_tokens
            groups = torch.arange(int(counts.sum()), device=input_ids.device).split(counts.tolist())
            order = torch.cat([group.repeat(expand_size) for group in groups])
            names = [name for name in ("input_values", "ecg_mask") if model_kwargs.get(name) is not None]
            ecgs = {name: model_kwargs.pop(name)[order] for name in names}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | ecgs

    def _prepare_generated_length(self, generation_config, **kwargs):
        generation_config = super()._prepare_generated_length(generation_config, **kwargs)
        prompt, limit = kwargs["input_ids_length"], self.config.max_generated_tokens
        positions = getattr(self.config.text_config, "max_position_embeddings", None) or generation_config.max_length
        if generation_config.max_length - prompt > limit or generation_config.max_length > positions:
            raise ValueError(
                f"Expected at most {limit} new tokens (`config.max_generated_tokens`) and {positions} in all, got a "
                f"prompt of {prompt} tokens and {generation_config.max_length - prompt} new ones. Lower "
                "`max_new_tokens`, or shorten the prompt."
            )
        return generation_config


__all__ = ["MeritForConditionalGeneration"]
