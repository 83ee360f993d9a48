"""ECG files, records, features and text inputs for MERIT. Imported as `modeling_merit.processing`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .readers import EcgFormatError, EcgRecord, read_ecg

if TYPE_CHECKING:
    from .feature_extraction_merit import MeritFeatureExtractor
    from .measurements import measure
    from .processing_merit import MeritProcessor

__all__ = ["EcgFormatError", "EcgRecord", "MeritFeatureExtractor", "MeritProcessor", "measure", "read_ecg"]


def __getattr__(name: str) -> Any:
    """Import what needs transformers, or signal processing, when its name is used (PEP 562)."""
    modules = {
        "MeritFeatureExtractor": "feature_extraction_merit",
        "MeritProcessor": "processing_merit",
        "measure": "measurements",
    }
    if name in modules:
        return getattr(import_module(f".{modules[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
