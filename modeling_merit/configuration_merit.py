"""Configurations of the MERIT models. Every number of the models is a field here.

The method is an independent implementation of the idea of "Information-theoretic Multimodal Representation Learning
for Electrocardiogram Signals" (arXiv:2605.27583).
"""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .tasks_merit import MeritTasks

STANDARD_LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]

SIZES = {
    "tiny": {"ecg_config": (16, [16, 24, 32, 48], [1, 1, 1, 1]), "decoder": (64, 1), "text_config": (64, 2, 2)},
    "small": {"ecg_config": (32, [64, 128, 192, 256], [2, 2, 2, 2]), "decoder": (256, 2), "text_config": (128, 3, 4)},
    "base": {
        "ecg_config": (64, [128, 256, 512, 768], [3, 4, 6, 3]),
        "decoder": (512, 4),
        "text_config": (768, 12, 12),
    },
}
"""By the name of a size: embedding size, hidden sizes and depths of the ECG encoder; width and layers of the decoder;
width, layers and attention heads of the text encoder of [`MeritConfig`]."""

# Every class that reads such a checkpoint: the file that `save_pretrained` copies beside the weights names only the
# class it was called on, so that a checkpoint of `MeritForPreTraining` would not load through `AutoModel` and remote
# code.
AUTO_MAP = {
    "AutoConfig": "configuration_merit.MeritConfig",
    "AutoModel": "modeling_merit.MeritModel",
    "AutoModelForPreTraining": "modeling_merit.MeritForPreTraining",
}
ECG_AUTO_MAP = {
    "AutoConfig": "configuration_merit.MeritEcgConfig",
    "AutoModel": "modeling_merit.MeritEcgModel",
    "AutoModelForAudioClassification": "modeling_merit.MeritForEcgClassification",
    "AutoModelForSequenceClassification": "modeling_merit.MeritForEcgClassification",
}
GENERATION_AUTO_MAP = {
    "AutoConfig": "configuration_merit.MeritGenerationConfig",
    "AutoModel": "modeling_merit_generation.MeritForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_merit_generation.MeritForConditionalGeneration",
}

PROMPTS = {
    "report": "{ecg} Report in {language}:",
    "statements": "{ecg} Statements:",
    "question": "{ecg} Question: {question} Answer:",
}
"""Prompts of the tasks of `examples/train_report_generation.py`."""


def check_choice(config: PreTrainedConfig, name: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless the field holds one of the choices."""
    if getattr(config, name) not in choices:
        expected = " or ".join(map(repr, choices))
        raise ValueError(f"Expected `{name}` {expected}, got {getattr(config, name)!r}.")


@strict
class MeritEcgConfig(MeritTasks, PreTrainedConfig):
    r"""Configuration of [`MeritEcgModel`], a residual convolutional network over all leads (He et al., 2016).

    Args:
        leads (`list[str]`, defaults to the 12 standard leads):
            Names of the rows of `input_values`, in order.
        sampling_rate (`float`, defaults to 100):
            Rate of `input_values` in Hz.
        embedding_size (`int`, defaults to 32):
            Channels of the stem, three convolutions and a maximum over pairs of positions, which leaves a quarter of
            the positions.
        hidden_sizes (`list[int]`, defaults to `[64, 128, 192, 256]`):
            Channels of every stage. Every stage after the first halves the number of positions.
        depths (`list[int]`, defaults to `[2, 2, 2, 2]`):
            Residual blocks of every stage.
        kernel_size (`int`, defaults to 5):
            Samples, or positions, that a convolution sees; odd.
        hidden_act (`str`, defaults to `"relu"`):
            Activation.
        hidden_dropout (`float`, defaults to 0.0):
            Dropout of the pooled feature before a head.
        drop_path_rate (`float`, defaults to 0.0):
            Probability that a record leaves out the last residual block in training; it grows linearly up to there
            (stochastic depth, Huang et al., 2016).
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights of what is neither a convolution nor a linear layer.
        window_seconds (`float`, *optional*):
            Longer records are encoded in windows of this length, each by itself, and the pooled feature is the mean
            over them. Pre-training sets it to the length of its crops. `None` encodes records whole.
        pooler_stages (`int`, defaults to 1):
            How many stages, from the last back, give their mean and maximum to the pooled feature: earlier ones keep
            what the last one has given up for the sake of its task.
        pooler_largest (`bool`, defaults to `False`):
            Whether the largest values of these stages over all windows, in which a rhythm shows, belong to it, too.

    Attributes:
        patch_length (`int`): Samples of one position of the output, `4 · 2 ** (stages - 1)`; a patch is masked as a
            whole in masked ECG modelling.
        hidden_size (`int`): Width of `last_hidden_state`, the last of `hidden_sizes`.
        aligned_size (`int`): Width of the mean and maximum of the last stage, with which `pooler_output` begins and
            which the heads of a dual encoder read.
        pooler_size (`int`): Width of `pooler_output`.

    Example:

    >>> from modeling_merit import MeritEcgConfig, MeritEcgModel
    >>> config = MeritEcgConfig(embedding_size=4, hidden_sizes=[8, 16], depths=[1, 1])
    >>> config.patch_length, config.pooler_size, MeritEcgModel(config).num_parameters()
    (8, 32, 3568)
    """

    model_type = "merit_ecg_encoder"
    base_config_key = "ecg_config"

    leads: list[str] = field(default_factory=lambda: list(STANDARD_LEADS))
    sampling_rate: float | int = 100
    embedding_size: int = 32
    hidden_sizes: list[int] = field(default_factory=lambda: [64, 128, 192, 256])
    depths: list[int] = field(default_factory=lambda: [2, 2, 2, 2])
    kernel_size: int = 5
    hidden_act: str = "relu"
    hidden_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    window_seconds: float | int | None = None
    pooler_stages: int = 1
    pooler_largest: bool = False
    auto_map: dict = field(default_factory=lambda: dict(ECG_AUTO_MAP))

    @property
    def patch_length(self) -> int:
        return 4 * 2 ** (len(self.hidden_sizes) - 1)

    @property
    def hidden_size(self) -> int:
        return self.hidden_sizes[-1]

    @property
    def aligned_size(self) -> int:
        return 2 * self.hidden_size

    @property
    def pooler_size(self) -> int:
        return (3 if self.pooler_largest else 2) * sum(self.hidden_sizes[-self.pooler_stages :])

    @property
    def window_length(self) -> int | None:
        """Samples of a window."""
        return None if self.window_seconds is None else round(self.window_seconds * self.sampling_rate)

    def validate_shapes(self):
        if len(self.depths) != len(self.hidden_sizes) or not self.hidden_sizes:
            raise ValueError(
                f"Expected one of `depths` for each of `hidden_sizes`, got {self.depths} and {self.hidden_sizes}."
            )
        positive = {"sampling_rate": self.sampling_rate, "embedding_size": self.embedding_size}
        positive |= {"hidden_sizes": min(self.hidden_sizes), "depths": min(self.depths)}
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"Expected `{name}` above 0, got {getattr(self, name)}.")
        if not 1 <= self.pooler_stages <= len(self.hidden_sizes):
            raise ValueError(
                f"Expected `pooler_stages` of 1 to {len(self.hidden_sizes)}, the stages that there are, got "
                f"{self.pooler_stages}."
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"Expected an odd `kernel_size`, got {self.kernel_size}.")
        if not (0 <= self.drop_path_rate < 1 and 0 <= self.hidden_dropout < 1):
            raise ValueError(
                "Expected `drop_path_rate` and `hidden_dropout` of at least 0 and below 1, got "
                f"{self.drop_path_rate} and {self.hidden_dropout}."
            )
        if self.window_length is not None and (self.window_length < 1 or self.window_length % self.patch_length):
            raise ValueError(
                f"Expected `window_seconds` to hold a whole number of patches of {self.patch_length} samples at "
                f"{self.sampling_rate:g} Hz, got {self.window_seconds} s, which is {self.window_length} samples."
            )
        if len(set(self.leads)) != len(self.leads) or not self.leads:
            raise ValueError(f"Expected `leads` to name every row once, got {self.leads}.")


@strict
class MeritConfig(MeritTasks, PreTrainedConfig):
    r"""Configuration of [`MeritModel`] and [`MeritForPreTraining`].

    Args:
        ecg_config (`dict` or [`MeritEcgConfig`], *optional*):
            The ECG encoder.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            The text encoder: the configuration of any encoder of `AutoModel`, BERT when not given.
        projection_dim (`int`, defaults to 256):
            Dimension of the embeddings of ECGs and texts.
        projection_hidden_size (`int`, defaults to 256):
            Width of the hidden layer of the two projection heads.
        text_pooling (`str`, defaults to `"mean"`):
            `"mean"` over the tokens of the text, or `"cls"` for its first token.
        logit_scale_init_value (`float`, defaults to 2.6593):
            Initial `logit_scale`, the logarithm of the inverse temperature; the default is log(1 / 0.07).
        logit_scale_max (`float`, defaults to 100.0):
            Upper limit of `exp(logit_scale)`.
        mask_ratio (`float`, defaults to 0.5):
            Fraction of the valid patches of every lead that is masked in masked ECG modelling.
        decoder_hidden_size (`int`, defaults to 256):
            Width of the decoder.
        decoder_num_hidden_layers (`int`, defaults to 2):
            Residual convolutions of the decoder.
        num_words (`int`, defaults to 0):
            Words and phrases of the reports that are predicted from the ECG; 0 for none. [`set_words`] says which.
        max_ngram (`int`, defaults to 3):
            Tokens of the longest of these phrases.
        word_vocab_size (`int`, *optional*):
            Tokens of the vocabulary that these phrases are numbered by; that of `text_config` when not given.
            `resize_token_embeddings` sets it to the one before.
        reconstruction_weight (`float`, defaults to 1.0):
            Weight of the masked modelling loss; 0 switches the branch off.
        contrastive_weight (`float`, defaults to 1.0):
            Weight λ of the contrastive alignment loss; 0 switches it off.
        word_weight (`float`, defaults to 0.1):
            Weight of the word prediction loss, which needs `num_words`; 0 switches it off.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights of what is neither a convolution nor a linear layer.

    Example:

    >>> from modeling_merit import MeritConfig
    >>> config = MeritConfig(ecg_config={"hidden_sizes": [32, 64], "depths": [1, 1]}, mask_ratio=0.3)
    >>> config.ecg_config.hidden_size, config.text_config.model_type
    (64, 'bert')
    """

    model_type = "merit"
    sub_configs_defaults = {
        "ecg_config": SubConfigSpec(config_class=MeritEcgConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    ecg_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 256
    projection_hidden_size: int = 256
    text_pooling: str = "mean"
    logit_scale_init_value: float | int = 2.6593
    logit_scale_max: float | int = 100.0
    mask_ratio: float | int = 0.5
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 2
    num_words: int = 0
    max_ngram: int = 3
    word_vocab_size: int | None = None
    reconstruction_weight: float | int = 1.0
    contrastive_weight: float | int = 1.0
    word_weight: float | int = 0.1
    initializer_range: float = 0.02
    auto_map: dict = field(default_factory=lambda: dict(AUTO_MAP))

    @classmethod
    def from_size(cls, size: str, **fields: Any) -> "MeritConfig":
        """Return the configuration of a named size.

        | size | ECG encoder: hidden sizes, depths | decoder | text encoder | parameters: ECG, decoder, text, in all |
        |---|---|---|---|---|
        | `"tiny"` | 16-24-32-48, 1-1-1-1 | 64, 1 | 64, 2, 2 | 0.04, 0.05, 2.09, 2.36 million |
        | `"small"` | 64-128-192-256, 2-2-2-2 | 256, 2 | 128, 3, 4 | 2.38, 0.95, 4.57, 8.20 million |
        | `"base"` | 128-256-512-768, 3-4-6-3 | 512, 4 | 768, 12, 12 | 35.4, 6.89, 109, 152 million |

        All sizes read 12 leads at 100 Hz in patches of 32 samples. The text encoder is a BERT (width, layers, heads;
        feed-forward layers four times as wide), counted with its vocabulary of 30,522 tokens; pass `vocab_size` of
        your tokenizer.

        Args:
            size (`str`): `"tiny"` (for tests and trials), `"small"` (the shipped weights) or `"base"`.
            fields: Other fields of [`MeritConfig`], which replace those of the size. A `dict` for
                `ecg_config` or `text_config` changes single fields; one that holds `model_type` is taken as a whole.

        Raises:
            ValueError: If there is no such size.

        Example:

        >>> from modeling_merit import MeritConfig
        >>> config = MeritConfig.from_size("small", ecg_config={"kernel_size": 7}, text_config={"vocab_size": 4000})
        >>> config.ecg_config.hidden_size, config.ecg_config.kernel_size, config.text_config.vocab_size
        (256, 7, 4000)
        """
        if size not in SIZES:
            raise ValueError(f"Expected a size of {', '.join(SIZES)}, got {size!r}.")
        (embedding, hidden, depths), (decoder_width, decoder_layers), (width, layers, heads) = SIZES[size].values()
        parts = {
            "ecg_config": {"embedding_size": embedding, "hidden_sizes": list(hidden), "depths": list(depths)},
            "text_config": {
                "hidden_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "intermediate_size": 4 * width,
            },
        }
        for part, sized in parts.items():
            given = fields.get(part, {})
            if isinstance(given, dict) and "model_type" not in given:
                fields[part] = sized | given
        return cls(**{"decoder_hidden_size": decoder_width, "decoder_num_hidden_layers": decoder_layers} | fields)

    def to_dict(self) -> dict[str, Any]:
        """As the method of the library; `word_vocab_size` stands in it once it is set."""
        content = super().to_dict()
        if self.word_vocab_size is None:
            del content["word_vocab_size"]  # the same bytes as before there was such a field: an index compares them
        return content

    def validate_choices(self):
        check_choice(self, "text_pooling", ("mean", "cls"))
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"Expected `mask_ratio` between 0 and 1, got {self.mask_ratio}.")
        weights = [self.reconstruction_weight, self.contrastive_weight, self.word_weight * min(self.num_words, 1)]
        if min(*weights, self.word_weight, self.num_words) < 0 or not any(weights):
            raise ValueError(
                "Expected `reconstruction_weight`, `contrastive_weight` and `word_weight` of at least 0, not all 0 "
                f"(the last counts with `num_words` alone), got {self.reconstruction_weight}, "
                f"{self.contrastive_weight} and {self.word_weight} with {self.num_words} words."
            )
        vocabulary = self.word_vocab_size or self.text_config.vocab_size
        if self.max_ngram < 1 or (vocabulary + 1) ** self.max_ngram >= 2**63:
            raise ValueError(
                f"Expected `max_ngram` of at least 1 whose phrases of {vocabulary} tokens fit "
                f"63 bits, got {self.max_ngram}."
            )


@strict
class MeritGenerationConfig(MeritTasks, PreTrainedConfig):
    r"""Configuration of [`MeritForConditionalGeneration`].

    Args:
        ecg_config (`dict` or [`MeritEcgConfig`], *optional*):
            The ECG encoder.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            The language model: the configuration of any model of `AutoModelForCausalLM`, Llama when not given.
        ecg_token_id (`int`, *optional*):
            Placeholder of one ECG vector in a prompt; by default the first one after the vocabulary of
            the language model. It needs no embedding.
        num_ecg_tokens (`int`, defaults to 24):
            Vectors per ECG.
        projector_type (`str`, defaults to `"mlp"`):
            `"mlp"`, two layers on the means over equal spans of the recorded time, or `"perceiver"`, learned queries.
        projector_hidden_act (`str`, defaults to `"gelu"`):
            Activation of the projector.
        perceiver_num_layers (`int`, defaults to 2):
            Layers of the `"perceiver"` projector.
        perceiver_num_attention_heads (`int`, defaults to 4):
            Attention heads of the `"perceiver"` projector.
        max_generated_tokens (`int`, defaults to 512):
            No call of `generate` may write more.
        prompts (`dict[str, str]`):
            Prompt of every task the model was trained on, with `{ecg}`, `{language}` and `{question}` to fill in.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial weights of the projector.

    Example:

    >>> from modeling_merit import MeritGenerationConfig
    >>> config = MeritGenerationConfig(text_config={"model_type": "gpt2"}, num_ecg_tokens=12)
    >>> config.text_config.model_type, config.ecg_token_id
    ('gpt2', 50257)
    """

    model_type = "merit_generation"
    sub_configs_defaults = {
        "ecg_config": SubConfigSpec(config_class=MeritEcgConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    ecg_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    ecg_token_id: int | None = None
    num_ecg_tokens: int = 24
    projector_type: str = "mlp"
    projector_hidden_act: str = "gelu"
    perceiver_num_layers: int = 2
    perceiver_num_attention_heads: int = 4
    max_generated_tokens: int = 512
    prompts: dict = field(default_factory=lambda: dict(PROMPTS))
    initializer_range: float = 0.02
    auto_map: dict = field(default_factory=lambda: dict(GENERATION_AUTO_MAP))

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.ecg_token_id is None:
            self.ecg_token_id = self.text_config.vocab_size

    def validate_projector(self):
        check_choice(self, "projector_type", ("mlp", "perceiver"))
        if self.num_ecg_tokens < 1:
            raise ValueError(f"Expected `num_ecg_tokens` above 0, got {self.num_ecg_tokens}.")
        if self.projector_type == "perceiver" and self.ecg_config.hidden_size % self.perceiver_num_attention_heads:
            raise ValueError(
                f"Expected `perceiver_num_attention_heads` to divide the width {self.ecg_config.hidden_size} of the "
                f"ECG encoder, got {self.perceiver_num_attention_heads}."
            )


__all__ = ["SIZES", "MeritConfig", "MeritEcgConfig", "MeritGenerationConfig"]
