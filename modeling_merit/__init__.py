"""MERIT for the Hugging Face Hub. Importing this package registers the MERIT classes with the `Auto*` classes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import register_when_transformers_is_imported

if TYPE_CHECKING:
    from .configuration_merit import MeritConfig, MeritEcgConfig, MeritGenerationConfig
    from .modeling_merit import MeritEcgModel, MeritForEcgClassification, MeritForPreTraining, MeritModel
    from .modeling_merit_generation import MeritForConditionalGeneration
    from .processing import MeritFeatureExtractor, MeritProcessor

__version__ = "0.1.0"

__all__ = [
    "MeritConfig",
    "MeritEcgConfig",
    "MeritEcgModel",
    "MeritFeatureExtractor",
    "MeritForConditionalGeneration",
    "MeritForEcgClassification",
    "MeritForPreTraining",
    "MeritGenerationConfig",
    "MeritModel",
    "MeritProcessor",
]

_MODULES = ("configuration_merit", "modeling_merit", "modeling_merit_generation", "processing")


def __getattr__(name: str) -> Any:
    """Import a public class or a module when its name is used (PEP 562): torch and transformers take seconds."""
    if name in (*_MODULES, "objective_merit"):
        return import_module(f".{name}", __name__)
    if name in __all__:
        return next(found for module in _MODULES if (found := getattr(__getattr__(module), name, None)))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


register_when_transformers_is_imported()
