"""ECG files, records, features and text inputs for MERIT. Imported as `modeling_merit.processing`."""

from .feature_extraction_merit import MeritFeatureExtractor
from .processing_merit import MeritProcessor
from .readers import EcgFormatError, EcgRecord, read_ecg

__all__ = ["EcgFormatError", "EcgRecord", "MeritFeatureExtractor", "MeritProcessor", "read_ecg"]
