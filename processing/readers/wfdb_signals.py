"""WFDB signal files: how many frames they hold, and their samples between two frames.

Storage formats: https://physionet.org/physiotools/wag/signal-5.htm
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..record import MAX_SAMPLES, EcgFormatError

# Bits per sample on disk and the value that marks an invalid sample, per storage format. FLAC (5xx) has no fixed size,
# 0 is a signal of a layout header, which has no file.
STORAGE: dict[str, tuple[float | None, int | None]] = {
    "8": (8, None),
    "80": (8, -(2**7)),
    "310": (32 / 3, -(2**9)),
    "311": (32 / 3, -(2**9)),
    "212": (12, -(2**11)),
    "16": (16, -(2**15)),
    "61": (16, -(2**15)),
    "160": (16, -(2**15)),
    "24": (24, -(2**23)),
    "32": (32, -(2**31)),
    "0": (0, None),
    "508": (None, -(2**7)),
    "516": (None, -(2**15)),
    "524": (None, -(2**23)),
}
_TYPES = {"8": "i1", "80": "u1", "16": "<i2", "61": ">i2", "160": "<u2", "32": "<i4"}
_OFFSETS = {"80": 2**7, "160": 2**15}
_BLOCKS = {"212": (2, 3), "310": (3, 4), "311": (3, 4), "24": (1, 3)}
"""Samples and bytes of a block of the formats that are not arrays of a NumPy type."""


class Stored(Protocol):
    """What is asked of a signal: see `wfdb_header.Signal`."""

    @property
    def fmt(self) -> str: ...
    @property
    def per_frame(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def first(self) -> int: ...


def held_frames(file: Path, signals: Sequence[Stored], header: Path) -> int:
    """Return the frames that a signal file holds; below 0 if it is shorter than its offset.

    Args:
        file (`Path`): The signal file.
        signals (sequence): All signals of the file, in their order.
        header (`Path`): The header, for the error message.

    Raises:
        EcgFormatError: If the signals cannot stand in one file, or a FLAC file is damaged.
    """
    if len({(signal.fmt, signal.offset) for signal in signals}) > 1:
        raise EcgFormatError(
            f"{header.name} gives {file.name} more than one storage format or offset; expected one per file."
        )
    bits, per_frame = STORAGE[signals[0].fmt][0], sum(signal.per_frame for signal in signals)
    if per_frame > MAX_SAMPLES:
        raise EcgFormatError(f"{header.name} claims {per_frame} samples per frame in {file.name}.")
    if bits == 0:
        raise EcgFormatError(f"{header.name} gives {file.name} the storage format 0, which is that of no file.")
    if bits is None:
        return _flac_frames(file, signals)
    return int((file.stat().st_size - signals[0].offset) * 8 / bits / per_frame + 1e-9)


def read_frames(file: Path, signals: Sequence[Stored], start: int, stop: int) -> list[np.ndarray]:
    """Return the samples of all signals of a file between two frames, in ADC units, each with its own length.

    Raises:
        EcgFormatError: If the file ends before.
    """
    fmt, per_frame = signals[0].fmt, sum(signal.per_frame for signal in signals)
    if STORAGE[fmt][0] is None:
        return _read_flac(file, signals, start, stop)
    begin = 0 if fmt == "8" else start  # differences add up from the first sample
    stored = _read_stored(file, fmt, signals[0].offset, begin * per_frame, stop * per_frame)
    frames = stored.reshape(-1, per_frame)
    ends = np.cumsum([signal.per_frame for signal in signals])
    samples = [frames[:, end - signal.per_frame : end].reshape(-1) for signal, end in zip(signals, ends)]
    if fmt == "8":
        samples = [signal.first + piece.cumsum(dtype=np.int64) for signal, piece in zip(signals, samples)]
        samples = [piece[start * signal.per_frame :] for signal, piece in zip(signals, samples)]
    return samples


def _read_stored(file: Path, fmt: str, offset: int, start: int, stop: int) -> np.ndarray:
    """Read the samples `start` to `stop` of a file, whichever signal they belong to."""
    per_block, block_bytes = _BLOCKS.get(fmt, (1, np.dtype(_TYPES.get(fmt, "u1")).itemsize))
    first, last = start // per_block, -(-stop // per_block)
    with open(file, "rb") as stream:
        stream.seek(offset + first * block_bytes)
        content = stream.read((last - first) * block_bytes)
    samples = _unpack(content, fmt)[start - first * per_block :][: stop - start]
    if len(samples) < stop - start:
        raise EcgFormatError(f"{file.name} became shorter while it was read.")
    return samples


def _unpack(content: bytes, fmt: str) -> np.ndarray:
    if fmt in _TYPES:
        return np.frombuffer(content, _TYPES[fmt]).astype(np.int32) - _OFFSETS.get(fmt, 0)
    per_block, block_bytes = _BLOCKS[fmt]
    padded = content + bytes(-len(content) % block_bytes)  # the last block of a file may be cut
    blocks = np.frombuffer(padded, np.uint8).reshape(-1, block_bytes).astype(np.int32)
    samples = np.empty((len(blocks), per_block), np.int32)
    if fmt == "24":
        samples[:, 0] = blocks[:, 0] | blocks[:, 1] << 8 | (blocks[:, 2] ^ 0x80) << 16
        samples -= 2**23
    elif fmt == "212":
        samples[:, 0] = blocks[:, 0] | (blocks[:, 1] & 0x0F) << 8
        samples[:, 1] = blocks[:, 2] | (blocks[:, 1] & 0xF0) << 4
        samples = (samples ^ 2**11) - 2**11
    else:
        words = [blocks[:, 0] | blocks[:, 1] << 8, blocks[:, 2] | blocks[:, 3] << 8]
        if fmt == "310":
            samples[:, 0] = words[0] >> 1
            samples[:, 1] = words[1] >> 1
            samples[:, 2] = words[0] >> 11 | words[1] >> 11 << 5
        else:
            samples[:, 0] = words[0]
            samples[:, 1] = words[0] >> 10 | words[1] << 6
            samples[:, 2] = words[1] >> 4
        samples = ((samples & 2**10 - 1) ^ 2**9) - 2**9
    return samples.reshape(-1)[: int(len(content) * per_block / block_bytes + 1e-9)]


def _flac_frames(file: Path, signals: Sequence[Stored]) -> int:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("Reading FLAC-coded WFDB files needs soundfile: pip install soundfile") from error
    try:
        info = soundfile.info(str(file))
    except soundfile.LibsndfileError as error:
        raise EcgFormatError(f"{file.name} is not a FLAC file: {str(error.error_string)[:100]}.") from None
    bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}.get(info.subtype, 99)
    expected = int(signals[0].fmt) - 500
    if info.format != "FLAC" or bits > expected or info.channels != len(signals):
        raise EcgFormatError(
            f"{file.name}: expected FLAC of {len(signals)} channels with at most {expected} bits, got {info.channels} "
            f"channels of {info.format} {info.subtype}."
        )
    if len({signal.per_frame for signal in signals}) > 1:
        raise EcgFormatError(f"{file.name}: expected signals of one rate in a FLAC file, got several.")
    return (info.frames - signals[0].offset) // signals[0].per_frame


def _read_flac(file: Path, signals: Sequence[Stored], start: int, stop: int) -> list[np.ndarray]:
    import soundfile

    per_frame, offset = signals[0].per_frame, signals[0].offset
    samples = np.empty(((stop - start) * per_frame, len(signals)), np.int32)
    try:
        with soundfile.SoundFile(file) as stream:
            bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}[stream.subtype]
            stream.seek(offset + start * per_frame)
            for first in range(0, len(samples), 2**20):  # libsndfile fails above 2**24 samples at once
                part = samples[first : first + 2**20]
                if len(stream.read(len(part), dtype="int32", always_2d=True, out=part)) < len(part):
                    raise EcgFormatError(f"{file.name} ends before the length that it states.")
    except soundfile.SoundFileError as error:
        raise EcgFormatError(f"{file.name} cannot be decoded: {str(error)[-100:]}.") from None
    return list((samples >> 32 - bits).T)
