"""Evaluation that can be trusted: label sets by name, metrics, intervals, protocols, probes, baselines and shifts.

Results serve research. Not a medical device.
"""

from .bootstrap import Comparison, Interval, bootstrap_interval, paired_bootstrap, paired_permutation, patient_weights
from .features import FEATURE_NAMES, classical_features, impute
from .label_sets import SPLITS, TASKS, class_names, fold_split, label_matrix, load_statements
from .metrics import align_predictions, classification_report, metric_value
from .probe import ProbeResult, logistic_probe
from .prompts import average_prompts, flatten_prompts, load_prompts, read_prompt_file
from .protocols import PROTOCOLS, Protocol, apply_thresholds, score_epochs, tune_thresholds
from .shift import SEVERITIES, class_map, corrupt, to_concepts
from .subsets import literature_subset, patient_subset, read_shared_split

__all__ = [
    "FEATURE_NAMES",
    "PROTOCOLS",
    "SEVERITIES",
    "SPLITS",
    "TASKS",
    "Comparison",
    "Interval",
    "ProbeResult",
    "Protocol",
    "align_predictions",
    "apply_thresholds",
    "average_prompts",
    "bootstrap_interval",
    "class_map",
    "class_names",
    "classical_features",
    "classification_report",
    "corrupt",
    "flatten_prompts",
    "fold_split",
    "impute",
    "label_matrix",
    "literature_subset",
    "load_prompts",
    "load_statements",
    "logistic_probe",
    "metric_value",
    "paired_bootstrap",
    "paired_permutation",
    "patient_subset",
    "patient_weights",
    "read_prompt_file",
    "read_shared_split",
    "score_epochs",
    "to_concepts",
    "tune_thresholds",
]
