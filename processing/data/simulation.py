"""A simulator of 12-lead ECGs with reports.

The heart is a dipole in three dimensions. Every wave of a beat (two for P, three to five for QRS, ST, T, a pacing
spike) is a Gaussian in time with a direction of its own, so that the direction of the dipole changes along the beat,
after the sum-of-Gaussians models of McSharry et al. (IEEE Trans Biomed Eng 50:289, 2003) and, for the dipole, Sameni
et al. (EURASIP J Adv Signal Process 2007:43407). Dower's lead vectors project it on the body surface. Noise is added
per electrode, so that Einthoven's and Goldberger's relations hold for the noise as well.

What a report never says (the rate within a rhythm, the axis, the QRS width, the amplitude, PR and QT within their
limits) is drawn freely and kept as a column: it is the ground truth of the information that only the signal carries.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..leads import LIMB_LEADS, STANDARD_LEADS

Range = tuple[float, float]
Vector = tuple[float, float, float]

# Rows x (to the left), y (to the feet), z (to the back); columns I, II, V1-V6. Dower, Machado & Osborne, "On deriving
# the electrocardiogram from vectorcardiographic leads", Clin Cardiol 3:87-95, 1980.
LEAD_VECTORS = np.array(
    [
        [0.632, 0.235, -0.515, 0.044, 0.882, 1.213, 1.125, 0.831],
        [-0.235, 1.066, 0.157, 0.164, 0.098, 0.127, 0.127, 0.076],
        [0.059, -0.132, -0.917, -1.387, -1.277, -0.601, -0.086, 0.230],
    ]
).T
# The same eight leads from the potentials of RA, LA, LL and V1-V6: I = LA - RA, II = LL - RA, Vn - (RA + LA + LL) / 3.
ELECTRODES = np.zeros((8, 9))
ELECTRODES[:2, :3] = [[-1, 1, 0], [-1, 0, 1]]
ELECTRODES[2:, :3], ELECTRODES[2:, 3:] = -1 / 3, np.eye(6)

# Depolarisation of the ventricles: (centre, standard deviation) as fractions of the QRS width, then x, y, z in mV.
Waves = tuple[tuple[float, float, float, float, float], ...]
NORMAL_QRS: Waves = (
    (0.18, 0.09, -0.10, -0.04, -0.30),  # septum: to the right and to the front, the r of V1 and the q of V6
    (0.45, 0.11, 1.00, 0.62, 0.10),  # free wall of the left ventricle: R
    (0.64, 0.10, 0.30, 0.15, 0.60),  # posterior wall: S of V1-V3
    (0.84, 0.08, -0.10, -0.08, 0.25),  # base
)
LEFT_BLOCK_QRS: Waves = (  # no septal wave, two slow humps to the left and to the back
    (0.20, 0.10, 0.45, 0.10, 0.15),
    (0.42, 0.11, 0.90, 0.30, 0.55),
    (0.68, 0.12, 0.95, 0.25, 0.60),
    (0.88, 0.06, 0.15, 0.00, 0.15),
)
RIGHT_BLOCK_QRS: Waves = (  # the normal beginning, then the late right ventricle: R' in V1, wide S in I and V6
    (0.13, 0.065, -0.10, -0.04, -0.30),
    (0.32, 0.09, 1.00, 0.62, 0.10),
    (0.47, 0.07, 0.25, 0.15, 0.45),
    (0.74, 0.11, -0.32, 0.02, -0.62),
    (0.90, 0.05, -0.10, 0.00, -0.20),
)
HYPERTROPHY_QRS: Waves = (
    (0.18, 0.09, -0.12, -0.05, -0.35),
    (0.45, 0.11, 1.15, 0.50, 0.35),
    (0.64, 0.10, 0.35, 0.10, 0.70),
    (0.84, 0.08, -0.10, -0.08, 0.25),
)
ANTERIOR_QRS: Waves = (  # the anterior wall is silent: Q in V2-V4
    (0.20, 0.10, 0.08, 0.00, 0.45),
    (0.45, 0.11, 0.75, 0.60, 0.40),
    (0.64, 0.10, 0.25, 0.15, 0.55),
    (0.84, 0.08, -0.10, -0.08, 0.20),
)
SEPTAL_QRS: Waves = (  # the septum is silent: QS in V1-V3
    (0.20, 0.10, 0.05, 0.00, 0.45),
    (0.45, 0.11, 0.95, 0.60, 0.30),
    (0.64, 0.10, 0.30, 0.15, 0.60),
    (0.84, 0.08, -0.10, -0.08, 0.20),
)
INFERIOR_QRS: Waves = (  # the inferior wall is silent: Q in II, III and aVF
    (0.22, 0.11, 0.00, -0.45, -0.20),
    (0.48, 0.11, 1.00, 0.50, 0.10),
    (0.65, 0.10, 0.30, 0.10, 0.55),
    (0.84, 0.08, -0.10, -0.05, 0.20),
)
PREEXCITED_QRS: Waves = (  # a slow delta wave first
    (0.26, 0.13, 0.32, 0.18, -0.18),
    (0.52, 0.11, 0.95, 0.55, 0.00),
    (0.72, 0.09, 0.30, 0.12, 0.40),
    (0.88, 0.06, -0.05, -0.05, 0.15),
)
PACED_QRS: Waves = (  # from the apex of the right ventricle: to the left, upwards and to the back
    (0.20, 0.10, 0.20, -0.30, 0.10),
    (0.45, 0.12, 0.40, -0.85, 0.45),
    (0.70, 0.12, 0.30, -0.70, 0.50),
    (0.88, 0.06, 0.10, -0.10, 0.10),
)
# Right, then left atrium: centre and standard deviation in seconds after the onset of P, then x, y, z in mV.
P_WAVES = ((0.040, 0.020, 0.05, 0.10, -0.05), (0.068, 0.018, 0.09, 0.08, 0.03))


@dataclass(frozen=True)
class Physiology:
    """What one record is drawn from: a pair is the (low, high) of a uniform distribution."""

    rate: Range = (62.0, 96.0)  # beats per minute
    breathing: Range = (0.01, 0.05)  # respiratory sinus arrhythmia, as a fraction of the RR interval
    irregularity: float = 0.01  # further standard deviation of RR, as a fraction
    pr: Range | None = (125.0, 195.0)  # ms; None: the atria do not lead the ventricles
    qrs_width: Range = (75.0, 105.0)  # ms
    qtc: Range = (385.0, 435.0)  # ms, Fridericia
    axis: Range = (-15.0, 85.0)  # degrees in the frontal plane
    amplitude: Range = (0.75, 1.25)  # scale of QRS and T
    atria: str = "sinus"  # "sinus" | "fibrillation" | "flutter" | "none"
    qrs: Waves = NORMAL_QRS
    st: Vector = (0.0, 0.0, 0.0)  # mV
    t: Vector = (0.28, 0.20, -0.15)  # mV
    premature: tuple[int, int] = (0, 0)  # ventricular premature beats per ten seconds
    paced: bool = False


@dataclass(frozen=True)
class Condition:
    """A rhythm or a finding: its PTB-XL code, the ways a report names it, and what it changes in `Physiology`."""

    code: str
    phrases: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)


RHYTHMS = {
    "sinus_rhythm": Condition("SR", ("sinus rhythm", "normal sinus rhythm", "sr")),
    "sinus_bradycardia": Condition("SBRAD", ("sinus bradycardia", "slow sinus rhythm"), {"rate": (40.0, 56.0)}),
    "sinus_tachycardia": Condition(
        "STACH",
        ("sinus tachycardia", "rapid sinus rhythm"),
        # P and T must both fit between two QRS
        {"rate": (104.0, 145.0), "pr": (112.0, 145.0), "qtc": (385.0, 420.0), "breathing": (0.0, 0.01)},
    ),
    "atrial_fibrillation": Condition(
        "AFIB",
        ("atrial fibrillation", "atrial fibrillation with irregular ventricular response", "af"),
        {"rate": (58.0, 125.0), "breathing": (0.0, 0.0), "irregularity": 0.2, "pr": None, "atria": "fibrillation"},
    ),
    "atrial_flutter": Condition(
        "AFLT",
        ("atrial flutter", "atrial flutter with regular conduction"),
        {"rate": (66.0, 150.0), "breathing": (0.0, 0.0), "irregularity": 0.0, "pr": None, "atria": "flutter"},
    ),
    "ventricular_pacing": Condition(
        "PACE",
        ("ventricular pacing", "pacemaker rhythm", "electronic ventricular pacemaker"),
        {"rate": (60.0, 80.0), "breathing": (0.0, 0.0), "irregularity": 0.0, "pr": None, "atria": "none"}
        | {"paced": True, "qrs": PACED_QRS, "qrs_width": (140.0, 180.0), "axis": (-85.0, -50.0)}
        | {"amplitude": (0.8, 1.2), "qtc": (440.0, 490.0), "st": (-0.03, 0.08, -0.06), "t": (-0.20, 0.40, -0.30)},
    ),
}
FINDINGS = {
    "first_degree_av_block": Condition(
        "1AVB", ("first degree av block", "1st degree av block", "prolonged pr interval"), {"pr": (220.0, 320.0)}
    ),
    "left_bundle_branch_block": Condition(
        "CLBBB",
        ("left bundle branch block", "complete left bundle branch block", "lbbb"),
        {"qrs": LEFT_BLOCK_QRS, "qrs_width": (128.0, 165.0), "axis": (-35.0, 55.0), "amplitude": (0.8, 1.25)}
        | {"qtc": (425.0, 470.0), "st": (-0.07, -0.02, -0.10), "t": (-0.32, -0.05, -0.28)},
    ),
    "right_bundle_branch_block": Condition(
        "CRBBB",
        ("right bundle branch block", "complete right bundle branch block", "rbbb"),
        {"qrs": RIGHT_BLOCK_QRS, "qrs_width": (124.0, 155.0), "axis": (15.0, 100.0), "t": (0.28, 0.20, 0.12)},
    ),
    "left_ventricular_hypertrophy": Condition(
        "LVH",
        ("left ventricular hypertrophy", "left ventricular hypertrophy with strain", "lvh"),
        {"qrs": HYPERTROPHY_QRS, "qrs_width": (85.0, 115.0), "axis": (-30.0, 50.0), "amplitude": (1.6, 2.2)}
        | {"st": (-0.07, 0.0, -0.07), "t": (-0.14, 0.04, -0.18)},
    ),
    "anterior_infarction": Condition(
        "AMI",
        ("anterior myocardial infarction", "anterior infarct, st elevation in anterior leads", "anterior mi"),
        {"qrs": ANTERIOR_QRS, "st": (0.10, -0.06, -0.24), "t": (0.22, 0.12, -0.28)},
    ),
    "anteroseptal_infarction": Condition(
        "ASMI",
        ("anteroseptal myocardial infarction", "anteroseptal infarct, st elevation in v1-v3", "anteroseptal mi"),
        {"qrs": SEPTAL_QRS, "st": (-0.04, -0.02, -0.25), "t": (0.12, 0.15, -0.30)},
    ),
    "inferior_infarction": Condition(
        "IMI",
        ("inferior myocardial infarction", "inferior infarct, st elevation in inferior leads", "inferior mi"),
        {"qrs": INFERIOR_QRS, "st": (-0.05, 0.22, 0.06), "t": (0.15, 0.25, -0.05), "axis": (-20.0, 70.0)},
    ),
    "wolff_parkinson_white": Condition(
        "WPW",
        ("wolff-parkinson-white syndrome", "ventricular preexcitation, delta waves", "wpw pattern"),
        {"qrs": PREEXCITED_QRS, "qrs_width": (115.0, 150.0), "pr": (80.0, 112.0), "t": (0.05, 0.10, -0.02)},
    ),
    "long_qt": Condition(
        "LNGQT", ("prolonged qt interval", "long qt interval", "qt prolongation"), {"qtc": (495.0, 570.0)}
    ),
    "low_voltage": Condition(
        "LVOLT", ("low qrs voltages", "low voltage", "peripheral low voltage"), {"amplitude": (0.20, 0.33)}
    ),
    "premature_ventricular_complexes": Condition(
        "PVC",
        ("ventricular premature complex(es)", "premature ventricular contractions", "ventricular extrasystoles"),
        {"premature": (1, 3)},
    ),
}
CONDITIONS = (*RHYTHMS, *FINDINGS)
# PTB-XL writes 0 as the likelihood of statements on rhythm and form, and 15 to 100 for diagnoses.
NO_DIAGNOSIS = {"SR", "SBRAD", "STACH", "AFIB", "AFLT", "PACE", "LVOLT", "PVC"}
FACTORS = ("heart_rate", "qrs_axis", "qrs_width", "amplitude", "pr_interval", "qt_interval")


@dataclass(frozen=True)
class SyntheticRecord:
    """One simulated ECG, what a reader would report, and what the report does not say.

    Attributes:
        signal (`np.ndarray` of shape `(12, samples)`): float32, mV in whole microvolts, rows as `STANDARD_LEADS`.
        sampling_rate (`float`): Samples per second.
        factors (`dict[str, float]`): `heart_rate` (per minute, from the RR intervals inside the record), `qrs_axis`
            (degrees, from the net QRS area in I and aVF), `qrs_width`, `pr_interval`, `qt_interval` (ms; PR is NaN
            where there is no P wave), `amplitude` (scale of QRS and T; 1 is the middle of the healthy range).
        report (`str`): English, lower case.
        scp_codes (`dict[str, float]`): PTB-XL code to likelihood in percent, 0 for statements on rhythm and form.
        leads (`tuple[str, ...]`): The names of the rows.
        qrs_onsets (`tuple[float, ...]`): Times in seconds at which the QRS complexes begin that lie inside the record.
    """

    signal: np.ndarray
    sampling_rate: float
    factors: dict[str, float]
    report: str
    scp_codes: dict[str, float]
    leads: tuple[str, ...] = STANDARD_LEADS
    qrs_onsets: tuple[float, ...] = ()


def simulate_ecg(
    condition: str = "sinus_rhythm",
    *,
    seed: int | np.random.SeedSequence | np.random.Generator,
    sampling_rate: float = 100.0,
    duration: float = 10.0,
    noise: float = 1.0,
) -> SyntheticRecord:
    """Simulate one 12-lead ECG.

    Args:
        condition (`str`): Names from `CONDITIONS` joined by "+": at most one rhythm (`sinus_rhythm` when none is
            named) and any findings that do not change the same property, such as `"atrial_fibrillation+low_voltage"`.
        seed (`int`, `np.random.SeedSequence` or `np.random.Generator`): Decides everything that is random.
        sampling_rate (`float`, defaults to 100.0): Hz, at least 50.
        duration (`float`, defaults to 10.0): Seconds, 1 to 600.
        noise (`float`, defaults to 1.0): Scale of muscle noise, mains hum and baseline wander; 0 gives a clean record.

    Returns:
        `SyntheticRecord`: Signal in mV of shape `(12, round(sampling_rate * duration))`, factors, report, SCP codes.

    Raises:
        ValueError: If a condition is unknown, two of them exclude each other, or a number is out of its range.

    Example:

    >>> record = simulate_ecg("left_bundle_branch_block", seed=0)
    >>> record.signal.shape, record.scp_codes
    ((12, 1000), {'SR': 0.0, 'CLBBB': 100.0})
    """
    if not (50 <= sampling_rate <= 5000 and 1 <= duration <= 600 and 0 <= noise < np.inf):
        raise ValueError(
            "Expected sampling_rate of 50 to 5000 Hz, duration of 1 to 600 s and noise of at least 0, "
            f"got {sampling_rate}, {duration} and {noise}."
        )
    rhythm, findings = parse_condition(condition)
    rng = np.random.default_rng(seed)
    body = replace(Physiology(), **{key: value for part in (rhythm, *findings) for key, value in part.changes.items()})
    rate, width, axis, amplitude = (
        rng.uniform(*limits) for limits in (body.rate, body.qrs_width, body.axis, body.amplitude)
    )
    breathing_rate = rng.uniform(0.18, 0.35)
    onsets, premature = _beat_onsets(rng, body, rate, breathing_rate, duration)

    inside = onsets[(onsets >= 0) & (onsets <= duration - width / 1000)]
    rr = np.diff(inside).mean() if len(inside) > 1 else 60 / rate
    qt = rng.uniform(*body.qtc) * rr ** (1 / 3)  # Fridericia
    pr = rng.uniform(*body.pr) if body.pr else np.nan
    factors = dict(zip(FACTORS, map(float, (60 / rr, axis, width, amplitude, pr, qt))))

    time = np.arange(round(sampling_rate * duration)) / sampling_rate
    gain = 1 + 0.03 * np.sin(2 * np.pi * breathing_rate * onsets)
    kinds = [(~premature, _normal_waves(rng, body, factors, sampling_rate))]
    if premature.any():
        kinds.append((premature, _premature_waves(rng, amplitude)))
    dipole = sum(_sum_waves(len(time), sampling_rate, onsets[kind], gain[kind], waves) for kind, waves in kinds)
    if body.atria in ("fibrillation", "flutter"):
        dipole += _atrial_activity(rng, body.atria, time, onsets[0], rate)

    independent = LEAD_VECTORS @ dipole
    if noise:
        independent += noise * ELECTRODES @ _electrode_noise(rng, time, sampling_rate, breathing_rate)
    report, scp_codes = _write_report(rng, rhythm, findings)
    signal = _twelve_leads(independent)
    beats = tuple(inside.tolist())
    return SyntheticRecord(signal, float(sampling_rate), factors, report, scp_codes, qrs_onsets=beats)


def parse_condition(condition: str) -> tuple[Condition, tuple[Condition, ...]]:
    names = condition.split("+")
    unknown = [name for name in names if name not in CONDITIONS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"Expected each of {', '.join(CONDITIONS)} at most once, joined by '+', got {condition!r}.")
    rhythms = [RHYTHMS[name] for name in names if name in RHYTHMS] or [RHYTHMS["sinus_rhythm"]]
    findings = tuple(FINDINGS[name] for name in names if name in FINDINGS)
    changes = [key for part in (*rhythms, *findings) for key in part.changes]
    twice = sorted({key for key in changes if changes.count(key) > 1})
    if len(rhythms) > 1 or twice:
        raise ValueError(
            f"Expected one rhythm and findings that change different properties, got {condition!r}"
            f"{', which sets ' + ', '.join(twice) + ' twice' if twice else ', two rhythms'}. Drop one of its parts."
        )
    return rhythms[0], findings


def _beat_onsets(
    rng: np.random.Generator, body: Physiology, rate: float, breathing_rate: float, duration: float
) -> tuple[np.ndarray, np.ndarray]:
    """Times of the QRS onsets in seconds, from before the record to after it, and which of them are premature."""
    count = int((duration + 4) * rate / 60 * 1.5) + 4  # an irregular rhythm may run fast for a while
    rr = 60 / rate * np.exp(body.irregularity * rng.standard_normal(count))
    rr *= 1 + rng.uniform(*body.breathing) * np.sin(2 * np.pi * breathing_rate * np.arange(count) * 60 / rate)
    onsets = np.cumsum(np.maximum(rr, 0.33)) - 2 - rng.uniform(0, 60 / rate)  # 0.33 s: the AV node recovers
    onsets = onsets[onsets < duration + 1]
    premature = np.zeros(len(onsets), dtype=bool)
    if body.premature[1]:
        candidates = np.flatnonzero((onsets > 0.6) & (onsets < duration - 0.6))[::2]  # never two in a row
        wanted = round(rng.integers(body.premature[0], body.premature[1] + 1) * max(1.0, duration / 10))
        premature[rng.permutation(candidates)[:wanted]] = True
        late = np.flatnonzero(premature)  # the next sinus beat keeps its time: a full compensatory pause
        onsets[late] = onsets[late - 1] + rng.uniform(0.52, 0.68) * (onsets[late] - onsets[late - 1])
    return onsets, premature


def _normal_waves(
    rng: np.random.Generator, body: Physiology, factors: dict[str, float], sampling_rate: float
) -> np.ndarray:
    """Waves of a beat: rows of centre, left and right standard deviation (s after the QRS onset), x, y, z (mV)."""
    width, pr, qt = (factors[name] / 1000 for name in ("qrs_width", "pr_interval", "qt_interval"))
    shape = np.array(body.qrs)
    vectors = factors["amplitude"] * shape[:, 2:] * (1 + 0.1 * rng.standard_normal((len(shape), 3)))
    turn = _turn_to_axis(shape[:, 1] @ vectors, factors["qrs_axis"])
    t_vector = factors["amplitude"] * np.array(body.t) * (1 + 0.1 * rng.standard_normal(3))
    qrs = np.column_stack([width * shape[:, [0, 1, 1]], vectors @ _rotation(turn).T])
    st = [width + 0.05, 0.02, 0.07, *(np.array(body.st) * rng.uniform(0.8, 1.4))]
    # The T axis follows the QRS axis about half-way; T rises more slowly than it falls.
    t = [0.78 * qt, 0.14 * qt, 0.11 * qt, *(_rotation(turn / 2) @ t_vector)]
    waves = [qrs, np.array([st, t])]
    if body.paced:
        spike = max(0.002, 0.5 / sampling_rate)  # as wide as the recorder leaves it
        waves.append(np.array([[-0.01, spike, spike, 0.3, -0.9, 0.3]]))
    if body.atria == "sinus":
        shape = np.array(P_WAVES)
        vectors = shape[:, 2:] * rng.uniform(0.8, 1.3) * (1 + 0.1 * rng.standard_normal((2, 3)))
        brief = min(1.0, pr / 0.13)  # P ends before a QRS that follows early
        waves.append(np.column_stack([brief * shape[:, [0, 1, 1]] - [pr, 0, 0], vectors]))
    return np.concatenate(waves)


def _rotation(angle: float) -> np.ndarray:
    """Turn by `angle` radians about the z axis, from left to feet."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _turn_to_axis(area: np.ndarray, axis: float) -> float:
    """Angle by which the net QRS area (3,) must be turned for leads I and aVF to show the frontal axis wanted.

    The axis is atan2(2 / sqrt(3) * aVF, I); asking for it gives `a cos(turn) + b sin(turn) + c = 0` with two roots:
    the axis and its opposite.
    """
    cos, sin = np.cos(np.radians(axis)), np.sin(np.radians(axis))
    a_vf = 2 / np.sqrt(3) * (LEAD_VECTORS[1] - LEAD_VECTORS[0] / 2)
    along, across = cos * LEAD_VECTORS[0] + sin * a_vf, sin * LEAD_VECTORS[0] - cos * a_vf
    a, b = across[:2] @ area[:2], across[1] * area[0] - across[0] * area[1]
    half_width = np.arccos(np.clip(-across[2] * area[2] / np.hypot(a, b), -1, 1))
    roots = np.arctan2(b, a) + np.array([half_width, -half_width])
    return max(roots, key=lambda root: along @ _rotation(root) @ area)


def _premature_waves(rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """A wide ventricular beat from either ventricle, with a discordant T wave."""
    width = rng.uniform(0.145, 0.18)
    vertical = rng.uniform(-0.8, 0.9)
    from_right_ventricle = rng.random() < 0.5
    vector = np.array([0.9, vertical, 0.9] if from_right_ventricle else [-0.5, vertical, -0.9])
    vector *= max(amplitude, 0.5) * rng.uniform(1.1, 1.5)
    shape = np.array([(0.25, 0.12, 0.6), (0.52, 0.14, 1.0), (0.78, 0.11, 0.5)])
    centre, deviation = width * shape[:, 0], width * shape[:, 1]
    qrs = np.column_stack([centre, deviation, deviation, np.outer(shape[:, 2], vector)])
    return np.concatenate([qrs, [[width + 0.17, 0.06, 0.05, *(-0.4 * vector)]]])


def _sum_waves(
    samples: int, sampling_rate: float, onsets: np.ndarray, gain: np.ndarray, waves: np.ndarray
) -> np.ndarray:
    """The dipole (3, samples) of beats that all consist of the same waves."""
    # P begins less than 0.4 s before QRS, T ends less than 1.1 s after its onset.
    steps = np.arange(-int(0.4 * sampling_rate), int(1.1 * sampling_rate))
    columns = np.floor(onsets * sampling_rate).astype(int)[:, None] + steps
    since_onset = columns / sampling_rate - onsets[:, None]
    distance = since_onset[:, None] - waves[:, :1]
    kernels = np.exp(-0.5 * (distance / np.where(distance < 0, waves[:, 1:2], waves[:, 2:3])) ** 2)
    beats = gain[:, None, None] * (waves[:, 3:].T @ kernels)
    dipole = np.zeros((samples, 3))
    inside = (columns >= 0) & (columns < samples)
    np.add.at(dipole, columns[inside], beats.transpose(0, 2, 1)[inside])
    return dipole.T


def _atrial_activity(
    rng: np.random.Generator, atria: str, time: np.ndarray, first_onset: float, rate: float
) -> np.ndarray:
    """Fibrillatory waves of 5 to 8 Hz, or a flutter saw-tooth of about 290 per minute locked to the ventricles."""
    if atria == "flutter":
        phase = 2 * np.pi * round(290 / rate) * rate / 60 * (time - first_onset)
        saw_tooth = sum(np.sin(k * phase) / k for k in (1, 2, 3))
        return np.outer([0.02, 0.11, 0.05], saw_tooth * rng.uniform(0.9, 1.5))
    dipole = np.zeros((3, len(time)))
    for _ in range(3):
        phase = 2 * np.pi * (rng.uniform(5, 8) * time + rng.random()) + np.sin(2 * np.pi * rng.uniform(0.2, 1) * time)
        dipole += np.outer(rng.normal([-0.03, 0.05, -0.05], 0.015), np.sin(phase))
    return dipole * rng.uniform(0.5, 1.0)


def _electrode_noise(
    rng: np.random.Generator, time: np.ndarray, sampling_rate: float, breathing_rate: float
) -> np.ndarray:
    """Muscle noise, mains hum and baseline wander of the nine electrodes, (9, samples) in mV."""
    noise = rng.uniform(0.002, 0.015) * rng.standard_normal((9, len(time)))
    for frequency in (breathing_rate, rng.uniform(0.03, 0.12)):
        wave = np.exp(2j * np.pi * frequency * time)
        noise += np.imag(np.outer(rng.uniform(0, 0.06) * rng.standard_normal((9, 2)) @ [1, 1j], wave))
    mains = rng.choice([50.0, 60.0])
    if mains < sampling_rate / 2:  # the anti-aliasing filter of a slower recorder removes it
        noise += np.outer(rng.uniform(0, 0.01) * rng.standard_normal(9), np.sin(2 * np.pi * mains * time))
    return noise


def _twelve_leads(independent: np.ndarray) -> np.ndarray:
    """Twelve leads in mV from I, II, V1-V6: whole microvolts, in which the limb leads' relations are exact."""
    microvolts = np.rint(np.clip(independent, -16, 16) * 1000)
    microvolts[:2] = 2 * np.rint(microvolts[:2] / 2)  # aVR, aVL and aVF halve I and II
    limb = np.array(list(LIMB_LEADS.values())) @ microvolts[:2]
    return (np.concatenate([microvolts[:2], limb, microvolts[2:]]) / 1000).astype(np.float32)


def _write_report(
    rng: np.random.Generator, rhythm: Condition, findings: tuple[Condition, ...]
) -> tuple[str, dict[str, float]]:
    """A report in the manner of PTB-XL's English ones, and its codes; it says nothing that varies freely."""
    codes = {rhythm.code: 0.0}
    sentences = [str(rng.choice(rhythm.phrases))]
    for finding in findings:
        phrase, likelihood = str(rng.choice(finding.phrases)), 100.0
        if finding.code in NO_DIAGNOSIS:
            likelihood = 0.0
        elif rng.random() < 0.15:
            phrase, likelihood = f"probable {phrase}", 80.0
        sentences.append(phrase)
        codes[finding.code] = likelihood
    if not findings and rhythm.code in ("SR", "SBRAD", "STACH"):
        codes["NORM"] = 100.0
        sentences.append(str(rng.choice(("normal ecg", "no definite pathology", "within normal limits"))))
        if rhythm.code != "SR":
            sentences[-1] = "otherwise normal ecg"
    if rng.random() < 0.08:
        sentences.append("unconfirmed report")
    if rng.random() < 0.02:
        return "trace only requested.", codes
    if rng.random() < 0.15:
        sentences = [*sentences[1:], sentences[0]]
    return (" ".join(sentences) if rng.random() < 0.15 else ". ".join(sentences) + "."), codes


__all__ = ["CONDITIONS", "FACTORS", "FINDINGS", "RHYTHMS", "SyntheticRecord", "simulate_ecg"]
