"""Which leads and which tenths of a second drove a score: integrated gradients of a classifier's logit or of the
similarity with a text, drawn behind the traces on ECG paper.

Integrated gradients (Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML 2017) share out the
difference between the score of the ECG and that of flat lines among the samples: the parts add up to it. They say what
the model reacts to, not whether it is right, nor what causes a finding.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .inference import embed_prompts, embed_text
from .plotting import HasSignal, plot_ecg
from .record import DISCLAIMER, printable
from .signal_quality import unpadded

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

RAISES, LOWERS = (0.90, 0.38, 0.0), (0.37, 0.24, 0.60)
"""Orange and violet: told apart with every kind of colour vision, and neither is the red of the paper."""

BAND = 12.0
"""Millimetres that a coloured field reaches above and below the baseline of its lead."""

MAX_STEPS = 512
"""Most points of the integral."""

MEANING = (
    "An attribution is the part that a stretch of a lead has in the difference between the score of this ECG and the "
    "score of flat lines; all of them add up to it. It says what the model reacts to, not whether the model is right."
)
"""Stands wherever attributions are shown."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What drove one score of one ECG.

    Args:
        target (`str`): The label or the text that was scored.
        kind (`str`): `"logit"`, `"cosine_similarity"` or `"relative_similarity"` (less its mean over several texts).
        score (`float`): Of the ECG.
        baseline_score (`float`): Of the same leads and times with a flat line at the median of every lead.
        attributions (`np.ndarray` of shape `(leads, steps)`): Parts of `score - baseline_score`, of the unit of the
            score; 0 where nothing was recorded.
        leads (`tuple[str, ...]`): Names of the rows, those of the model.
        step_s (`float`): Seconds of a column.
        start_s (`float`): Time in the record at which the first column begins; above 0 behind padding that was cut.

    Example:

    >>> explanation = Explanation("AFIB", "logit", 3.0, 1.0, np.array([[0.5, 0.25], [1.5, -0.25]]), ("I", "II"), 0.1)
    >>> explanation.residual, explanation.lead_shares()
    (0.0, {'I': 0.3, 'II': 0.7})
    >>> explanation.strongest(1)
    [{'lead': 'II', 'start_s': 0.0, 'stop_s': 0.1, 'attribution': 1.5}]
    """

    target: str
    kind: str
    score: float
    baseline_score: float
    attributions: np.ndarray
    leads: tuple[str, ...]
    step_s: float
    start_s: float = 0.0

    @property
    def residual(self) -> float:
        """The part of `score - baseline_score` that the attributions leave out: the error of the integral."""
        return float(self.score - self.baseline_score - self.attributions.sum())

    def lead_shares(self) -> dict[str, float]:
        """Return the share of each lead in the sum of the absolute attributions."""
        sums = np.abs(self.attributions).sum(axis=1)
        return {lead: float(part) for lead, part in zip(self.leads, sums / max(sums.sum(), np.finfo(float).tiny))}

    def strongest(self, count: int = 10) -> list[dict[str, Any]]:
        """Return the columns of largest absolute attribution: lead, from when to when (s), attribution."""
        order = np.argsort(-np.abs(self.attributions), axis=None, kind="stable")[:count]
        found = []
        for row, column in zip(*np.unravel_index(order, self.attributions.shape)):
            start, stop = (round(self.start_s + self.step_s * (int(column) + end), 6) for end in (0, 1))
            value = float(self.attributions[row, column])
            found.append({"lead": self.leads[row], "start_s": start, "stop_s": stop, "attribution": value})
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain numbers, texts and lists, with what they mean."""
        names = ("target", "kind", "score", "baseline_score", "residual", "step_s", "start_s")
        return {
            **{name: getattr(self, name) for name in names},
            "leads": list(self.leads),
            "attributions": self.attributions.tolist(),
            "lead_shares": self.lead_shares(),
            "strongest": self.strongest(),
            "meaning": MEANING,
            "disclaimer": DISCLAIMER,
        }


def explain(
    model: Any,
    processor: Any,
    record: HasSignal,
    target: str | int,
    *,
    against: Sequence[str] = (),
    step_s: float = 0.1,
    n_steps: int = 64,
    tolerance: float = 0.02,
) -> Explanation:
    """Return which leads and which tenths of a second drove one score of one ECG.

    Args:
        model (`MeritForEcgClassification` or `MeritModel`): In evaluation mode.
        processor (`MeritProcessor`; for a classifier also `MeritFeatureExtractor`): Of the same checkpoint.
        record (`EcgRecord`): Or anything with `signal` in mV of shape `(leads, samples)`, `sampling_rate` and `leads`.
        target (`str` or `int`): A label of the classifier, or its index; with a `MeritModel`, a text, to which the
            cosine similarity is explained.
        against (sequence of `str`): Texts to compare the text with. What is explained is then the similarity less its
            mean over all texts, as `score_prompts` gives it: what speaks for this text rather than for the others.
        step_s (`float`, defaults to 0.1): Seconds of a column of the result.
        n_steps (`int`, defaults to 64): Points of the integral (Gauss-Legendre), doubled up to 512 while the result
            misses more than `tolerance`.
        tolerance (`float`, defaults to 0.02): Of `abs(residual)`, as a fraction of `abs(score - baseline_score)`.

    Returns:
        [`Explanation`]: Leads that were derived by the processor count as leads of their own.

    Raises:
        ImportError: If captum is not installed.
        ValueError: If there is no such label, the text has no word that the model knows, or the processor refuses
            the record.

    Example:

    >>> from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritForEcgClassification
    >>> from modeling_merit.processing.data.simulation import simulate_ecg
    >>> config = MeritConfig.from_size("tiny").ecg_config
    >>> config.id2label = {0: "SR", 1: "AFIB"}
    >>> model = MeritForEcgClassification(config).eval()
    >>> record = simulate_ecg("sinus_rhythm", seed=0, duration=4)
    >>> explanation = explain(model, MeritFeatureExtractor(), record, "AFIB", n_steps=16, tolerance=0.1)
    >>> explanation.attributions.shape, explanation.kind
    ((12, 40), 'logit')
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ImportError(
            'Explanations need captum, which is not installed. Install it with: pip install "captum>=0.7,<1"'
        ) from error
    import torch

    extractor = getattr(processor, "feature_extractor", processor)
    if not step_s * extractor.sampling_rate >= 1 or not 1 <= n_steps <= MAX_STEPS:
        raise ValueError(
            f"Expected step_s of at least one sample, {1 / extractor.sampling_rate:g} s, and n_steps of 1 to "
            f"{MAX_STEPS}, got {step_s} and {n_steps}."
        )
    score, name, kind = _score(model, processor, target, against)
    inputs = extractor(record, return_tensors="pt").to(model.device)
    values, mask = inputs["input_values"], inputs["ecg_mask"]
    baseline = _flat_lines(values, mask)
    with torch.no_grad():
        ends = score(torch.cat([values, baseline]), mask.repeat(2, 1, 1)).double().tolist()
    while True:
        parts = IntegratedGradients(score).attribute(
            values, baseline, additional_forward_args=(mask,), n_steps=n_steps, internal_batch_size=16
        )
        missed = abs(ends[0] - ends[1] - parts.double().sum().item())
        if missed <= tolerance * abs(ends[0] - ends[1]) or n_steps == MAX_STEPS:
            break
        n_steps = min(2 * n_steps, MAX_STEPS)
    kept = int(mask[0].any(dim=0).nonzero().max()) + 1 if mask.any() else values.shape[2]
    signal = np.asarray(record.signal)
    return Explanation(
        target=name,
        kind=kind,
        score=ends[0],
        baseline_score=ends[1],
        attributions=_sum_steps(parts[0, :, :kept].double().cpu().numpy(), extractor.sampling_rate * step_s),
        leads=tuple(extractor.leads),
        step_s=step_s,
        start_s=unpadded(signal, record.sampling_rate)[0] / record.sampling_rate,
    )


def _score(
    model: Any, processor: Any, target: str | int, against: Sequence[str]
) -> tuple[Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"], str, str]:
    """Return the function from ECGs and masks to one score each, the name of what it scores, and its kind."""
    import torch

    if not hasattr(model, "get_text_features"):
        if against:
            raise ValueError("Expected `against` with texts only: a logit is not compared. Leave it out.")
        labels = model.config.id2label
        index = target if isinstance(target, int) else {label: i for i, label in labels.items()}.get(target)
        if index not in labels:
            known = ", ".join(list(labels.values())[:12]) + (", ..." if len(labels) > 12 else "")
            raise ValueError(f"Expected a label of the model ({known}) or its index, got {target!r}.")
        return lambda values, mask: model(values, mask).logits[:, index], labels[index], "logit"
    if not isinstance(target, str):
        raise ValueError(f"Expected a text to compare the ECG with, got {target!r}: this model has no labels.")
    if against:
        found = embed_prompts(model, processor, [target, *against])
        for note in found.notes:
            warnings.warn(note, stacklevel=3)
        embeddings = found.embeddings
        vector, kind = embeddings[0] - embeddings.mean(axis=0), "relative_similarity"
    else:
        vector, kind = embed_text(model, processor, target), "cosine_similarity"
    direction = torch.as_tensor(vector, dtype=model.dtype, device=model.device)
    return lambda values, mask: model.get_ecg_features(values, mask).pooler_output @ direction, target, kind


def _flat_lines(values: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """Return (1, leads, samples) with the median of the recorded samples of every lead, as an AC-coupled ECG rests."""
    import torch

    medians = torch.where(mask, values, torch.nan).nanmedian(dim=2, keepdim=True).values
    return torch.where(mask, medians.nan_to_num(0.0).expand_as(values), values)


def _sum_steps(parts: np.ndarray, samples_per_step: float) -> np.ndarray:
    """Sum (leads, samples) over steps, which need not be whole numbers of samples."""
    steps = np.floor(np.arange(parts.shape[1]) / samples_per_step + 1e-9).astype(int)
    return np.add.reduceat(parts, np.flatnonzero(np.diff(steps, prepend=-1)), axis=1)


def plot_explanation(
    record: HasSignal,
    explanation: Explanation,
    path: str | PathLike | None = None,
    *,
    title: str | None = None,
    speed: float = 25.0,
    layout: str = "12x1",
) -> "Figure":
    """Draw an ECG as `plot_ecg` does, on fields in orange where it raises the score, in violet where it lowers it.

    The strength of the colour is the attribution relative to the largest one of the ECG. Leads that the processor
    derived have no trace, and are only in the numbers.

    Args:
        record (`EcgRecord`): The ECG that was explained.
        explanation ([`Explanation`]): Of it.
        path (`str` or path, *optional*): Where to save the figure; the suffix says how.
        title (`str`, *optional*): Printed above; by default the target, its score and that of flat lines.
        speed (`float`, defaults to 25.0): Paper speed in mm/s.
        layout (`str`, defaults to `"12x1"`): One of `plotting.LAYOUTS`; this one shows every lead at every time.

    Raises:
        ImportError, ValueError: As `plot_ecg`.

    Example:

    >>> from modeling_merit.processing.data.simulation import simulate_ecg
    >>> record = simulate_ecg("sinus_rhythm", seed=0)
    >>> parts = np.random.default_rng(0).normal(size=(12, 100))
    >>> figure = plot_explanation(record, Explanation("AFIB", "logit", parts.sum(), 0.0, parts, record.leads, 0.1))
    >>> sum((artist.get_gid() or "").startswith("attribution") for artist in figure.axes[0].images)
    12
    """
    if title is None:
        kind = explanation.kind.replace("_", " ")
        title = f"{printable(explanation.target, 60)}: {kind} {explanation.score:.3f}"
        title += f", flat lines {explanation.baseline_score:.3f}; orange raises it, violet lowers it"
    figure = plot_ecg(record, title=title, speed=speed, layout=layout)
    axes = figure.axes[0]
    limits = axes.axis()
    traces = {line: np.asarray(line.get_data(), dtype=float) for line in axes.lines if _lead_of(line)}
    # Where the first column begins: the first sample shown is that of time 0.
    origin = float(min(x[0] for x, _ in traces.values())) + speed * explanation.start_s
    width = speed * explanation.step_s
    largest = np.abs(explanation.attributions).max() or 1.0
    for line, (x, y) in traces.items():
        lead = _lead_of(line)
        if lead not in explanation.leads or not np.isfinite(y).any():
            continue
        parts = explanation.attributions[explanation.leads.index(lead)] / largest
        first, stop = (int(np.clip(round((end - origin) / width), 0, len(parts))) for end in (x[0], x[-1]))
        if first == stop:
            continue
        parts, middle = parts[first:stop, None], float(np.nanmedian(y))
        image = axes.imshow(
            np.concatenate([np.where(parts > 0, RAISES, LOWERS), 0.9 * np.abs(parts)], axis=1)[None],
            extent=(origin + first * width, origin + stop * width, middle - BAND, middle + BAND),
            aspect="auto",
            interpolation="nearest",
            zorder=0.7,  # over the paper, under the traces
        )
        image.set_gid(f"attribution {lead}")
    axes.axis(limits)
    if path is not None:
        figure.savefig(path, dpi=figure.dpi)
    return figure


def _lead_of(line: Any) -> str:
    """Return the lead whose trace a line of `plot_ecg` is; an empty text if it is none."""
    mark, _, lead = (line.get_gid() or "").partition(" ")
    return lead if mark == "lead" else ""


__all__ = ["MEANING", "Explanation", "explain", "plot_explanation"]
