"""Data sets of ECGs with reports, as `datasets` builders, and a fast view of their signals."""

from .ptb_xl import PtbXl, PtbXlError, ecg_features, present_ecg_ids
from .reports import normalize_report
from .signal_view import SignalView
from .synthetic import SyntheticEcg

__all__ = ["PtbXl", "PtbXlError", "SignalView", "SyntheticEcg", "ecg_features", "normalize_report", "present_ecg_ids"]
