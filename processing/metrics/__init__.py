"""Metrics of classification and of reports, with intervals."""
