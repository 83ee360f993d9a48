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
    "tiny": {"ecg_config": (128, 4, 4), "decoder": (128, 2, 4), "text_config": (128, 3, 4)},
    "small": {"ecg_config": (384, 8, 6), "decoder": (192, 4, 4), "text_config": (256, 4, 4)},
    "base": {"ecg_config": (768, 12, 12), "decoder": (256, 4, 4), "text_config": (768, 12, 12)},
}
"""Width, layers and attention heads of the parts of [`MeritConfig`] by the name of a size."""

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


def check_heads(config: PreTrainedConfig, prefix: str = "") -> None:
    """Raise a ValueError unless the width is even, for sin-cos positions, and a multiple of the attention heads."""
    width, heads = getattr(config, f"{prefix}hidden_size"), getattr(config, f"{prefix}num_attention_heads")
    if width % heads or width % 2:
        raise ValueError(
            f"Expected an even `{prefix}hidden_size` that `{prefix}num_attention_heads` divides, got {width} and "
            f"{heads}."
        )


@strict
class MeritEcgConfig(MeritTasks, PreTrainedConfig):
    r"""Configuration of [`MeritEcgModel`], a pre-LayerNorm vision transformer over patches of single leads.

    Args:
        leads (`list[str]`, defaults to the 12 standard leads):
            Names of the rows of `input_values`, in order. The lead embedding of a row belongs to its name.
        sampling_rate (`float`, defaults to 100):
            Rate of `input_values` in Hz. It turns patch indices into seconds for the position embedding.
        patch_length (`int`, defaults to 50):
            Samples per patch; one token is one patch of one lead.
        hidden_size (`int`, defaults to 768):
            Width of the tokens.
        num_hidden_layers (`int`, defaults to 12):
            Number of transformer blocks.
        num_attention_heads (`int`, defaults to 12):
            Attention heads per block.
        intermediate_size (`int`, defaults to 3072):
            Width of the feed-forward layers.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        hidden_dropout (`float`, defaults to 0.0):
            Dropout after the attention and the feed-forward layers.
        attention_dropout (`float`, defaults to 0.0):
            Dropout of the attention weights.
        layer_norm_eps (`float`, defaults to 1e-6):
            Epsilon of the LayerNorms.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial lead embeddings; linear layers start Xavier-uniform.
        min_wavelength (`float`, defaults to 1.0):
            Shortest wavelength of the sin-cos time position, in seconds; twice the patch duration resolves patches.
        max_wavelength (`float`, defaults to 30.0):
            Longest wavelength of the sin-cos time position, in seconds: the longest record.
        amplitude_embedding (`bool`, defaults to `True`):
            Whether mean and log standard deviation of each patch (in the unit of `input_values`) are embedded and
            added to its token. The patch embedding starts with a LayerNorm, which removes the voltage that LVH and
            low voltage are diagnosed from.
        window_seconds (`float`, *optional*):
            Longer records are encoded in windows of this length, each by itself; the pooled feature is the mean over
            all. Pre-training sets it to the length of its crops, because the encoder has not learned the
            positions beyond them. `None` encodes records whole, and masked modelling always does.
        min_patch_coverage (`float`, defaults to 0.5):
            Fraction of recorded samples from which a patch counts; patches below it are masked out of attention.

    Example:

    >>> from modeling_merit import MeritEcgConfig, MeritEcgModel
    >>> config = MeritEcgConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    >>> MeritEcgModel(config).num_parameters()
    10852
    """

    model_type = "merit_ecg_encoder"
    base_config_key = "ecg_config"

    leads: list[str] = field(default_factory=lambda: list(STANDARD_LEADS))
    sampling_rate: float | int = 100
    patch_length: int = 50
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    min_wavelength: float | int = 1.0
    max_wavelength: float | int = 30.0
    amplitude_embedding: bool = True
    window_seconds: float | int | None = None
    min_patch_coverage: float | int = 0.5
    auto_map: dict = field(default_factory=lambda: dict(ECG_AUTO_MAP))

    def validate_shapes(self):
        positive = ("sampling_rate", "patch_length", "hidden_size", "num_attention_heads", "intermediate_size")
        for name in (*positive, "min_wavelength"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Expected `{name}` above 0, got {getattr(self, name)}.")
        if self.max_wavelength < self.min_wavelength:
            raise ValueError(
                f"Expected `max_wavelength` of at least `min_wavelength`, got {self.max_wavelength} and "
                f"{self.min_wavelength}."
            )
        if self.window_seconds is not None:
            patches = self.window_seconds * self.sampling_rate / self.patch_length
            if patches < 1 or patches != int(patches):
                raise ValueError(
                    f"Expected `window_seconds` to hold a whole number of patches of {self.patch_length} samples at "
                    f"{self.sampling_rate} Hz, got {self.window_seconds} s, which is {patches:g}."
                )
        if not 0 < self.min_patch_coverage <= 1:
            raise ValueError(f"Expected `min_patch_coverage` above 0 and at most 1, got {self.min_patch_coverage}.")
        check_heads(self)
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
        mask_ratio (`float`, defaults to 0.75):
            Fraction of the patches of every lead that is masked in masked ECG modelling.
        decoder_hidden_size (`int`, defaults to 256):
            Width of the decoder.
        decoder_num_hidden_layers (`int`, defaults to 4):
            Blocks of the decoder.
        decoder_num_attention_heads (`int`, defaults to 4):
            Attention heads of the decoder.
        decoder_intermediate_size (`int`, defaults to 1024):
            Width of the feed-forward layers of the decoder.
        alignment_view (`str`, defaults to `"full"`):
            What is aligned with the report: `"full"`, the whole ECG, or `"masked"`, the patches that masked modelling
            encodes (one encoder pass instead of two).
        reconstruction_weight (`float`, defaults to 1.0):
            Weight of the masked modelling loss; 0 switches the branch off.
        contrastive_weight (`float`, defaults to 1.0):
            Weight λ of the contrastive alignment loss; 0 switches the branch off.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the initial mask token.

    Example:

    >>> from modeling_merit import MeritConfig
    >>> config = MeritConfig(ecg_config={"hidden_size": 384, "num_attention_heads": 6}, mask_ratio=0.5)
    >>> config.ecg_config.hidden_size, config.text_config.model_type
    (384, 'bert')
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
    mask_ratio: float | int = 0.75
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 4
    decoder_intermediate_size: int = 1024
    alignment_view: str = "full"
    reconstruction_weight: float | int = 1.0
    contrastive_weight: float | int = 1.0
    initializer_range: float = 0.02
    auto_map: dict = field(default_factory=lambda: dict(AUTO_MAP))

    @classmethod
    def from_size(cls, size: str, **fields: Any) -> "MeritConfig":
        """Return the configuration of a named size.

        | size | ECG encoder: width, layers, heads | decoder | text encoder | parameters: ECG, decoder, text, in all |
        |---|---|---|---|---|
        | `"tiny"` | 128, 4, 4 | 128, 2, 4 | 128, 3, 4 | 0.80, 0.42, 4.57, 5.99 million |
        | `"small"` | 384, 8, 6 | 192, 4, 4 | 256, 4, 4 | 14.2, 1.87, 11.1, 27.5 million |
        | `"base"` | 768, 12, 12 | 256, 4, 4 | 768, 12, 12 | 85.1, 3.37, 109, 198 million |

        Feed-forward layers are four times as wide. All sizes read 12 leads at 100 Hz in patches of 50 samples. The
        text encoder is a BERT, counted with its vocabulary of 30,522 tokens; pass `vocab_size` of your tokenizer.

        Args:
            size (`str`): `"tiny"` (for a CPU, and the shipped weights), `"small"` or `"base"`.
            fields: Other fields of [`MeritConfig`], which replace those of the size. A `dict` for
                `ecg_config` or `text_config` changes single fields; one that holds `model_type` is taken as a whole.

        Raises:
            ValueError: If there is no such size.

        Example:

        >>> from modeling_merit import MeritConfig
        >>> config = MeritConfig.from_size("small", ecg_config={"patch_length": 25}, text_config={"vocab_size": 4000})
        >>> config.ecg_config.hidden_size, config.ecg_config.patch_length, config.text_config.vocab_size
        (384, 25, 4000)
        """
        if size not in SIZES:
            raise ValueError(f"Expected a size of {', '.join(SIZES)}, got {size!r}.")
        parts = {
            part: {
                "hidden_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "intermediate_size": 4 * width,
            }
            for part, (width, layers, heads) in SIZES[size].items()
        }
        decoder = {f"decoder_{name}": value for name, value in parts.pop("decoder").items()}
        for part, sized in parts.items():
            given = fields.get(part, {})
            if isinstance(given, dict) and "model_type" not in given:
                fields[part] = sized | given
        return cls(**decoder | fields)

    def validate_choices(self):
        check_choice(self, "alignment_view", ("full", "masked"))
        check_choice(self, "text_pooling", ("mean", "cls"))
        check_heads(self, "decoder_")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"Expected `mask_ratio` between 0 and 1, got {self.mask_ratio}.")
        if min(self.reconstruction_weight, self.contrastive_weight) < 0 or not (
            self.reconstruction_weight or self.contrastive_weight
        ):
            raise ValueError(
                "Expected `reconstruction_weight` and `contrastive_weight` of at least 0, not both 0, got "
                f"{self.reconstruction_weight} and {self.contrastive_weight}."
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
            Vectors per ECG; a multiple of the number of leads for the `"mlp"` projector.
        projector_type (`str`, defaults to `"mlp"`):
            `"mlp"`, two layers on the means over equal spans of time of every lead, or `"perceiver"`, learned queries.
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
        leads = len(self.ecg_config.leads)
        check_choice(self, "projector_type", ("mlp", "perceiver"))
        if self.num_ecg_tokens < 1 or (self.projector_type == "mlp" and self.num_ecg_tokens % leads):
            raise ValueError(
                f"Expected `num_ecg_tokens` to be a positive multiple of the {leads} leads for the 'mlp' projector, "
                f"got {self.num_ecg_tokens}."
            )
        if self.projector_type == "perceiver" and self.ecg_config.hidden_size % self.perceiver_num_attention_heads:
            raise ValueError(
                f"Expected `perceiver_num_attention_heads` to divide the width {self.ecg_config.hidden_size} of the "
                f"ECG encoder, got {self.perceiver_num_attention_heads}."
            )


__all__ = ["SIZES", "MeritConfig", "MeritEcgConfig", "MeritGenerationConfig"]
