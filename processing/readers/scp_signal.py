"""Signals of SCP-ECG: sections 4, 5 and 6, reference beats and bimodal compression.

Clause numbers are those of EN 1064:2005. No file with subtracted reference beats or bimodal compression is openly
available; those two follow the standard and are tested on files written by the tests.
"""

from dataclasses import dataclass

import numpy as np

from ..record import EcgFormatError
from .scp_huffman import unpack, unpack_rows

_MAX_BEATS = 2000


@dataclass(frozen=True)
class SignalSection:
    """Section 5 or 6: amplitude step in mV, sampling interval in us, order of differences, coded bytes by lead."""

    millivolts: float
    interval: int
    differences: int
    bimodal: bool
    leads: tuple[bytes, ...]


def signal_section(sections: dict[int, bytes], number: int, n_leads: int) -> SignalSection:
    """Section 5 (reference beat, clause 5.8) or 6 (rhythm data, clause 5.9)."""
    if number not in sections:
        raise EcgFormatError(f"Expected section {number}, which the rhythm data need; the file has none.")
    section, what = sections[number], f"section {number}"
    nanovolts, interval, differences, bimodal = unpack("<HHBB", section, 0, what)
    if not nanovolts or not interval or differences > 2 or (number == 6 and bimodal > 1):
        raise EcgFormatError(
            f"Expected a step, an interval and differences of order 0 to 2 in {what}, got {section[:6].hex()}."
        )
    lengths = unpack(f"<{n_leads}H", section, 6, what)
    ends = np.cumsum(lengths) + 6 + 2 * n_leads
    if ends[-1] > len(section):
        raise EcgFormatError(f"Expected {ends[-1]} bytes in {what}, got {len(section)}. The file is cut short.")
    leads = tuple(section[end - length : end] for end, length in zip(ends.tolist(), lengths))
    return SignalSection(nanovolts * 1e-6, interval, differences, number == 6 and bimodal == 1, leads)


def beat_locations(section: bytes | None) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int]], int]:
    """Section 4 (5.7): beats (type, first, fiducial, last), protected zones (first, last), reference fiducial."""
    if section is None:
        return [], [], 0
    what = "section 4 (QRS locations)"
    _, fiducial, n_beats = unpack("<HHH", section, 0, what)
    if n_beats > _MAX_BEATS:
        raise EcgFormatError(f"Expected at most {_MAX_BEATS} beats, got {n_beats}.")
    beats = unpack_rows("<HIII", section, 6, n_beats, what)
    zones = unpack_rows("<II", section, 6 + 14 * n_beats, n_beats, what)
    return beats, zones, fiducial


def bimodal_pieces(
    protected: list[tuple[int, int]], start: int, length: int, factor: int
) -> list[tuple[int, int, int]]:
    """Pieces (first, end, step) of a lead: protected zones whole, elsewhere `factor` samples averaged to one (5.9).

    Args:
        protected (list of pairs): First and last sample number of the zones, counted from 1 in the recording.
        start (`int`): Number of the first sample of the lead.
        length (`int`): Samples of the lead.
        factor (`int`): 1 without bimodal compression.

    Example:

    >>> bimodal_pieces([(5, 8)], start=1, length=16, factor=4)
    [(0, 4, 4), (4, 8, 1), (8, 16, 4)]
    """
    pieces, position = [], 0
    for first, last in sorted(protected) if factor > 1 else ():
        begin, end = max(first - start, position), min(last - start + 1, length)
        if begin < end:
            pieces += [(position, begin, factor), (begin, end, 1)]
            position = end
    pieces = [piece for piece in [*pieces, (position, length, factor)] if piece[0] < piece[1]]
    if any((end - begin) % step for begin, end, step in pieces):
        raise EcgFormatError(
            f"Expected protected zones at a distance of multiples of {factor} samples, got {pieces[:20]}."
        )
    return pieces


def restore_bimodal(stored: np.ndarray, pieces: list[tuple[int, int, int]]) -> np.ndarray:
    """Bring stored samples to full rate, interpolating linearly between the middles of averaged samples."""
    parts, position = [], 0
    for begin, end, step in pieces:
        n_stored = (end - begin) // step
        middles = np.arange(n_stored) * step + (step - 1) / 2
        parts.append(np.interp(np.arange(end - begin), middles, stored[position : position + n_stored]))
        position += n_stored
    return np.concatenate(parts)


def add_reference_beats(
    samples: np.ndarray, start: int, beat: np.ndarray, locations: list[tuple[int, int, int, int]], fiducial: int
) -> None:
    """Add the reference beat again where it was subtracted (clause 5.7: the beats of type 0), in place.

    Args:
        samples (`np.ndarray`): Residual of one lead in mV.
        start (`int`): Number of its first sample.
        beat (`np.ndarray`): Reference beat in mV.
        locations (list): Beats as (type, first, fiducial, last sample number).
        fiducial (`int`): Number of the fiducial sample in the reference beat, from 1.
    """
    end = start
    for kind, first, middle, last in sorted(locations, key=lambda location: location[1]):
        if kind != 0:
            continue
        offset = fiducial - 1 - middle
        if first < end or last < first or first + offset < 0 or last + offset >= len(beat):
            raise EcgFormatError(f"Expected separate beats within the reference beat, got samples {first} to {last}.")
        end = min(last + 1, start + len(samples))
        samples[first - start : end - start] += beat[first + offset : end + offset]
