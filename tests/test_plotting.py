"""The plot is true to scale, arranged as printed ECGs are, and leaves matplotlib's global state alone."""

import importlib
import struct
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modeling_merit.processing import EcgRecord, measure
from modeling_merit.processing.data.simulation import SyntheticRecord, simulate_ecg
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.plotting import LAYOUTS, plot_ecg
from modeling_merit.processing.record import DISCLAIMER

MM_PER_INCH = 25.4


def make_record(
    signal: np.ndarray, sampling_rate: float = 100.0, leads: tuple[str, ...] = STANDARD_LEADS
) -> SyntheticRecord:
    return SyntheticRecord(signal, sampling_rate, {}, "", {}, leads)


def steps(n_leads: int = 12, duration: float = 10.0, sampling_rate: float = 100.0) -> np.ndarray:
    """A square wave of 1 mV and 1 s, low for longer than high, so that its median is 0."""
    second = np.arange(round(duration * sampling_rate)) % sampling_rate / sampling_rate
    return np.tile((second >= 0.6).astype(float), (n_leads, 1))


def traces(figure: Figure) -> dict[str, list[np.ndarray]]:
    """Traces by lead name: arrays (2, samples) of x and y in mm."""
    found: dict[str, list[np.ndarray]] = {}
    for line in figure.axes[0].get_lines():
        kind, _, lead = line.get_gid().partition(" ")
        if kind == "lead":
            found.setdefault(lead, []).append(np.array(line.get_data(), dtype=float))
    return found


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_one_axes_in_millimetres_of_the_figure() -> None:
    figure = plot_ecg(make_record(steps()))
    (axes,) = figure.axes
    size = figure.get_size_inches() * MM_PER_INCH
    np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [(0, size[0]), (0, size[1])])
    np.testing.assert_allclose(axes.get_position().bounds, (0, 0, 1, 1))
    corner, one_mm = axes.transData.transform([(0, 0), (1, 1)])
    np.testing.assert_allclose(one_mm - corner, figure.dpi / MM_PER_INCH)


@pytest.mark.parametrize("speed, gain", [(25.0, 10.0), (50.0, 5.0), (12.5, 20.0)])
def test_scale_of_time_and_voltage(speed: float, gain: float) -> None:
    figure = plot_ecg(make_record(steps(), 100.0), speed=speed, gain=gain)
    _, strip = traces(figure)["II"]
    assert np.ptp(strip[1]) == pytest.approx(gain)  # the signal's step is 1 mV
    np.testing.assert_allclose(np.diff(strip[0]), speed / 100)
    rises = strip[0][1:][np.diff(strip[1]) > 0]
    np.testing.assert_allclose(np.diff(rises), speed)  # one step per second
    assert words(figure)[-1].startswith(
        f"{speed:g} mm/s {gain:g} mm/mV · not a medical device\n10 s · 100 Hz · filter"
    )


def test_calibration_pulse_is_one_millivolt_high_and_stands_on_each_baseline() -> None:
    for gain in (10.0, 5.0):
        figure = plot_ecg(make_record(steps()), gain=gain)
        pulses = [line for line in figure.axes[0].get_lines() if line.get_gid() == "calibration"]
        assert len(pulses) == 4
        baselines = sorted({trace[1].min() for parts in traces(figure).values() for trace in parts})
        np.testing.assert_allclose(sorted(pulse.get_ydata()[0] for pulse in pulses), baselines)
        for pulse in pulses:
            x, y = pulse.get_data()
            assert np.ptp(y) == gain and x[3] - x[2] == 5 and x[-1] < 15


def test_three_by_four_and_a_rhythm_strip() -> None:
    figure = plot_ecg(make_record(steps()))
    parts = traces(figure)
    assert sorted(parts) == sorted(STANDARD_LEADS) and [len(parts[lead]) for lead in ("I", "II", "V6")] == [1, 2, 1]
    corner = {lead: (parts[lead][0][0, 0], parts[lead][0][1].min()) for lead in STANDARD_LEADS}
    for column, leads in enumerate(
        (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
    ):
        assert {corner[lead][0] for lead in leads} == {15 + 62.5 * column}  # 2.5 s each
        assert corner[leads[0]][1] > corner[leads[1]][1] > corner[leads[2]][1]
    assert {corner[lead][1] for lead in ("I", "aVR", "V1", "V4")} == {corner["I"][1]}
    strip = parts["II"][1]
    assert strip.shape[1] == 1000 and strip[1].min() < corner["III"][1]
    assert all(part[0].shape[1] == 250 for lead, part in parts.items())
    assert words(figure)[:-1] == ["I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II"]


@pytest.mark.parametrize(
    "layout, calibrations, lines",
    [("3x4", 3, 12), ("3x4+3", 6, 15), ("6x2", 6, 12), ("6x2+1", 7, 13), ("12x1", 12, 12)],
)
def test_other_layouts(layout: str, calibrations: int, lines: int) -> None:
    figure = plot_ecg(make_record(steps()), layout=layout)
    gids = [line.get_gid() for line in figure.axes[0].get_lines()]
    assert gids.count("calibration") == calibrations and len(gids) == calibrations + lines


def test_grid_of_one_and_five_millimetres() -> None:
    figure = plot_ecg(make_record(steps()))
    width, height = np.rint(figure.get_size_inches() * MM_PER_INCH)
    for step in (1, 5):
        vertical, horizontal = (c for c in figure.axes[0].collections if c.get_gid() == f"grid {step} mm")
        xs = [segment[0, 0] for segment in vertical.get_segments()]
        ys = [segment[0, 1] for segment in horizontal.get_segments()]
        np.testing.assert_allclose(xs, np.arange(0, width + 1, step))
        np.testing.assert_allclose(ys, np.arange(0, height + 1, step))
    for line in figure.axes[0].get_lines():
        if line.get_gid() == "calibration":
            assert line.get_ydata()[0] % 5 == 0  # baselines lie on thick lines


@pytest.mark.parametrize("leads", [("II",), ("V1", "I"), ("III", "II", "I")])
def test_few_leads_are_shown_whole_in_standard_order(leads: tuple[str, ...]) -> None:
    figure = plot_ecg(make_record(steps(len(leads)), leads=leads))
    parts = traces(figure)
    assert all(len(part) == 1 and part[0].shape[1] == 1000 for part in parts.values())
    assert words(figure)[:-1] == sorted(leads, key=STANDARD_LEADS.index)


def test_eight_leads_are_drawn_as_twelve_with_the_derived_ones_marked() -> None:
    eight = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
    signal = steps(8)
    signal[1] *= 3
    figure = plot_ecg(make_record(signal, leads=eight))
    parts = traces(figure)
    assert set(parts) == set(STANDARD_LEADS) and parts["V6"][0][0, 0] == 15 + 62.5 * 3
    assert np.ptp(parts["III"][0][1]) == pytest.approx(20) and np.ptp(parts["aVF"][0][1]) == pytest.approx(25)
    names = words(figure)
    assert {name for name in names if name.endswith("*")} == {"III*", "aVR*", "aVL*", "aVF*"}
    assert "* derived from I and II" in names[-1]
    colours = {line.get_gid(): line.get_color() for line in figure.axes[0].get_lines()}
    assert colours["lead III"] == colours["lead aVF"] != colours["lead I"] == colours["lead V6"]
    assert "derived" not in words(plot_ecg(make_record(steps())))[-1]


def test_four_and_fifteen_leads() -> None:
    for four in (("V1", "V2", "V3", "V4"), ("I", "II", "V1", "V5")):
        parts = traces(plot_ecg(make_record(steps(4), leads=four)))
        assert set(parts) == set(four) and all(len(part) == 1 and part[0].shape[1] == 1000 for part in parts.values())
    assert len(traces(plot_ecg(make_record(steps(4), leads=four), layout="3x4+1"))["II"]) == 2
    fifteen = (*STANDARD_LEADS, "X", "Y", "Z")
    parts = traces(plot_ecg(make_record(steps(15), leads=fifteen)))
    assert set(parts) == set(fifteen) and parts["Z"][0][0, 0] == 15 + 25 * 8  # fifth column of 2 s


@pytest.mark.parametrize(
    "seconds, lines, row, speed, gain", [(50, 5, 10, 25, 10), (480, 16, 30, 10, 5), (900, 15, 60, 5, 5)]
)
def test_full_disclosure(seconds: int, lines: int, row: int, speed: float, gain: float) -> None:
    figure = plot_ecg(make_record(steps(duration=seconds)), dpi=100)
    parts = traces(figure)
    assert set(parts) == {"II"} and len(parts["II"]) == lines
    assert [part[0][0] for part in parts["II"]] == [15] * lines
    assert all(np.ptp(part[1]) == pytest.approx(gain) for part in parts["II"])
    np.testing.assert_allclose(np.diff(parts["II"][0][0]), speed / 100)
    tops = [part[1].min() for part in parts["II"]]
    assert (np.diff(tops) < -gain).all() and min(tops) > 10
    text = words(figure)
    assert text[:2] == ["0:00", {10: "0:10", 30: "0:30", 60: "1:00"}[row]]
    assert f"lead II · {speed} mm/s {gain} mm/mV" in text[-1] and f"lines of {row} s" in text[-1]


def test_full_disclosure_of_another_lead_and_length() -> None:
    figure = plot_ecg(make_record(steps()), layout="full-disclosure", lead="V3", row_seconds=12)
    assert set(traces(figure)) == {"V3"}
    hours = plot_ecg(make_record(steps(1, 7300), leads=("V1",)), dpi=50)
    assert words(hours)[-2] == "2:01:00"
    with pytest.raises(ValueError, match="Expected lead to be one of I, II"):
        plot_ecg(make_record(steps()), layout="full-disclosure", lead="X")
    with pytest.raises(ValueError, match="row_seconds from 10 to 60, got 5"):
        plot_ecg(make_record(steps()), layout="full-disclosure", row_seconds=5)
    with pytest.raises(ValueError, match=r"in lines of 60 s at 254 dpi, got 80000 s.*record.crop"):
        plot_ecg(make_record(np.zeros((1, 80_000)), 1, leads=("II",)))


def test_caption_names_heart_rate_and_filter() -> None:
    ecg = simulate_ecg("sinus_rhythm", seed=0)
    record = EcgRecord(ecg.signal, 100, ecg.leads, filters="0.05-150 Hz $x$ " + "y" * 100)
    text = words(plot_ecg(record))[-1]
    assert f"{ecg.factors['heart_rate']:.0f} beats/min" in text
    assert "filter: 0.05-150 Hz $x$ yyy" in text and "…" in text and len(text) < 150
    assert "beats/min" not in words(plot_ecg(make_record(steps())))[-1]  # a square wave is no ECG


def test_records_show_themselves_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    ecg = simulate_ecg("atrial_fibrillation", seed=0)
    record = EcgRecord(ecg.signal, 100, ecg.leads, device="<script>", notes=("<b>",))
    assert record._repr_png_().startswith(b"\x89PNG")
    text = record._repr_html_()
    assert "data:image/png;base64," in text and "<script>" not in text and "<b>" not in text and DISCLAIMER in text
    assert f"{measure(record).heart_rate.value:.0f} 1/min" in text and "not given: no P wave" in text
    assert record.plot(layout="6x2", title="T").axes[0].texts
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert record._repr_png_() is None and "<img" not in record._repr_html_()


@given(duration=st.floats(1.0, 30.0), sampling_rate=st.sampled_from([100.0, 257.0, 500.0]))
@settings(max_examples=10, deadline=None)
def test_any_length_is_drawn_to_scale_and_completely(duration: float, sampling_rate: float) -> None:
    signal = steps(12, duration, sampling_rate)
    figure = plot_ecg(make_record(signal, sampling_rate))
    parts = traces(figure)
    assert parts["II"][1].shape[1] == signal.shape[1]
    columns = [parts[lead][0].shape[1] for lead in ("I", "aVR", "V1", "V4")]
    assert sum(columns) == signal.shape[1]
    width = figure.get_size_inches()[0] * MM_PER_INCH
    assert width >= 15 + 25 * signal.shape[1] / sampling_rate + 5 - 1e-6
    assert max(part[0].max() for lead in parts.values() for part in lead) < width


def test_fewer_samples_than_columns_are_drawn() -> None:
    record = make_record(np.eye(12, 2), 500.0)
    drawn = traces(plot_ecg(record))
    assert set(drawn) == set(STANDARD_LEADS)
    assert drawn["I"][0].shape[1] + sum(piece.shape[1] for lead in ("aVR", "V1", "V4") for piece in drawn[lead]) >= 2


def test_gaps_stay_gaps_and_a_dead_lead_is_named() -> None:
    signal = steps()
    signal[0, 50:120] = np.nan
    signal[1] = np.nan
    figure = plot_ecg(make_record(signal))
    trace = traces(figure)["I"][0][1]
    assert np.isnan(trace[50:120]).all() and np.isfinite(trace[120:]).all()
    assert words(figure).count("no signal") == 2  # in its place and in the rhythm strip


def test_constant_offset_is_left_out_and_nothing_else() -> None:
    signal = steps()
    shifted = signal + np.arange(12)[:, None]
    for lead, parts in traces(plot_ecg(make_record(shifted))).items():
        for part, original in zip(parts, traces(plot_ecg(make_record(signal)))[lead]):
            np.testing.assert_allclose(part, original)


def test_tall_complexes_get_room() -> None:
    low, high = (plot_ecg(make_record(size * steps())).get_size_inches()[1] for size in (1.0, 3.0))
    assert high > low
    figure = plot_ecg(make_record(3 * steps()))
    assert (
        max(part[1].max() for parts in traces(figure).values() for part in parts) < figure.get_size_inches()[1] * 25.4
    )


@pytest.mark.parametrize("dpi", [254.0, 127.0])
def test_png_has_the_size_of_the_paper(tmp_path: Path, dpi: float) -> None:
    path = tmp_path / "ecg.png"
    figure = plot_ecg(simulate_ecg("anterior_infarction", seed=1), path, title="Title", dpi=dpi)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = struct.unpack(">II", data[16:24])
    np.testing.assert_array_equal(pixels, np.rint(figure.get_size_inches() * dpi))
    assert pixels[0] == 270 * dpi / MM_PER_INCH
    physical = data.index(b"pHYs")
    per_metre = struct.unpack(">II", data[physical + 4 : physical + 12])
    np.testing.assert_allclose(per_metre, dpi / 0.0254, atol=1)  # a print at 100 % has 25 mm per second
    assert "Title" in words(figure)


def test_vector_formats(tmp_path: Path) -> None:
    record = simulate_ecg(seed=0)
    plot_ecg(record, tmp_path / "ecg.svg")
    plot_ecg(record, str(tmp_path / "ecg.pdf"))
    assert 'id="lead V1"' in (tmp_path / "ecg.svg").read_text() and (tmp_path / "ecg.pdf").read_bytes()[:5] == b"%PDF-"


def test_pyplot_and_its_backend_are_not_touched() -> None:
    import matplotlib.pyplot as plt

    before = matplotlib.get_backend(), plt.get_fignums(), dict(matplotlib.rcParams)
    figure = plot_ecg(make_record(steps()))
    assert (matplotlib.get_backend(), plt.get_fignums(), dict(matplotlib.rcParams)) == before
    assert type(figure.canvas) is FigureCanvasAgg


def test_absence_of_matplotlib_is_an_error_of_the_call_not_of_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    plotting = importlib.reload(sys.modules["modeling_merit.processing.plotting"])
    with pytest.raises(ImportError, match='pip install "matplotlib'):
        plotting.plot_ecg(make_record(steps()))


@pytest.mark.parametrize(
    "signal, options, message",
    [
        (
            steps(),
            {"layout": "4x3"},
            f"Expected layout to be one of {', '.join(LAYOUTS)}, full-disclosure, auto, got '4x3'".replace("+", r"\+"),
        ),
        (steps(), {"speed": 0}, "Expected speed to be a positive number, got 0"),
        (steps(), {"gain": -10}, "Expected gain to be a positive number"),
        (steps(), {"dpi": float("nan")}, "Expected dpi to be a positive number"),
        (steps().T, {}, r"got \(1000, 12\) and 12 names. Transpose"),
        (steps()[:, :0], {}, r"shape \(leads, samples\)"),
        (
            steps(duration=300.0),
            {"layout": "3x4"},
            r"at most 261 s at 25 mm/s and 254 dpi, got 300 s. .*record.crop.*full-disclosure",
        ),
    ],
)
def test_bad_input_is_named(signal: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_ecg(make_record(signal), **options)
