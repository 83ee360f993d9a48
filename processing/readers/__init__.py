"""Readers of ECG files: `read_ecg` for a whole file, `windows` for a long one; one module per format."""

from ..record import EcgFormatError, EcgRecord
from .read import FORMATS, detect_format, open_source, read_ecg, windows
from .source import Source

__all__ = ["FORMATS", "EcgFormatError", "EcgRecord", "Source", "detect_format", "open_source", "read_ecg", "windows"]
