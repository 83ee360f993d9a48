"""XLI, the compression of Philips Sierra XML: 10-bit LZW over second differences, limb leads as residuals.

There is no public standard; the format is as published by C. Watford in sierra-ecg-tools,
https://github.com/sixlettervariables/sierra-ecg-tools (MIT). The library of that project is not used: it follows the
chunk lengths of the file without a bound.
"""

import numpy as np

from ..record import MAX_LEADS, EcgFormatError

_LZW_BITS = 10
MAX_XLI_SAMPLES = 2**22
"""Most samples of all leads: 11 minutes of 12 leads at 500 Hz; decoding takes a microsecond each."""


def decode_xli(data: bytes, n_leads: int, n_samples: int) -> list[np.ndarray]:
    """One chunk per channel: length (int32), two bytes unused, first delta (int16), then the LZW codes."""
    if n_leads * n_samples > MAX_XLI_SAMPLES:
        raise EcgFormatError(
            f"Expected at most {MAX_XLI_SAMPLES} compressed samples, got {n_leads} leads of {n_samples}. Convert the "
            "recording to WFDB."
        )
    chunks: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data) and len(chunks) <= MAX_LEADS:
        length = int.from_bytes(data[position : position + 4], "little")
        first = int.from_bytes(data[position + 6 : position + 8], "little", signed=True)
        chunks.append((first, data[position + 8 : position + 8 + length]))
        position += 8 + length
    # Devices write sixteen channels, the last four unused; all have to be whole, or the file was cut.
    if len(chunks) < n_leads or position != len(data):
        raise EcgFormatError(f"Expected {n_leads} whole compressed leads, got {len(chunks)} chunks and a part of one.")
    leads = []
    for first, chunk in chunks[:n_leads]:
        # The high bytes of all samples come before the low bytes.
        high, low = np.frombuffer(decode_lzw(chunk, 2 * n_samples), np.uint8).reshape(2, n_samples).astype(np.int64)
        leads.append(_second_sum(((high << 8 | low) ^ 0x8000) - 0x8000, first))
    return leads


def _second_sum(deltas: np.ndarray, first: int) -> np.ndarray:
    """x[0] and x[1] are stored; then x[i] = 2 x[i-1] - x[i-2] - d[i-1] + 64, with `first` in place of d[1] - 64."""
    if len(deltas) < 3:
        return deltas
    steps = -np.concatenate([[first], deltas[2:-1] - 64])
    slopes = (deltas[1] - deltas[0]) + np.cumsum(steps)
    values = np.concatenate([deltas[:2], deltas[1] + np.cumsum(slopes)])
    if np.abs(values).max() > 32768:
        raise EcgFormatError("Expected 16-bit samples, got larger ones. The waveforms are damaged.")
    return values


def decode_lzw(chunk: bytes, expected: int) -> bytes:
    """LZW with fixed 10-bit codes, highest bit first; stops at `expected` bytes, so it cannot grow without bound."""
    top = (1 << _LZW_BITS) - 2
    words = [bytes([value]) for value in range(256)]
    output, previous = bytearray(), b""
    bits, n_bits = 0, 0
    for byte in chunk:
        bits, n_bits = (bits << 8 | byte) & 0x3FFFF, n_bits + 8
        if n_bits < _LZW_BITS:
            continue
        n_bits -= _LZW_BITS
        code = (bits >> n_bits) & (1 << _LZW_BITS) - 1
        if code > top:
            break
        if code > len(words) or (code == len(words) and not previous):
            raise EcgFormatError(f"Expected an LZW code up to {len(words)}, got {code}. The waveforms are damaged.")
        word = words[code] if code < len(words) else previous + previous[:1]
        if previous and len(words) <= top:
            words.append(previous + word[:1])
        output += word
        previous = word
        if len(output) > expected + 1:
            break
    # A lead with an odd number of bytes is padded by one.
    if len(output) not in (expected, expected + 1):
        raise EcgFormatError(f"Expected {expected} bytes of samples per lead, got {len(output)}. The file is damaged.")
    return bytes(output[:expected])


def restore_limb_leads(samples: np.ndarray) -> None:
    """III, aVR, aVL and aVF are stored as residuals of the lead sums, rounded down."""
    if len(samples) < 6:
        raise EcgFormatError(f"Expected at least the six limb leads in XLI waveforms, got {len(samples)} leads.")
    i, ii, iii, avr, avl, avf = samples[:6]
    iii[:] = ii - i - iii
    avr[:] = -avr - (i + ii) // 2
    avl[:] = (i - iii) // 2 - avl
    avf[:] = (ii + iii) // 2 - avf
