"""What a notebook shows of an `EcgRecord`: its plot, and facts and measurements as a table."""

import base64
import html
import io
from typing import Any

from .measurements import MAX_SECONDS, measure
from .plotting import DPI, plot_ecg

LABELS = {"heart_rate": "heart rate", "pr": "PR", "qrs": "QRS", "qt": "QT"}
LABELS |= {"qtc_bazett": "QTc (Bazett)", "qtc_fridericia": "QTc (Fridericia)"}
LABELS |= {"p_axis": "P axis", "qrs_axis": "QRS axis", "t_axis": "T axis"}
"""Names of the measurements as they are shown."""


def plot_png(record: Any, dpi: float = DPI / 2) -> bytes | None:
    """Return the plot of a record as a PNG; `None` without matplotlib, or if the record is too long for one image."""
    image = io.BytesIO()
    try:
        plot_ecg(record, image, dpi=dpi)
    except (ImportError, ValueError):
        return None
    return image.getvalue()


def record_html(record: Any, disclaimer: str) -> str:
    """Return plot, facts and measurements of a record as HTML, with every text of the file escaped.

    Example:

    >>> import numpy as np
    >>> from modeling_merit.processing.record import DISCLAIMER, EcgRecord
    >>> text = record_html(EcgRecord(np.zeros((1, 1000)), 500, ("II",), device="<b>cart</b>"), DISCLAIMER)
    >>> "&lt;b&gt;cart" in text, "<b>cart" in text
    (True, False)
    """
    facts = {
        "leads": ", ".join(record.leads),
        "signal": f"{record.duration_s:g} s at {record.sampling_rate:g} Hz",
        "device": record.device,
        "filters": record.filters,
    }
    if record.duration_s <= MAX_SECONDS:
        for name, found in measure(record):
            facts[LABELS[name]] = f"{found.value:.0f} {found.unit}" if found.valid else f"not given: {found.reason}"
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value
    )
    png = plot_png(record)
    image = ""
    if png is not None:
        data = base64.b64encode(png).decode("ascii")
        image = f"<img alt='ECG' style='max-width:100%' src='data:image/png;base64,{data}'>"
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in record.notes)
    return f"<div>{image}<table>{cells}</table><ul>{notes}</ul><small>{html.escape(disclaimer)}</small></div>"


__all__ = ["LABELS", "plot_png", "record_html"]
