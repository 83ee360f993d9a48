"""MERIT before a language model: encoded ECGs replace the placeholders `<|ecg|>` in the prompts of any causal LM.

The language model is given the vectors of the positions in time, not the contrastive embedding, so that it can also
use what reports seldom name. Not a medical device: generated text is research output, not for clinical use.
"""

import os
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

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
        tokens = tokens.to(self.absent.dtype)
        if token_mask is None:
            token_mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        counts = token_mask.sum(dim=1)[:, None, None].float()
        ends = token_mask.cumsum(dim=1)[:, None, :].float()  # a recorded position covers (end - 1, end)
        borders = torch.arange(self.spans + 1, device=tokens.device)[None, :, None] * counts / self.spans
        overlap = torch.minimum(ends, borders[:, 1:]) - torch.maximum(ends - 1, borders[:, :-1])
        weights = overlap.clamp(min=0) * token_mask[:, None, :] * self.spans / counts.clamp(min=1)
        pooled = torch.where(counts > 0, weights.to(tokens.dtype) @ tokens, self.absent)
        return self.fc2(self.act(self.fc1(pooled)))


class MeritPerceiverAttention(nn.Module):
    """Multi-head attention; of linear layers, so that what quantises those, or gives them adapters, finds all."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(size, size) for _ in range(4))

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return (batch, queries, size).

        Args:
            queries (`torch.Tensor` of shape `(batch, queries, size)`), keys (`torch.Tensor` of `(batch, keys, size)`).
            mask (`torch.BoolTensor` of shape `(batch, keys)`, *optional*): False at keys to ignore.
        """
        projected = (self.q_proj(queries), self.k_proj(keys), self.v_proj(keys))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected)
        mask = None if mask is None else mask[:, None, None]
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.o_proj(attended.transpose(1, 2).flatten(-2))


class MeritPerceiverLayer(nn.Module):
    def __init__(self, config: MeritGenerationConfig):
        super().__init__()
        size = config.ecg_config.hidden_size
        self.latent_norm, self.token_norm, self.mlp_norm = (nn.LayerNorm(size) for _ in range(3))
        self.attention = MeritPerceiverAttention(size, config.perceiver_num_attention_heads)
        self.fc1 = nn.Linear(size, 4 * size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.fc2 = nn.Linear(4 * size, size)

    def forward(self, latents: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        queries = self.latent_norm(latents)
        keys = torch.cat([self.token_norm(tokens), queries], dim=1)
        latents = latents + self.attention(queries, keys, mask)
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
        tokens = tokens.to(self.latents.dtype)
        latents, mask = self.latents.expand(tokens.shape[0], -1, -1), None
        if token_mask is not None:
            # The queries are keys, too: even an ECG without a valid patch leaves something to attend to.
            mask = nn.functional.pad(token_mask, (0, latents.shape[1]), value=True)
        for layer in self.layers:
            latents = layer(latents, tokens, mask)
        return self.fc(self.norm(latents))


# What belongs to the ECGs of all prompts, in order, rather than to the prompts.
ECG_INPUTS = ("input_values", "ecg_mask", "ecg_hidden_states", "ecg_token_mask")

PROJECTORS = {"mlp": MeritMlpProjector, "perceiver": MeritPerceiverProjector}


def _is_empty(cache: Cache | None) -> bool:
    return cache is None or bool(cache.get_seq_length() == 0)


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
        cls,
        ecg_model: str | os.PathLike | MeritEcgModel,
        language_model: str | os.PathLike | PreTrainedModel,
        **config_kwargs,
    ) -> "MeritForConditionalGeneration":
        """Return the model of a trained ECG encoder and a trained causal language model; only the projector is new.

        All of it gets the dtype and device of the language model.

        Args:
            ecg_model (`str`, path or [`MeritEcgModel`]):
                The ECG encoder, or a folder or Hub id of any MERIT checkpoint.
            language_model (`str`, path or `PreTrainedModel`):
                Any model of `AutoModelForCausalLM`, or a folder or Hub id.
            config_kwargs: Further fields of [`MeritGenerationConfig`], such as `ecg_token_id`.
        """
        if isinstance(ecg_model, (str, os.PathLike)):
            ecg_model = MeritEcgModel.from_pretrained(ecg_model)
        if isinstance(language_model, (str, os.PathLike)):
            language_model = AutoModelForCausalLM.from_pretrained(language_model)
        config = MeritGenerationConfig(
            ecg_config=ecg_model.config.to_dict(), text_config=language_model.config.to_dict(), **config_kwargs
        )
        with torch.device("meta"):  # no second copy of a large language model
            model = cls(config)
        model.ecg_model, model.language_model = ecg_model, language_model
        config.ecg_config = ecg_model.config  # one object, set once for both
        config.text_config = language_model.config
        model.projector = PROJECTORS[config.projector_type](config).apply(model._init_weights)
        for part in (model.ecg_model, model.projector):
            part.to(device=language_model.device, dtype=language_model.dtype)
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
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the output of `ecg_model` for ECGs, or what is given of it; its `pooler_output` are the vectors
        (ecgs, num_ecg_tokens, width of the LM) that stand for them in a prompt.

        What else a processor returns, such as `input_ids`, may be among `kwargs` and is not used.
        """
        if ecg_hidden_states is None:
            encoded = self.ecg_model(input_values, ecg_mask)
            ecg_hidden_states, ecg_token_mask = encoded.last_hidden_state, encoded.token_mask
        projected = self.projector(ecg_hidden_states, ecg_token_mask)
        return BaseModelOutputWithPooling(last_hidden_state=ecg_hidden_states, pooler_output=projected)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        ecg_mask: torch.BoolTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        ecg_hidden_states: torch.FloatTensor | None = None,
        ecg_token_mask: torch.BoolTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): Prompts with placeholders for ECGs.
            input_values, ecg_mask (*optional*):
                The ECGs of all prompts in order, as [`MeritEcgModel`] takes them; None for text alone.
            attention_mask, position_ids, past_key_values: As the language model takes them.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, width of the LM)`, *optional*):
                Instead of `input_ids`. Beside ECGs, placeholders are where it equals the embedding of `ecg_token_id`;
                if that lies outside the vocabulary, pass `input_ids`, too, to say where they are.
            ecg_hidden_states (`torch.FloatTensor` of shape `(ecgs, tokens, hidden_size)`, *optional*):
                `last_hidden_state` of `ecg_model`, instead of `input_values`, where a frozen encoder ran before.
            ecg_token_mask (`torch.BoolTensor` of shape `(ecgs, tokens)`, *optional*): `token_mask` of `ecg_model`.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Tokens to predict, -100 where none; the language model shifts them.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Compute the logits of the last ones alone, 0 for all.
            kwargs: All else goes to the language model.

        Raises:
            ValueError: If the placeholders in a prompt are not `num_ecg_tokens` for each ECG, or their places unknown.
        """
        has_ecgs = input_values is not None or ecg_hidden_states is not None
        if (input_ids is None) == (inputs_embeds is None) and not (has_ecgs and input_ids is not None):
            raise ValueError("Expected either `input_ids` or `inputs_embeds`, got both or neither.")
        is_ecg = self._is_placeholder(input_ids, inputs_embeds) if has_ecgs or input_ids is not None else None
        if inputs_embeds is None:
            # The placeholder may lie outside the vocabulary of the language model, so it never reaches its embedding.
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(is_ecg, 0))
        if has_ecgs:
            features = self.get_ecg_features(input_values, ecg_mask, ecg_hidden_states, ecg_token_mask).pooler_output
            self._check_placeholders(is_ecg, features.shape[0])
            inputs_embeds = inputs_embeds.masked_scatter(is_ecg[..., None], features.to(inputs_embeds))
        elif is_ecg is not None and _is_empty(past_key_values):
            self._check_placeholders(is_ecg, 0)
        options = {"position_ids": position_ids, "past_key_values": past_key_values, "labels": labels}
        kwargs |= {name: value for name, value in options.items() if value is not None}
        if isinstance(logits_to_keep, torch.Tensor) or logits_to_keep:
            kwargs["logits_to_keep"] = logits_to_keep
        return self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    def _is_placeholder(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """Return (batch, length), True where the vector of an ECG belongs."""
        if input_ids is not None:
            return input_ids == self.config.ecg_token_id
        embedding = self.get_input_embeddings()
        if self.config.ecg_token_id >= embedding.num_embeddings:
            raise ValueError(
                f"Expected `input_ids` beside `inputs_embeds` and ECGs: the placeholder {self.config.ecg_token_id} "
                f"has no embedding among the {embedding.num_embeddings} of the language model by which to find it."
            )
        placeholder = embedding(torch.tensor(self.config.ecg_token_id, device=inputs_embeds.device))
        return (inputs_embeds == placeholder.to(inputs_embeds)).all(dim=-1)

    def _check_placeholders(self, is_ecg: torch.Tensor, ecgs: int) -> None:
        if torch.compiler.is_compiling():  # a graph cannot depend on the tokens
            return
        counts, size = is_ecg.sum(dim=1).tolist(), self.config.num_ecg_tokens
        if sum(counts) != ecgs * size or any(count % size for count in counts):
            raise ValueError(
                f"Expected {size} placeholders (token {self.config.ecg_token_id}) in the prompts for each of {ecgs} "
                f"ECGs, got {counts} in the prompts. Let `MeritProcessor` of this checkpoint write them, and pass the "
                "ECGs with the prompts."
            )

    def _supports_logits_to_keep(self) -> bool:
        return self.language_model._supports_logits_to_keep()

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        past_key_values=None,
        attention_mask=None,
        inputs_embeds=None,
        is_first_iteration=False,
        **kwargs,
    ):
        ecgs = {name: kwargs.pop(name) for name in ECG_INPUTS if kwargs.get(name) is not None}
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        # An assistant model is never told that it is its first iteration.
        is_first_iteration = is_first_iteration or not kwargs.get("use_cache", True) or _is_empty(past_key_values)
        if not ecgs or not is_first_iteration:
            return inputs  # the vectors of the ECGs are in the cache
        embeds = inputs.get("inputs_embeds")
        if embeds is not None and input_ids.shape[1] == inputs_embeds.shape[1]:
            inputs["input_ids"] = input_ids[:, -embeds.shape[1] :]
        if embeds is not None and inputs["input_ids"] is None:
            whole, read = self._is_placeholder(None, inputs_embeds), self._is_placeholder(None, embeds)
        else:
            whole, read = self._is_placeholder(input_ids, None), self._is_placeholder(inputs["input_ids"], None)
        # A cache that is continued holds the first ECGs of each conversation: encode those alone that follow.
        totals, counts = (part.sum(dim=1) // self.config.num_ecg_tokens for part in (whole, read))
        if counts.sum() < totals.sum() == len(next(iter(ecgs.values()))):
            groups = torch.arange(int(totals.sum()), device=totals.device).split(totals.tolist())
            order = torch.cat([group[len(group) - count :] for group, count in zip(groups, counts.tolist())])
            ecgs = {name: values[order] for name, values in ecgs.items()} if len(order) else {}
        return inputs | ecgs

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        # A copy of a prompt needs all its ECGs in a row; the method of the library would repeat each ECG by itself.
        ecgs = {name: model_kwargs.pop(name) for name in ECG_INPUTS if model_kwargs.get(name) is not None}
        if expand_size > 1 and ecgs:
            embeds = model_kwargs.get("inputs_embeds")
            in_ids = embeds is None or input_ids.shape[1] == embeds.shape[1]
            is_ecg = self._is_placeholder(input_ids, None) if in_ids else self._is_placeholder(None, embeds)
            counts = is_ecg.sum(dim=1) // self.config.num_ecg_tokens
            groups = torch.arange(int(counts.sum()), device=counts.device).split(counts.tolist())
            order = torch.cat([group.repeat(expand_size) for group in groups])
            ecgs = {name: values[order] for name, values in ecgs.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | ecgs

    def _get_candidate_generator(self, *args, assistant_model=None, model_kwargs=None, **kwargs):
        has_ecgs = any(model_kwargs.get(name) is not None for name in ECG_INPUTS)
        fields = ("ecg_token_id", "num_ecg_tokens")
        if assistant_model is not None and has_ecgs:
            own, other = ([getattr(model.config, name, None) for name in fields] for model in (self, assistant_model))
            if own != other:
                raise ValueError(
                    f"Expected an `assistant_model` that reads ECGs, with {' and '.join(fields)} {own}, got a "
                    f"{type(assistant_model).__name__} with {other}."
                )
        return super()._get_candidate_generator(
            *args, assistant_model=assistant_model, model_kwargs=model_kwargs, **kwargs
        )

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
