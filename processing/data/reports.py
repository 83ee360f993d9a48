"""Normalisation of report texts: the reports of pre-training and the prompts of zero-shot classification alike."""

from modeling_merit.inference_merit import normalize_report

__all__ = ["normalize_report"]
