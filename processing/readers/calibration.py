"""The calibration pulse that Philips devices write behind a recording."""

import numpy as np


def cut_calibration(signal: np.ndarray, rate: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """Cut the last second if it ends in the calibration pulse of Philips devices: 1 mV for 0.2 s, then 0 mV for 0.1 s.

    Args:
        signal (`np.ndarray` of shape `(leads, samples)`): In millivolts.
        rate (`float`): Hz.

    Returns:
        `tuple`: The signal and the notes for its record.
    """
    second, tenth = round(rate), round(rate / 10)
    if tenth < 2 or signal.shape[1] < 2 * second:
        return signal, ()
    # One sample of leeway at each edge, in case the pulse is placed on another multiple of the sampling interval.
    pulse, after = signal[:, -3 * tenth + 1 : -tenth - 1], signal[:, -tenth + 1 :]
    if not (np.abs(pulse - 1).max() <= 0.01 and np.abs(after).max() <= 0.01):
        return signal, ()
    return signal[:, :-second], ("The last second was cut: it ends in the 1 mV calibration pulse of the device.",)
