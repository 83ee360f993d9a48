"""Feature extractor of MERIT: ECGs of any rate, unit and lead order become the tensors of the model.

Leads are matched by name, voltages are millivolts, and a mask says of every sample whether it was really recorded.
This file travels to the Hub beside the weights, so it imports only siblings.
"""

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import PaddingStrategy

from .conditioning import remove_drift
from .leads import STANDARD_LEADS, canonical_leads, derive_limb_leads
from .resampling import WINDOW, resample, resample_invalid
from .signal_quality import (
    check_sampling_rate,
    fill_missing,
    known_leads,
    no_value,
    signal_quality,
    unpadded,
    warn_amplitude,
)
from .units import MILLIVOLTS_PER_UNIT, millivolts_per

NORMALIZATIONS = ("none", "lead_zscore", "record_zscore")
NAN_POLICIES = ("raise", "interpolate", "mask")
EXTRA_LEADS = ("raise", "drop")
MIN_SCALE_MV = 1e-3  # deviations below the resolution of a recorder (1 µV) are not blown up by normalisation

_canonical = lru_cache(maxsize=256)(canonical_leads)


class _Layout(NamedTuple):
    """What ECGs must share to be processed as one array."""

    leads: tuple[str, ...]
    sampling_rate: float
    millivolts: float
    samples: int


class MeritFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Turns 12-lead ECGs, or any subset of their leads, into `input_values` and `ecg_mask`.

    Args:
        feature_size (`int`, *optional*, defaults to 12):
            Number of rows of the result; the length of `leads`.
        sampling_rate (`int`, *optional*, defaults to 100):
            Rate of the result in Hz. Other rates are resampled by polyphase filtering.
        leads (`list[str]`, *optional*):
            Lead of each row of the result. Defaults to the twelve standard leads, I to V6.
        high_pass (`float`, *optional*, defaults to 0.5):
            Electrode offset and drift below this frequency in Hz are taken off every lead (see `remove_drift`); `None`
            leaves them in.
        normalization (`str`, *optional*, defaults to `"none"`):
            `"none"` (millivolts), `"lead_zscore"` (each lead to mean 0, deviation 1; hides the absolute voltage that
            hypertrophy and low voltage are read from) or `"record_zscore"` (one mean and deviation per record).
        nan_policy (`str`, *optional*, defaults to `"raise"`):
            What to do with NaN samples: `"raise"` an error, `"interpolate"` them linearly within their lead, or
            `"mask"` them. A lead without any valid sample is masked under both.
        derive_leads (`bool`, *optional*, defaults to `True`):
            Whether absent III, aVR, aVL and aVF are computed from I and II (Einthoven, Goldberger).
        extra_leads (`str`, *optional*, defaults to `"raise"`):
            What to do with leads that have no row in the result, such as Frank X: `"raise"` an error, or `"drop"` them
            with a warning.
        truncation (`bool`, *optional*, defaults to `False`):
            Whether ECGs longer than `max_seconds` are cut to their first `max_seconds` instead of refused.
        min_seconds (`float`, *optional*, defaults to 2.5):
            Shortest ECG that is accepted.
        max_seconds (`float`, *optional*, defaults to 30.0):
            Longest ECG that is accepted.
        patch_length (`int`, *optional*, defaults to 32):
            Batches are padded to a multiple of this number of samples, the patch of the model.
        padding_value (`float`, *optional*, defaults to 0.0):
            Value of every sample that `ecg_mask` marks as not recorded.
        resample_window (`list`, *optional*, defaults to `["kaiser", 5.0]`):
            Window of the anti-aliasing filter, as `scipy.signal.resample_poly` takes it.

    Example:

    >>> import numpy as np
    >>> feature_extractor = MeritFeatureExtractor()
    >>> ecg = 500 * np.sin(2 * np.pi * 5 * np.arange(5000) / 500)[None].repeat(2, axis=0)
    >>> inputs = feature_extractor(ecg, sampling_rate=500, leads=["II", "I"], units="uV", return_tensors="np")
    >>> inputs["input_values"].shape, inputs["ecg_mask"].any(-1).sum().item()  # I, II, and four that follow from them
    ((1, 12, 1024), 6)
    """

    model_input_names = ["input_values", "ecg_mask"]
    refuse_flat = False
    """Whether an ECG without any signal is refused. Where scores are shown it is; a field it is not."""

    def __init__(
        self,
        feature_size: int = 12,
        sampling_rate: int = 100,
        leads: Sequence[str] | None = None,
        high_pass: float | None = 0.5,
        normalization: str = "none",
        nan_policy: str = "raise",
        derive_leads: bool = True,
        extra_leads: str = "raise",
        truncation: bool = False,
        min_seconds: float = 2.5,
        max_seconds: float = 30.0,
        patch_length: int = 32,
        padding_value: float = 0.0,
        resample_window: Sequence[Any] = WINDOW,
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.leads = list(canonical_leads(STANDARD_LEADS if leads is None else leads))
        self.high_pass = high_pass
        self.normalization = _one_of("normalization", normalization, NORMALIZATIONS)
        self.nan_policy = _one_of("nan_policy", nan_policy, NAN_POLICIES)
        self.derive_leads = derive_leads
        self.extra_leads = _one_of("extra_leads", extra_leads, EXTRA_LEADS)
        self.truncation = truncation
        self.min_seconds = min_seconds
        self.max_seconds = max_seconds
        self.patch_length = patch_length
        self.resample_window = list(resample_window)
        if feature_size != len(self.leads):
            raise ValueError(
                f"Expected `feature_size` to be the number of `leads`, {len(self.leads)}, got {feature_size}. "
                f"Pass feature_size={len(self.leads)}."
            )
        if not 0 < min_seconds <= max_seconds:
            raise ValueError(f"Expected 0 < min_seconds <= max_seconds, got {min_seconds} and {max_seconds}.")
        if sampling_rate <= 0 or patch_length < 1:
            raise ValueError(
                f"Expected a positive `sampling_rate` and `patch_length`, got {sampling_rate} and {patch_length}."
            )
        if high_pass is not None and not 0 < high_pass < sampling_rate / 2:
            raise ValueError(
                f"Expected `high_pass` above 0 and below half the sampling rate, or None, got {high_pass}."
            )

    def __call__(
        self,
        ecg: Any,
        sampling_rate: float | None = None,
        leads: Sequence[str] | None = None,
        units: str | None = None,
        nan_policy: str | None = None,
        truncation: bool | None = None,
        return_quality: bool = False,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Prepare one or several ECGs for the model.

        Args:
            ecg (`EcgRecord`, `np.ndarray`, `torch.Tensor`, or a list of these):
                A record, an array of shape `(leads, samples)` or `(ecgs, leads, samples)`, or a list whose members may
                differ in length (records also in leads and rate). A record is anything with `signal` in mV,
                `sampling_rate` and `leads`.
            sampling_rate (`float`): Rate of bare arrays in Hz, not necessarily an integer.
            leads (sequence of `str`): Names of the rows of bare arrays, in any order and case.
            units (`str`): Unit of bare arrays: `"mV"`, `"uV"`, `"nV"` or `"V"`.
            nan_policy (`str`, *optional*): Overrides the field of that name.
            truncation (`bool`, *optional*): Overrides the field of that name.
            return_quality (`bool`, *optional*, defaults to `False`): Whether to add `quality`.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`] with
            - **input_values** -- float32 of shape `(ecgs, len(self.leads), samples)`.
            - **ecg_mask** -- bool of the same shape: `True` where a recorded sample stands, `False` for absent leads,
              padding and masked NaN. A derived lead counts as recorded where both I and II are.
            - **quality** -- list of one `dict` per ECG: `sampling_rate` (Hz, as recorded), `duration_s` (kept),
              `peak_to_peak_mv` (largest of all leads), `nan_fraction`, `flat_leads`, `clipped_leads`, `derived_leads`,
              `absent_leads`, `einthoven_residual_mv` (largest |I + III - II|; `None` unless all three were recorded)
              and `limb_lead_reversal` (suspicion of limb-lead reversal; `None` unless I and II were recorded).

        Raises:
            ValueError: If the array is not an ECG of the stated leads, a name or unit is unknown, the length is out of
                range, a sample is infinite, or a sample is NaN under the policy `"raise"`.
        """
        nan_policy = _one_of("nan_policy", self.nan_policy if nan_policy is None else nan_policy, NAN_POLICIES)
        truncation = self.truncation if truncation is None else truncation
        signals: list[np.ndarray] = []
        groups: dict[_Layout, list[int]] = {}
        for index, item in enumerate(_split(ecg)):
            signal, layout = self._describe(item, sampling_rate, leads, units, f"ECG {index}")
            signals.append(signal)
            groups.setdefault(layout, []).append(index)

        extracted = []
        for layout, indices in groups.items():
            batch = np.stack([signals[index] for index in indices])
            extracted.append((indices, *self._extract(batch, layout, indices, nan_policy, truncation, return_quality)))

        longest = max(values.shape[-1] for _, values, _, _ in extracted)
        samples = -(-longest // self.patch_length) * self.patch_length
        input_values = np.full((len(signals), self.feature_size, samples), self.padding_value, dtype=np.float32)
        ecg_mask = np.zeros(input_values.shape, dtype=bool)
        quality: list[dict[str, Any]] = [{}] * len(signals)
        for indices, values, mask, flags in extracted:
            input_values[indices, :, : values.shape[-1]] = values
            ecg_mask[indices, :, : mask.shape[-1]] = mask
            for index, flag in zip(indices, flags):
                quality[index] = flag
        data: dict[str, Any] = {"input_values": input_values, "ecg_mask": ecg_mask}
        if return_quality:
            data["quality"] = quality
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["quality"])

    def pad(
        self,
        processed_features: Any,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Pad ECGs that were prepared one by one to one number of samples.

        Args:
            processed_features ([`BatchFeature`], `dict` of lists, or a list of `dict`):
                `input_values` (leads, samples) of every ECG, and `ecg_mask` of that shape where not all was recorded;
                from a list, the `input_values` (1, leads, samples) of single calls, too. Arrays (samples,) of single
                leads are padded by the method of the library.
            padding, max_length, truncation, pad_to_multiple_of: As in `SequenceFeatureExtractor.pad`, in samples.
            return_attention_mask (`bool`, *optional*): Of single leads alone; `ecg_mask` says it otherwise.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            [`BatchFeature`] with `input_values` and `ecg_mask`, `(ecgs, leads, samples)`, or lists of `(leads,
            samples)` without `return_tensors`, and whatever else the ECGs came with, such as labels.

        Raises:
            ValueError: If the list is empty, or something is to be cut or padded to `max_length`, and that is not
                given.

        Example:

        >>> feature_extractor = MeritFeatureExtractor()
        >>> ecgs = [{"input_values": np.ones((12, 500))}, {"input_values": np.ones((12, 700))}]
        >>> batch = feature_extractor.pad(ecgs, return_tensors="np")
        >>> batch["input_values"].shape, batch["ecg_mask"].sum(axis=(1, 2)).tolist()
        ((2, 12, 700), [6000, 8400])
        """
        if isinstance(processed_features, (list, tuple)):
            if not processed_features:
                raise ValueError("Expected at least one ECG to pad, got none.")
            items, names = processed_features, processed_features[0].keys()
            if any("ecg_mask" in item for item in items):
                items = [{"ecg_mask": np.ones(np.shape(item["input_values"]), bool), **item} for item in items]
                names = items[0].keys()
            processed_features = {name: [item[name] for item in items] for name in names}
            for name in {"input_values", "ecg_mask"} & names:
                processed_features[name] = [part for item in items for part in _single(item[name])]
            if "quality" in names:  # of single calls, lists of one
                processed_features["quality"] = [part for item in items for part in _listed(item["quality"])]
        ecgs = [np.asarray(item) for item in processed_features["input_values"]]
        if not ecgs or ecgs[0].ndim != 2:
            return super().pad(
                processed_features,
                padding,
                max_length,
                truncation,
                pad_to_multiple_of,
                return_attention_mask,
                return_tensors,
            )
        masks = processed_features.get("ecg_mask")
        masks = [np.ones(ecg.shape, bool) for ecg in ecgs] if masks is None else [np.asarray(mask) for mask in masks]
        strategy = self._get_padding_strategies(padding=padding, max_length=max_length)
        multiple = pad_to_multiple_of or 1
        if truncation and max_length is None:
            raise ValueError("Expected `max_length` with truncation=True, got None.")
        limit = -(-max_length // multiple) * multiple if truncation else max(ecg.shape[1] for ecg in ecgs)
        ecgs, masks = ([part[:, :limit] for part in parts] for parts in (ecgs, masks))
        samples = 0
        if strategy != PaddingStrategy.DO_NOT_PAD:
            longest = max(ecg.shape[1] for ecg in ecgs)
            samples = -(-(max_length if strategy == PaddingStrategy.MAX_LENGTH else longest) // multiple) * multiple
        widths = [((0, 0), (0, max(samples - ecg.shape[1], 0))) for ecg in ecgs]
        values = [
            np.pad(ecg.astype(np.float32), width, constant_values=self.padding_value)
            for ecg, width in zip(ecgs, widths)
        ]
        padded = {
            "input_values": values,
            "ecg_mask": [np.pad(mask.astype(bool), width) for mask, width in zip(masks, widths)],
        }
        data = dict(processed_features) | padded
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["quality"])

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As the method of the library, without the name of a processor, which saves its feature extractor itself."""
        getattr(self, "auto_map", {}).pop("AutoProcessor", None)
        return super().save_pretrained(*args, **kwargs)

    def condition(self, signal: np.ndarray) -> np.ndarray:
        """
        Take offset and drift off, as the field `high_pass` says.

        Args:
            signal (`np.ndarray` of shape `(..., samples)`): Millivolts at `self.sampling_rate`, finite, and as long as
                the record is: what is cut from it is cut afterwards.

        Returns:
            `np.ndarray`: float32 of the same shape.
        """
        return signal if self.high_pass is None else remove_drift(signal, self.sampling_rate, self.high_pass)

    def prepare(self, signal: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """
        Condition and normalise ECGs at `self.sampling_rate`: what `__call__` does with them.

        Args:
            signal (`np.ndarray` of shape `(..., leads, samples)`): Millivolts, finite, with the rows of `self.leads`.
            mask (`np.ndarray` of the same shape, *optional*): `True` where a sample was recorded; gaps are bridged.

        Example:

        >>> ecg = np.random.default_rng(0).normal(size=(12, 1000)).astype(np.float32)
        >>> feature_extractor = MeritFeatureExtractor()
        >>> inputs = feature_extractor(ecg, 100, feature_extractor.leads, "mV", return_tensors="np")
        >>> bool(np.allclose(inputs["input_values"][0, :, :1000], feature_extractor.prepare(ecg), atol=1e-5))
        True
        """
        return self.normalize(self.condition(signal), mask)

    def normalize(self, signal: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """
        Apply the field `normalization` to any number of ECGs at once.

        Args:
            signal (`np.ndarray` of shape `(..., leads, samples)`): Millivolts.
            mask (`np.ndarray` of the same shape, *optional*): `True` where a sample counts. The others take no part
                in the statistics and become `padding_value`.

        Returns:
            `np.ndarray`: float32 of the same shape. A lead (or record) that varies by less than 1 µV is only centred.

        Example:

        >>> feature_extractor = MeritFeatureExtractor(normalization="lead_zscore")
        >>> feature_extractor.normalize(np.array([[1.0, 3.0, 99.0]]), np.array([[True, True, False]])).tolist()
        [[-1.0, 1.0, 0.0]]
        """
        signal = np.asarray(signal, dtype=np.float32)
        if mask is not None:
            mask = np.asarray(mask, dtype=bool)
            signal = np.where(mask, signal, np.float32(0.0))
        if self.normalization != "none":
            axes = (-1,) if self.normalization == "lead_zscore" else (-2, -1)
            counts = math.prod(signal.shape[axis] for axis in axes) if mask is None else mask.sum(axes, keepdims=True)
            counts = np.maximum(counts, 1).astype(np.float32)
            signal = signal - signal.sum(axes, keepdims=True) / counts
            if mask is not None:
                signal *= mask
            scale = np.sqrt(np.square(signal).sum(axes, keepdims=True) / counts)
            signal /= np.where(scale > MIN_SCALE_MV, scale, np.float32(1.0))
        return signal if mask is None else np.where(mask, signal, np.float32(self.padding_value))

    def _describe(
        self, item: Any, sampling_rate: float | None, leads: Sequence[str] | None, units: str | None, name: str
    ) -> tuple[np.ndarray, _Layout]:
        """Check one ECG and what is said of it; return its array `(leads, samples)` and layout."""
        stated: dict[str, Any] = {"sampling_rate": sampling_rate, "leads": leads, "units": units}
        if hasattr(item, "signal"):
            carried = {"sampling_rate": item.sampling_rate, "leads": tuple(item.leads), "units": "mV"}
            for key, value in stated.items():
                if value is not None and _comparable(key, value) != _comparable(key, carried[key]):
                    raise ValueError(
                        f"{name} is a record with {key}={carried[key]!r}, but {key}={value!r} was passed. "
                        f"A record carries its own; leave `{key}` out."
                    )
            item, stated = _as_array(item.signal, name), carried
        missing = [f"`{key}`" for key, value in stated.items() if value is None]
        if missing:
            raise ValueError(
                f"An array does not say its {', '.join(missing)}. Pass them, for example sampling_rate=500, "
                'leads=["I", "II", "V1"], units="mV"; or pass an `EcgRecord` of `read_ecg`, which carries them.'
            )
        lead_names = _comparable("leads", stated["leads"])
        rate, millivolts = _comparable("sampling_rate", stated["sampling_rate"]), _comparable("units", stated["units"])
        _check_shape(item, lead_names, name)
        item = _without_padding(item, rate, name)
        return item, _Layout(lead_names, rate, millivolts, item.shape[1])

    def _extract(
        self, batch: np.ndarray, layout: _Layout, indices: list[int], nan_policy: str, truncation: bool, quality: bool
    ) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Turn ECGs of one layout, `(ecgs, leads, samples)`, into values and mask in the rows of the model."""
        rate, names = layout.sampling_rate, ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")
        batch = batch[..., : self._keep_samples(layout, names, truncation)]
        known = known_leads(layout.leads, self.leads, self.extra_leads, stacklevel=4)
        leads = tuple(layout.leads[row] for row in known)
        batch = batch if len(known) == len(layout.leads) else batch[:, known]
        with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is reported as such
            signal = batch.astype(np.float32) * np.float32(layout.millivolts)
        missing = np.isnan(signal) if quality else None
        signal, invalid = fill_missing(signal, leads, indices, nan_policy)
        peak_to_peak = np.ptp(signal, axis=-1)
        if self.refuse_flat and not (moving := peak_to_peak.any(axis=-1)).all():
            index = indices[int(moving.argmin())]
            raise ValueError(
                f"ECG {index} holds no signal: expected leads that move, got one value throughout each that was "
                "recorded. What a model says of it means nothing. Check the file, or leave it out."
            )
        warn_amplitude(peak_to_peak.max(axis=-1), indices, stacklevel=4)

        resampled = self.condition(resample(signal, rate, self.sampling_rate, self.resample_window))
        unknown = None if invalid is None else resample_invalid(invalid, rate, self.sampling_rate)

        rows = {lead: resampled[:, i] for i, lead in enumerate(leads)}
        valid = {lead: True if unknown is None else ~unknown[:, i] for i, lead in enumerate(leads)}
        derived = derive_limb_leads(rows, self.leads) if self.derive_leads else {}
        valid |= dict.fromkeys(derived, valid["I"] & valid["II"]) if derived else {}
        rows |= derived
        values = np.zeros((len(batch), self.feature_size, resampled.shape[-1]), dtype=np.float32)
        mask = np.zeros(values.shape, dtype=bool)
        for row, lead in enumerate(self.leads):
            if lead in rows:
                values[:, row], mask[:, row] = rows[lead], valid[lead]
        values = self.normalize(values, None if mask.all() else mask)
        if missing is None:
            return values, mask, []
        flags = signal_quality(signal, missing, leads, rate, peak_to_peak)
        for flag, present in zip(flags, np.any(mask, axis=-1).tolist()):
            flag["derived_leads"] = list(derived)
            flag["absent_leads"] = [lead for lead, is_present in zip(self.leads, present) if not is_present]
        return values, mask, flags

    def _keep_samples(self, layout: _Layout, names: str, truncation: bool) -> int:
        """Check the duration and return how many samples of the recording to keep."""
        limits = [seconds * layout.sampling_rate for seconds in (self.min_seconds, self.max_seconds)]
        if limits[0] - 0.5 <= layout.samples <= limits[1] + 0.5:  # half a sample: rates need not divide the duration
            return layout.samples
        if layout.samples > limits[1] and truncation:
            return round(limits[1])
        seconds = layout.samples / layout.sampling_rate
        advice = "Check `sampling_rate`, or record longer."
        if layout.samples > limits[1]:
            advice = "Check `sampling_rate`, cut it (`record.crop(0, 10)`), or pass truncation=True to crop it."
        raise ValueError(
            f"Expected {self.min_seconds:g} to {self.max_seconds:g} s, got {seconds:g} s "
            f"({layout.samples} samples at {layout.sampling_rate:g} Hz) in ECG {names}. {advice}"
        )


def _single(values: Any) -> list[Any]:
    """Return the ECGs (leads, samples) that `values` holds, one or a batch of them."""
    return list(values) if np.ndim(values) == 3 else [values]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


def _comparable(key: str, value: Any) -> Any:
    """Check a sampling rate, unit or lead list and return it as Hz, millivolts per unit or canonical names."""
    if key == "leads":
        try:
            return _canonical((value,) if isinstance(value, str) else tuple(value))
        except TypeError:
            raise ValueError(f"Expected `leads` to be a list of lead names, got {value!r}.") from None
    if key == "units":
        if str(value).strip().lower() not in MILLIVOLTS_PER_UNIT:
            raise ValueError(
                f"Expected `units` to be mV, uV, nV or V, got {value!r}. Divide ADC counts by the gain first."
            )
        return millivolts_per(value)
    return check_sampling_rate(value)


def _as_array(value: Any, name: str) -> np.ndarray:
    """Return a numeric array; a tensor may be on any device and of any float type."""
    if isinstance(value, (str, bytes)) or hasattr(value, "__fspath__"):
        raise ValueError(
            f"{name} is the path {str(value)!r}. Read it with `read_ecg`, or pass it to `MeritProcessor`."
        )
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    if isinstance(value, np.ma.MaskedArray):
        value = np.ma.filled(value.astype(np.float64), np.nan)
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} is ragged: expected (leads, samples) with equally many samples in each lead."
        ) from None
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} has dtype {array.dtype}; expected real numbers: convert it to float32 or an integer type. Pass "
            "paths or records as a list, `list(ecgs)`."
        )
    return array


def _split(ecg: Any) -> list[Any]:
    """Return the single ECGs (records or arrays) of any accepted input."""
    if hasattr(ecg, "signal"):
        return [ecg]
    if isinstance(ecg, (list, tuple)):
        items = [item if hasattr(item, "signal") else _as_array(item, f"ECG {i}") for i, item in enumerate(ecg)]
        if not items:
            raise ValueError("Got an empty list; expected at least one ECG.")
        if all(getattr(item, "ndim", None) == 1 for item in items):  # nested lists, or one array per lead
            return [_as_array(ecg, "The ECG")]
        return items
    array = _as_array(ecg, "The ECG")
    if array.ndim == 3 and not len(array):
        raise ValueError(f"Got an empty batch of shape {array.shape}; expected at least one ECG.")
    return list(array) if array.ndim == 3 else [array]


def _without_padding(signal: np.ndarray, rate: float, name: str) -> np.ndarray:
    """Return a signal without the padding at its ends and with NaN for the markers of no value, with a warning."""
    marked = no_value(signal)
    if marked.any():
        warnings.warn(f"{name}: {marked.sum()} samples hold a marker of no value and count as NaN.", stacklevel=4)
        signal = np.where(marked, np.nan, signal)
    start, stop = unpadded(signal, rate)
    if stop - start < signal.shape[1]:
        warnings.warn(
            f"{name}: {start} samples at its start and {signal.shape[1] - stop} at its end are left out as padding: "
            "every lead stands still there.",
            stacklevel=4,
        )
    return signal[:, start:stop]


def _check_shape(signal: np.ndarray, leads: tuple[str, ...], name: str) -> None:
    """Say what is wrong with the shape of a signal that should be `(leads, samples)`."""
    expected = f"expected (leads, samples) = ({len(leads)}, samples)"
    if signal.ndim == 2 and signal.shape[0] == len(leads) and signal.size:
        return
    if signal.ndim == 1:
        raise ValueError(f"{name} has shape {signal.shape}; {expected}. Pass a single lead as `ecg[None]`.")
    if signal.ndim != 2 or not signal.size:
        raise ValueError(
            f"{name} has shape {signal.shape}; {expected}. Pass a list of ECGs of that shape, none of them empty."
        )
    if signal.shape[1] == len(leads):
        raise ValueError(
            f"{name} has shape {signal.shape}; {expected}. It is (samples, leads): transpose it, `ecg.T`."
        )
    raise ValueError(
        f"{name} has shape {signal.shape}; {expected}. Name as many `leads` as it has rows: {', '.join(leads)}."
    )


__all__ = ["MeritFeatureExtractor"]
