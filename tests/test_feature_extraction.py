"""MeritFeatureExtractor: rates, units, leads, lengths, NaN, normalisation, quality flags and refusals."""

import json
import math
import time
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import AutoProcessor

from modeling_merit import MeritConfig, MeritForEcgClassification
from modeling_merit.processing.feature_extraction_merit import MeritFeatureExtractor
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.record import EcgRecord
from modeling_merit.processing.signal_quality import record_quality

CHECKPOINT = Path(__file__).resolve().parent.parent / "hub_cards" / "merit-ecg"
LEADS = list(STANDARD_LEADS)
FACTS = {"sampling_rate": 100, "leads": LEADS, "units": "mV"}
# Offset and drift are left in, and 10 s are not padded: what went in can be compared.
Raw = partial(MeritFeatureExtractor, high_pass=None, patch_length=50)


def make_ecg(samples=1000, leads=12, seed=0):
    """Smooth noise of about 1 mV, (leads, samples), whose limb leads do not follow from each other."""
    noise = np.random.default_rng(seed).normal(size=(leads, samples + 20))
    return np.stack([np.convolve(row, np.ones(21) / 21, mode="valid") for row in noise]) * 2


def sine(rate, seconds=10.0, frequency=5.0, leads=1):
    return np.repeat(np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)[None], leads, axis=0)


@pytest.fixture(scope="module")
def extract():
    return Raw()


# --- what comes out -------------------------------------------------------------------------------------------------


def test_millivolts_in_the_order_of_the_model(extract):
    ecg = make_ecg()
    out = extract(ecg, **FACTS, return_tensors="pt")
    assert out["input_values"].dtype == torch.float32 and out["ecg_mask"].dtype == torch.bool
    np.testing.assert_allclose(out["input_values"][0], ecg, rtol=1e-6)
    assert out["ecg_mask"].all() and set(out) == {"input_values", "ecg_mask"}


def test_batches_lists_and_tensors_agree(extract):
    batch = np.stack([make_ecg(seed=i) for i in range(3)])
    expected = extract(batch, **FACTS)["input_values"]
    for same in (
        list(batch),
        tuple(batch),
        torch.from_numpy(batch),
        [torch.from_numpy(x) for x in batch],
        batch.tolist(),
    ):
        np.testing.assert_array_equal(extract(same, **FACTS)["input_values"], expected)
    one = extract(batch[0], **FACTS)["input_values"]
    np.testing.assert_array_equal(one, expected[:1])
    np.testing.assert_array_equal(extract(list(batch[0]), **FACTS)["input_values"], one)  # one array per lead


def test_a_record_carries_its_facts(extract):
    record = SimpleNamespace(signal=sine(500, leads=2), sampling_rate=500.0, leads=("II", "V1"))
    by_hand = extract(record.signal, sampling_rate=500, leads=["II", "V1"], units="mV")
    np.testing.assert_array_equal(extract(record)["input_values"], by_hand["input_values"])
    extract(record, sampling_rate=500, leads=["ii", "v1"], units="mv")  # saying the same again does not contradict
    for wrong in ({"sampling_rate": 100}, {"leads": ["V1", "II"]}, {"units": "uV"}):
        with pytest.raises(ValueError, match=f"is a record with {next(iter(wrong))}.*leave `{next(iter(wrong))}` out"):
            extract(record, **wrong)


def test_a_list_may_mix_rates_lengths_and_leads(extract):
    records = [
        SimpleNamespace(signal=sine(500, 5, leads=1), sampling_rate=500, leads=("V1",)),
        SimpleNamespace(signal=sine(100, 10, leads=2), sampling_rate=100, leads=("I", "II")),
        SimpleNamespace(signal=sine(500, 5, leads=1), sampling_rate=500, leads=("V1",)),
    ]
    out = extract(records, return_quality=True)
    assert out["input_values"].shape == (3, 12, 1000)
    assert out["ecg_mask"].sum(axis=(1, 2)).tolist() == [500, 6 * 1000, 500]
    np.testing.assert_array_equal(out["input_values"][0], out["input_values"][2])
    np.testing.assert_allclose(out["input_values"][1, 1], records[1].signal[1], atol=1e-6)
    assert [quality["sampling_rate"] for quality in out["quality"]] == [500, 100, 500]


def test_integers_of_the_ptb_xl_builder(extract):
    digital = (make_ecg() * 1000).astype(np.int16)
    out = extract(digital[None], sampling_rate=100, leads=LEADS, units="uV")
    np.testing.assert_allclose(out["input_values"][0], digital / 1000, rtol=1e-6)


# --- properties -----------------------------------------------------------------------------------------------------


@given(st.permutations(range(12)))
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_rows_does_not_matter(order):
    ecg, extract = make_ecg(300), MeritFeatureExtractor(normalization="record_zscore")
    shuffled = extract(ecg[list(order)], sampling_rate=100, leads=[LEADS[i].upper() for i in order], units="mV")
    np.testing.assert_array_equal(shuffled["input_values"], extract(ecg, **FACTS)["input_values"])


@given(st.sampled_from([("V", 1e-3), ("mV", 1.0), ("uV", 1e3), ("µV", 1e3), ("μV", 1e3), ("nV", 1e6), ("UV", 1e3)]))
@settings(deadline=None)
def test_the_unit_does_not_matter(unit):
    ecg, extract = make_ecg(300), MeritFeatureExtractor()
    scaled = extract(ecg * unit[1], sampling_rate=100, leads=LEADS, units=unit[0])
    np.testing.assert_allclose(scaled["input_values"], extract(ecg, **FACTS)["input_values"], rtol=1e-5, atol=1e-7)


@given(st.sets(st.sampled_from(LEADS), min_size=1), st.sampled_from(["none", "lead_zscore"]))
@settings(deadline=None, max_examples=40)
def test_present_leads_do_not_depend_on_absent_ones(present, normalization):
    ecg, extract = (
        make_ecg(300),
        MeritFeatureExtractor(normalization=normalization, derive_leads=False, patch_length=50),
    )
    rows = [i for i, lead in enumerate(LEADS) if lead in present]
    part = extract(ecg[rows], sampling_rate=100, leads=[LEADS[i] for i in rows], units="mV")
    whole = extract(ecg, **FACTS)["input_values"]
    np.testing.assert_allclose(part["input_values"][:, rows], whole[:, rows], atol=1e-5)
    assert part["ecg_mask"].all(axis=-1)[0].tolist() == [lead in present for lead in LEADS]
    assert not part["input_values"][~part["ecg_mask"]].any()


@given(arrays(np.float32, (2, 300), elements=st.floats(-5, 5, width=32)), st.sampled_from([100, 250]))
@settings(deadline=None, suppress_health_check=[HealthCheck.large_base_example, HealthCheck.data_too_large])
def test_derived_leads_obey_einthoven_and_goldberger(ecg, rate):
    ecg[:, 0] += 1  # so that no example is flat
    ecg = np.tile(ecg, (1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = MeritFeatureExtractor()(ecg, sampling_rate=rate, leads=["I", "II"], units="mV")
    values = dict(zip(LEADS, out["input_values"][0]))
    np.testing.assert_allclose(values["I"] + values["III"], values["II"], atol=1e-5)
    np.testing.assert_allclose(values["aVR"] + values["aVL"] + values["aVF"], 0, atol=1e-5)
    np.testing.assert_allclose(values["aVR"], -(values["I"] + values["II"]) / 2, atol=1e-5)
    assert out["ecg_mask"][0].any(axis=-1).tolist() == [True] * 6 + [False] * 6


@given(st.lists(st.integers(250, 700), min_size=1, max_size=5), st.sampled_from([1, 50, 64]))
@settings(deadline=None, max_examples=40)
def test_the_padding_mask_is_exact(lengths, patch_length):
    out = MeritFeatureExtractor(patch_length=patch_length)([make_ecg(n) for n in lengths], **FACTS)
    padded = -(-max(lengths) // patch_length) * patch_length
    expected = np.arange(padded) < np.array(lengths)[:, None, None]
    np.testing.assert_array_equal(out["ecg_mask"], np.broadcast_to(expected, (len(lengths), 12, padded)))
    assert not out["input_values"][~out["ecg_mask"]].any()


@given(
    st.sampled_from(
        [(500, 100), (360, 100), (1000, 100), (257, 100), (599.88, 100), (128, 100), (100, 250), (50, 100)]
    ),
    st.floats(0.2, 8.0),
    st.floats(-3.0, 3.0),
)
@settings(deadline=None, max_examples=60)
def test_resampling_keeps_amplitude_and_phase(rates, frequency, offset):
    rate, new_rate = rates
    out = Raw(sampling_rate=new_rate)(
        sine(rate, frequency=frequency) + offset, sampling_rate=rate, leads=["V1"], units="mV"
    )
    values, mask = out["input_values"][0, 6], out["ecg_mask"][0, 6]
    assert mask.sum() == 10 * new_rate
    inner = slice(new_rate // 2, 10 * new_rate - new_rate // 2)  # the filter has no signal beyond the ends
    expected = sine(new_rate, frequency=frequency)[0] + offset
    np.testing.assert_allclose(values[: 10 * new_rate][inner], expected[inner], atol=0.01)
    known = int((10 * rate - 1) / rate * new_rate) + 1  # what lies behind the last sample is a guess
    np.testing.assert_allclose(values[:known], expected[:known], atol=0.35)


@pytest.mark.parametrize("rate", [500, 360, 1000, 250, 599.88])
def test_five_hertz_after_resampling_in_numbers(extract, rate):
    values = extract(sine(rate), sampling_rate=rate, leads=["II"], units="mV")["input_values"][0, 1, 100:900]
    time_s = np.arange(100, 900) / 100
    phasor = 2 * np.mean(values * np.exp(-2j * np.pi * 5 * time_s))
    assert abs(phasor) == pytest.approx(1.0, abs=2e-3)
    assert np.angle(1j * phasor) == pytest.approx(0.0, abs=2e-3)


def test_frequencies_above_the_new_nyquist_are_removed(extract):
    values = extract(sine(500, frequency=80), sampling_rate=500, leads=["II"], units="mV")["input_values"][
        0, 1, 50:950
    ]
    assert np.abs(values).max() < 0.02  # 80 Hz would fold to 20 Hz


# --- lengths --------------------------------------------------------------------------------------------------------


def test_pad_pads_ecgs_along_time():
    extract = MeritFeatureExtractor(padding_value=-1.0)
    one, two = np.ones((12, 500), np.float32), np.full((12, 700), 2.0)
    mask = np.ones((12, 700), bool)
    mask[3] = False
    batch = extract.pad({"input_values": [one, two], "ecg_mask": [one > 0, mask]}, return_tensors="pt")
    assert batch["input_values"].shape == batch["ecg_mask"].shape == (2, 12, 700)
    assert batch["input_values"].dtype == torch.float32 and batch["ecg_mask"].dtype == torch.bool
    assert (batch["input_values"][0, :, 500:] == -1).all() and (batch["input_values"][0, :, :500] == 1).all()
    assert batch["ecg_mask"].sum(dim=2).tolist() == [[500] * 12, [700] * 3 + [0] + [700] * 8]
    single = [{"input_values": one[None]}, {"input_values": two[None]}]  # as from calls with one ECG
    assert extract.pad(single, pad_to_multiple_of=64, return_tensors="np")["input_values"].shape == (2, 12, 704)
    cut = extract.pad(single, padding="max_length", max_length=600, truncation=True, return_tensors="np")
    assert cut["input_values"].shape == (2, 12, 600) and cut["ecg_mask"].sum(axis=(1, 2)).tolist() == [6000, 7200]
    assert [item.shape for item in extract.pad(single, padding=False)["input_values"]] == [(12, 500), (12, 700)]
    with pytest.raises(ValueError, match="`max_length` with truncation=True"):
        extract.pad(single, truncation=True)


def test_pad_keeps_a_mask_wherever_it_stands(extract):
    """An ECG without one was recorded throughout."""
    ecg, mask = np.ones((12, 500), np.float32), np.zeros((12, 500), bool)
    mask[0] = True
    whole, partly = {"input_values": ecg}, {"input_values": ecg, "ecg_mask": mask}
    for items, expected in (([whole, partly], [6000, 500]), ([partly, whole], [500, 6000])):
        batch = extract.pad(items, return_tensors="np")
        assert batch["ecg_mask"].sum(axis=(1, 2)).tolist() == expected
        single = [{name: value[None] for name, value in item.items()} for item in items]
        assert extract.pad(single, return_tensors="np")["ecg_mask"].sum(axis=(1, 2)).tolist() == expected
    with pytest.raises(ValueError, match="Expected at least one ECG to pad, got none"):
        extract.pad([])


def test_shortest_and_longest(extract):
    assert extract(make_ecg(250), **FACTS)["ecg_mask"].sum() == 12 * 250
    assert extract(make_ecg(3000), **FACTS)["ecg_mask"].sum() == 12 * 3000
    with pytest.raises(ValueError, match=r"Expected 2.5 to 30 s, got 2.4 s \(240 samples at 100 Hz\) in ECG 1"):
        extract([make_ecg(1000), make_ecg(240)], **FACTS)
    with pytest.raises(ValueError, match=r"got 50 s .*truncation=True"):
        extract(make_ecg(5000), **FACTS)


def test_truncation_keeps_the_beginning(extract):
    ecg = make_ecg(5000)
    out = extract(ecg, **FACTS, truncation=True)["input_values"]
    np.testing.assert_allclose(out[0], ecg[:, :3000], rtol=1e-6)
    always = Raw(truncation=True, max_seconds=10)
    assert always(ecg, sampling_rate=500, leads=LEADS, units="mV")["input_values"].shape == (1, 12, 1000)
    with pytest.raises(ValueError, match="Expected 2.5 to 10 s"):
        always(ecg, **FACTS, truncation=False)


def test_ten_seconds_stay_ten_seconds_at_any_rate(extract):
    for rate in (128, 240, 257, 360, 599.88, 997.5):
        ecg = sine(rate, seconds=10)
        assert extract(ecg, sampling_rate=rate, leads=["I"], units="mV")["ecg_mask"].sum() == 1000


# --- NaN ------------------------------------------------------------------------------------------------------------


def test_nan_is_refused_by_default(extract):
    ecg = make_ecg()
    ecg[3, 10:20] = np.nan
    with pytest.raises(ValueError, match='ECG 1, lead aVR holds 10 NaN of 1000 samples.*nan_policy="mask"'):
        extract([make_ecg(), ecg], **FACTS)


def test_nan_interpolated(extract):
    ecg = make_ecg()
    holed = ecg.copy()
    holed[3, 10:20], holed[4, :5], holed[5, -5:] = np.nan, np.nan, np.nan
    out = extract(holed, **FACTS, nan_policy="interpolate")
    values = out["input_values"][0]
    np.testing.assert_allclose(values[3, 9:21], np.linspace(ecg[3, 9], ecg[3, 20], 12), rtol=1e-5)
    np.testing.assert_allclose(values[4, :5], ecg[4, 5], rtol=1e-6)
    np.testing.assert_allclose(values[5, -5:], ecg[5, -6], rtol=1e-6)
    assert out["ecg_mask"].all()


@pytest.mark.parametrize("normalization", ["none", "lead_zscore", "record_zscore"])
def test_nan_masked(normalization):
    ecg = make_ecg()
    ecg[3, 10:20] = np.nan
    out = Raw(normalization=normalization, nan_policy="mask")(ecg, **FACTS)
    np.testing.assert_array_equal(out["ecg_mask"][0], ~np.isnan(ecg))
    assert np.isfinite(out["input_values"]).all() and not out["input_values"][0, 3, 10:20].any()
    clean = ecg[3][~np.isnan(ecg[3])]
    if normalization == "lead_zscore":
        clean = (clean - clean.mean()) / clean.std()
        np.testing.assert_allclose(out["input_values"][0, 3][out["ecg_mask"][0, 3]], clean, atol=1e-4)


def test_a_masked_array_holds_nan_where_it_is_masked(extract):
    ecg = np.ma.masked_array(make_ecg(), mask=np.tile(np.arange(1000) < 7, (12, 1)))
    assert (~extract(ecg, **FACTS, nan_policy="mask")["ecg_mask"]).sum() == 12 * 7


@pytest.mark.parametrize("rate", [500, 360, 50])
def test_nan_does_not_spread_in_resampling(extract, rate):
    ecg = sine(rate, leads=2)
    ecg[0, 4 * rate : 5 * rate] = np.nan
    out = extract(ecg, sampling_rate=rate, leads=["V1", "V2"], units="mV", nan_policy="mask")
    masked = np.flatnonzero(~out["ecg_mask"][0, 6])
    assert masked.min() >= 398 and masked.max() <= 501 and len(masked) >= 100  # 4 s to 5 s, and at most two neighbours
    assert out["ecg_mask"][0, 7].all() and np.isfinite(out["input_values"]).all()


def test_a_lead_without_valid_samples_is_absent(extract):
    ecg = make_ecg()
    ecg[0] = np.nan
    for policy in ("mask", "interpolate"):
        out = extract(ecg, **FACTS, nan_policy=policy, return_quality=True)
        assert out["ecg_mask"][0].all(axis=-1).tolist() == [False] + [True] * 11
        assert out["quality"][0]["absent_leads"] == ["I"]
        assert out["quality"][0]["nan_fraction"] == pytest.approx(1 / 12)
    ecg[0, :500] = 0.1 * make_ecg(500, leads=1)
    assert extract(ecg, **FACTS, nan_policy="interpolate", return_quality=True)["quality"][0]["nan_fraction"] == 1 / 24
    with pytest.raises(ValueError, match="ECG 0 holds no valid sample"):
        extract(np.full((12, 1000), np.nan), **FACTS, nan_policy="mask")


def test_a_derived_lead_is_masked_where_its_sources_are(extract):
    ecg = make_ecg(leads=2)
    ecg[0, 100:150], ecg[1, 120:200] = np.nan, np.nan
    mask = extract(ecg, sampling_rate=100, leads=["I", "II"], units="mV", nan_policy="mask")["ecg_mask"][0]
    for lead in ("III", "aVR", "aVL", "aVF"):
        assert np.flatnonzero(~mask[LEADS.index(lead)]).tolist() == list(range(100, 200))


# --- conditioning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["none", "lead_zscore", "record_zscore"])
@pytest.mark.parametrize("high_pass", [0.5, 0.05, None])
def test_prepare_does_what_a_call_does(normalization, high_pass):
    """With complete ECGs at the rate of the model, of any number of dimensions."""
    extract = MeritFeatureExtractor(normalization=normalization, high_pass=high_pass, patch_length=1)
    batch = np.stack([make_ecg(700, seed=seed) + seed for seed in range(4)]).astype(np.float32)
    called = extract(batch, **FACTS)
    assert called["ecg_mask"].all()
    np.testing.assert_allclose(extract.prepare(batch), called["input_values"], atol=1e-6)
    nested = extract.prepare(batch.reshape(2, 2, 12, 700))
    np.testing.assert_allclose(nested.reshape(4, 12, 700), called["input_values"], atol=1e-6)
    assert nested.dtype == np.float32


@given(st.floats(-300, 300), st.floats(-5, 5), st.sampled_from([100, 250, 500]))
@settings(max_examples=30)
def test_offset_and_line_are_taken_off(offset, slope, rate):
    """An electrode offset of up to 300 mV, as IEC 60601-2-25 allows, and a steady drift change nothing."""
    ecg, extract = make_ecg(10 * rate), MeritFeatureExtractor()
    facts = FACTS | {"sampling_rate": rate}
    moved = ecg + offset + slope * np.arange(10 * rate) / rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 50 mV of drift are called implausible
        found, expected = (extract(one, **facts)["input_values"] for one in (moved, ecg))
    inner = slice(50, -50)  # resampling sees the ends of an offset
    np.testing.assert_allclose(
        found[..., inner], expected[..., inner], atol=5e-3 + 1e-3 * abs(slope) + 1e-4 * abs(offset)
    )


def test_the_saved_cut_off_is_loaded(tmp_path):
    for high_pass in (0.67, None):
        MeritFeatureExtractor(high_pass=high_pass).save_pretrained(tmp_path)
        assert MeritFeatureExtractor.from_pretrained(tmp_path).high_pass == high_pass


def test_missing_samples_do_not_disturb_the_baseline(extract):
    """A gap is bridged before conditioning and masked after it, so that a large offset leaves no step."""
    ecg = make_ecg()
    holed = ecg + 200.0
    holed[3, 400:420] = np.nan
    conditioned = MeritFeatureExtractor(nan_policy="mask", patch_length=50)
    found, expected = conditioned(holed, **FACTS), conditioned(ecg, **FACTS)
    kept = found["ecg_mask"]
    assert (~kept).sum() == 20
    assert np.abs(found["input_values"] - expected["input_values"])[kept].max() < 0.3
    far = np.r_[0:200, 620:1000]
    np.testing.assert_allclose(found["input_values"][0, 3, far], expected["input_values"][0, 3, far], atol=0.02)


# --- normalisation --------------------------------------------------------------------------------------------------


def test_lead_zscore():
    values = Raw(normalization="lead_zscore")(make_ecg() + 3, **FACTS)["input_values"]
    np.testing.assert_allclose(values.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=-1), 1, atol=1e-5)


def test_record_zscore_keeps_the_proportions_of_the_leads():
    ecg = make_ecg()
    ecg[1] *= 4
    values = Raw(normalization="record_zscore")(ecg, **FACTS)["input_values"][0]
    assert values.mean() == pytest.approx(0, abs=1e-5) and values.std() == pytest.approx(1, abs=1e-5)
    assert values[1].std() / values[0].std() == pytest.approx(ecg[1].std() / ecg[0].std(), rel=1e-4)


@pytest.mark.parametrize("normalization", ["none", "lead_zscore", "record_zscore"])
def test_normalize_is_one_pass_over_any_batch(normalization):
    extract = MeritFeatureExtractor(normalization=normalization)
    batch = np.stack([[make_ecg(300, seed=3 * i + j) for i in range(2)] for j in range(3)])
    mask = np.random.default_rng(0).random(batch.shape) > 0.3
    whole, masked = extract.normalize(batch), extract.normalize(batch, mask)
    for index in np.ndindex(3, 2):
        np.testing.assert_allclose(whole[index], extract.normalize(batch[index]), atol=1e-6)
        np.testing.assert_allclose(masked[index], extract.normalize(batch[index], mask[index]), atol=1e-6)
    changed = np.where(mask, batch, np.nan)  # what stands at masked places takes no part
    np.testing.assert_array_equal(extract.normalize(changed, mask), masked)
    np.testing.assert_allclose(extract.normalize(batch, np.ones_like(mask)), whole, atol=1e-6)
    assert not masked[~mask].any()


def test_a_flat_lead_is_not_blown_up():
    ecg = make_ecg()
    ecg[2] = 0.5 + np.random.default_rng(0).choice([0, 1e-4], 1000)
    values = MeritFeatureExtractor(normalization="lead_zscore")(ecg, **FACTS)["input_values"]
    assert np.abs(values[0, 2]).max() < 1e-3


def test_padding_value_marks_everything_not_recorded():
    extract = MeritFeatureExtractor(padding_value=-9.0, nan_policy="mask")
    ecg = make_ecg(270, leads=1)
    ecg[0, 5] = np.nan
    out = extract(ecg, sampling_rate=100, leads=["V3"], units="mV")
    assert (out["input_values"][~out["ecg_mask"]] == -9.0).all() and out["ecg_mask"].sum() == 269


# --- without any signal ---------------------------------------------------------------------------------------------


def test_an_ecg_without_any_signal_is_refused_where_scores_are_shown(extract):
    flat = np.arange(12.0)[:, None] + np.zeros(1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert extract(flat, **FACTS)["ecg_mask"].all()  # training, embedding and controls take it
        strict = Raw(nan_policy="mask")
        strict.refuse_flat = True
        with pytest.raises(ValueError, match="ECG 1 holds no signal: .* got one value throughout each.* Check"):
            strict([make_ecg(), flat], **FACTS)
        absent = flat.copy()
        absent[3:] = np.nan  # flat where it was recorded
        with pytest.raises(ValueError, match="ECG 0 holds no signal"):
            strict(absent, **FACTS)
        absent[2] += 0.001 * make_ecg(leads=1)[0]
        assert strict(absent, **FACTS)["ecg_mask"][0, :3].all()


# --- quality --------------------------------------------------------------------------------------------------------


def quality_of(ecg, leads=LEADS, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts = {**FACTS, "leads": leads, **changes}
        return MeritFeatureExtractor(nan_policy="mask")(ecg, **facts, return_quality=True)["quality"][0]


def test_quality_of_a_clean_recording():
    ecg = sine(100, leads=12)
    ecg[2] = ecg[1] - ecg[0]
    quality = quality_of(ecg)
    assert quality["peak_to_peak_mv"] == pytest.approx(2.0, abs=1e-3)
    assert quality["einthoven_residual_mv"] == pytest.approx(0, abs=1e-6)
    assert quality["duration_s"] == 10 and quality["sampling_rate"] == 100 and quality["nan_fraction"] == 0
    assert quality["flat_leads"] == ["III"] and quality["clipped_leads"] == []
    assert quality["derived_leads"] == [] and quality["absent_leads"] == [] and quality["limb_lead_reversal"] is False


def test_quality_flags():
    ecg = make_ecg()
    ecg[2] = ecg[1] - ecg[0]
    ecg[2, 500] += 0.3
    ecg[7] = 0.123
    ecg[8] = np.clip(3 * ecg[8], -0.4, 0.4)
    ecg[9, :100] = np.nan
    quality = quality_of(ecg)
    assert quality["einthoven_residual_mv"] == pytest.approx(0.3, abs=1e-5)
    assert quality["flat_leads"] == ["V2"] and quality["clipped_leads"] == ["V3"]
    assert quality["nan_fraction"] == pytest.approx(100 / 12_000)
    partial = quality_of(make_ecg(leads=3), leads=["V5", "I", "II"])
    assert partial["derived_leads"] == ["III", "aVR", "aVL", "aVF"] and partial["einthoven_residual_mv"] is None
    assert partial["absent_leads"] == ["V1", "V2", "V3", "V4", "V6"]
    assert quality_of(make_ecg(leads=1), leads=["V5"])["limb_lead_reversal"] is None


def test_quality_says_nothing_of_leads_that_were_not_recorded():
    ecg = make_ecg()
    ecg[0] = np.nan
    quality = quality_of(ecg)
    assert quality["einthoven_residual_mv"] is None and quality["limb_lead_reversal"] is None
    assert "I" in quality["absent_leads"] and quality["flat_leads"] == []
    beat = np.maximum(sine(100, frequency=1.3)[0], 0) ** 15
    ecg = np.outer([1.0, 1.2, 0.2, -1.1, 0.4, 0.7, -0.8, -0.4, 0.2, 0.9, 1.3, 1.1], beat)
    half = ecg.shape[1] // 2
    ecg[:6, half:], ecg[6:, :half] = np.nan, np.nan  # first limb leads, then chest leads
    assert quality_of(ecg)["limb_lead_reversal"] is False and quality_of(ecg)["einthoven_residual_mv"] < 1e-5
    ecg[:2] *= -1
    assert quality_of(ecg)["limb_lead_reversal"] is True


def test_limb_lead_reversal_is_suspected():
    beat = np.maximum(sine(100, frequency=1.3)[0], 0) ** 15
    ecg = np.outer([1.0, 1.2, 0.2, -1.1, 0.4, 0.7, -0.8, -0.4, 0.2, 0.9, 1.3, 1.1], beat)
    assert quality_of(ecg)["limb_lead_reversal"] is False
    reversed_leads = ecg.copy()
    reversed_leads[0], reversed_leads[1], reversed_leads[2] = -ecg[0], ecg[2], ecg[1]
    reversed_leads[3], reversed_leads[4] = ecg[4], ecg[3]
    assert quality_of(reversed_leads)["limb_lead_reversal"] is True
    assert quality_of(reversed_leads[:2] + 0.001, leads=["I", "II"])["limb_lead_reversal"] is True
    assert quality_of(ecg[:2], leads=["I", "II"])["limb_lead_reversal"] is False


@pytest.mark.parametrize(("scale", "units"), [(1000.0, "mV"), (1.0, "uV")])
def test_the_wrong_unit_is_warned_of(extract, scale, units):
    ecg = make_ecg() * scale
    with pytest.warns(
        UserWarning, match="Implausible amplitude in 1 of 2 ECGs.*mV in ECG 1. Probably `units` is wrong"
    ):
        extract([make_ecg() * (1000 if units == "uV" else 1), ecg], sampling_rate=100, leads=LEADS, units=units)


def test_a_plausible_amplitude_is_not_warned_of(extract):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract(make_ecg(), **FACTS)


@pytest.mark.real_data
def test_quality_on_ptb_xl(ptb_xl_dir):
    """In all of PTB-XL, 22 records break Einthoven's law by more than 0.05 mV, and one has a flat lead."""
    paths = sorted((ptb_xl_dir / "records100").glob("*/*.dat"))
    digital = np.stack([np.fromfile(path, "<i2").reshape(1000, 12).T for path in paths[:1000]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = MeritFeatureExtractor()(digital, sampling_rate=100, leads=LEADS, units="uV", return_quality=True)
    residuals = np.array([quality["einthoven_residual_mv"] for quality in out["quality"]])
    assert np.median(residuals) <= 0.0021 and (residuals > 0.05).mean() < 0.005
    assert np.mean([quality["limb_lead_reversal"] for quality in out["quality"]]) < 0.02
    reversed_leads = digital[:, [0, 2, 1, 4, 3, *range(5, 12)]].copy()
    reversed_leads[:, 0] *= -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = MeritFeatureExtractor()(reversed_leads, sampling_rate=100, leads=LEADS, units="uV", return_quality=True)
    assert np.mean([quality["limb_lead_reversal"] for quality in out["quality"]]) > 0.8


# --- saving ---------------------------------------------------------------------------------------------------------


def test_saved_alone_it_names_no_processor(tmp_path, capsys):
    """As it comes from a checkpoint with a processor, and goes into the folder of a classifier."""
    saved = json.loads((CHECKPOINT / "processor_config.json").read_text())["feature_extractor"]
    extractor = MeritFeatureExtractor.from_dict(saved)
    assert "AutoProcessor" in extractor.auto_map
    extractor.save_pretrained(tmp_path)
    alone = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert set(alone["auto_map"]) == {"AutoFeatureExtractor"}
    MeritForEcgClassification(MeritConfig.from_size("tiny").ecg_config).save_pretrained(tmp_path)
    for folder in (tmp_path, CHECKPOINT.with_name("merit-ecg-statements")):
        assert type(AutoProcessor.from_pretrained(folder)) is MeritFeatureExtractor
    assert "custom code" not in "".join(capsys.readouterr())  # which a terminal would be asked to run


def test_save_and_load(tmp_path):
    extract = MeritFeatureExtractor(
        normalization="record_zscore", nan_policy="mask", max_seconds=12.5, patch_length=25
    )
    extract.save_pretrained(tmp_path)
    loaded = MeritFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extract.to_dict()
    ecg = make_ecg(277)
    np.testing.assert_array_equal(loaded(ecg, **FACTS)["input_values"], extract(ecg, **FACTS)["input_values"])
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["leads"] == LEADS and saved["resample_window"] == ["kaiser", 5.0]
    changed = MeritFeatureExtractor.from_pretrained(tmp_path, normalization="lead_zscore", sampling_rate=500)
    assert (changed.normalization, changed.sampling_rate, changed.nan_policy) == ("lead_zscore", 500, "mask")
    with pytest.raises(ValueError, match="Expected `normalization` to be one of"):
        MeritFeatureExtractor.from_pretrained(tmp_path, normalization="zscore")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"normalization": "minmax"},
            "`normalization` to be one of 'none', 'lead_zscore', 'record_zscore', got 'minmax'",
        ),
        ({"nan_policy": "zero"}, "`nan_policy` to be one of"),
        ({"extra_leads": "ignore"}, "`extra_leads` to be one of"),
        ({"leads": ["I", "II"]}, "Pass feature_size=2"),
        ({"leads": ["I", "Q"], "feature_size": 2}, "Unknown lead 'Q'"),
        ({"min_seconds": 5, "max_seconds": 3}, "0 < min_seconds <= max_seconds"),
        ({"sampling_rate": 0}, "positive `sampling_rate`"),
        ({"patch_length": 0}, "positive `sampling_rate` and `patch_length`"),
        ({"high_pass": 0}, "`high_pass` above 0 and below half the sampling rate, or None, got 0"),
        ({"high_pass": 50.0}, "`high_pass` above 0 and below half the sampling rate, or None, got 50.0"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MeritFeatureExtractor(**fields)


def test_other_rows_than_the_twelve():
    extract = Raw(leads=["X", "V1"], feature_size=2)
    ecg = make_ecg(leads=2)
    out = extract(ecg, sampling_rate=100, leads=["v1", "x"], units="mV")["input_values"]
    np.testing.assert_allclose(out[0], ecg[::-1], rtol=1e-6)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_bare_arrays_need_their_facts(extract):
    with pytest.raises(ValueError, match="does not say its `sampling_rate`, `leads`, `units`. Pass them"):
        extract(make_ecg())
    with pytest.raises(ValueError, match="does not say its `units`"):
        extract(make_ecg(), sampling_rate=100, leads=LEADS)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"units": "adc"}, "`units` to be mV, uV, nV or V, got 'adc'. Divide ADC counts by the gain"),
        ({"units": 1000}, "`units` to be mV"),
        ({"sampling_rate": 0}, "one number from 10 to 100000 Hz, got 0"),
        ({"sampling_rate": 0.002}, "got 0.002"),  # the interval instead of the rate
        ({"sampling_rate": float("nan")}, "got nan"),
        ({"sampling_rate": "100 Hz"}, "got '100 Hz'"),
        ({"sampling_rate": [100, 500]}, r"got \[100, 500\]"),
        ({"leads": 12}, "`leads` to be a list of lead names, got 12"),
        ({"leads": [*LEADS[:-1], "Pleth"]}, "Unknown lead 'Pleth'"),
        ({"leads": [*LEADS[:-1], "V5"]}, "V5 more than once"),
        (
            {"leads": LEADS[:-1]},
            r"shape \(12, 1000\); expected .* \(11, samples\). Name as many `leads` as it has rows",
        ),
        ({"leads": [*LEADS[:-1], "X"]}, 'no row for X.*extra_leads="drop"'),
        ({"nan_policy": "zero"}, "`nan_policy` to be one of"),
    ],
)
def test_wrong_facts_are_refused(extract, facts, message):
    with pytest.raises(ValueError, match=message):
        extract(make_ecg(), **{**FACTS, **facts})


def test_extra_leads_can_be_dropped():
    extract, ecg = Raw(extra_leads="drop"), make_ecg(leads=4)
    with pytest.warns(UserWarning, match="dropped: X, V7"):
        out = extract(ecg, sampling_rate=100, leads=["X", "V1", "V7", "II"], units="mV")
    np.testing.assert_allclose(out["input_values"][0, [6, 1]], ecg[[1, 3]], rtol=1e-6)
    assert out["ecg_mask"].any(axis=-1).sum() == 2
    with pytest.raises(ValueError, match="no row for X, Y"):
        extract(make_ecg(leads=2), sampling_rate=100, leads=["X", "Y"], units="mV")


@pytest.mark.parametrize(
    ("ecg", "message"),
    [
        (make_ecg().T, r"\(1000, 12\).*It is \(samples, leads\): transpose it, `ecg.T`"),
        (make_ecg()[0], r"shape \(1000,\).*single lead as `ecg\[None\]`"),
        (make_ecg()[None, None], r"shape \(1, 1, 12, 1000\)"),
        ([make_ecg()[None], make_ecg()[None]], r"ECG 0 has shape \(1, 12, 1000\)"),
        (np.float32(1.0), r"shape \(\)"),
        (np.zeros((12, 0)), r"shape \(12, 0\).*none of them empty"),
        (np.zeros((0, 12, 1000)), "empty batch"),
        ([], "empty list"),
        (make_ecg().astype(complex), "dtype complex128; expected real numbers"),
        (make_ecg().astype(object), "dtype object"),
        (make_ecg() > 0, "dtype bool"),
        (make_ecg().astype(str), "expected real numbers"),
        ([[0.0, 1.0], [0.0]], "ragged"),
        ("00001_lr.hea", "is the path '00001_lr.hea'. Read it with `read_ecg`"),
        ({"signal": make_ecg()}, "dtype object"),
        (None, "dtype object"),
        (np.where(np.arange(1000) == 5, np.inf, make_ecg()), "lead I holds infinite values"),
        (make_ecg() * 1e300, "infinite values"),
    ],
)
def test_what_is_no_ecg_is_refused(extract, ecg, message):
    with pytest.raises(ValueError, match=message):
        extract(ecg, **FACTS)


# --- speed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("high_pass", "times"), [(None, 8), (0.5, 40)])
def test_a_training_batch_is_fast(high_pass, times):
    """256 records of PTB-XL size take 2 to 3 times as long as a plain division by the deviation, 11 to 13 times
    with drift taken off. Processor time, since the machine may be busy."""
    batch = (np.stack([make_ecg(seed=i) for i in range(8)] * 32) * 1000).astype(np.int16)
    extract = MeritFeatureExtractor(normalization="lead_zscore", high_pass=high_pass)

    def plainly():
        signal = batch.astype(np.float32) / 1000
        return (signal - signal.mean(-1, keepdims=True)) / signal.std(-1, keepdims=True)

    def seconds_of(function):
        start = time.process_time()
        function()
        return time.process_time() - start

    facts = {"sampling_rate": 100, "leads": LEADS, "units": "uV", "return_tensors": "pt"}
    pairs = [(seconds_of(lambda: extract(batch, **facts)), seconds_of(plainly)) for _ in range(5)]
    assert min(ours / plain for ours, plain in pairs) < times


@pytest.mark.parametrize("rate", [100, 360, 499.9, 512, 1000])
@pytest.mark.parametrize("names", [LEADS, ["II", "I", "V2"], ["I", "II", "V1", "X", "Y"], ["MLII", "V5"], ["X"]])
def test_quality_of_a_record_needs_no_feature_extractor(rate, names):
    """`record_quality`, which imports numpy alone, gives what the feature extractor gives, warnings included."""
    ecg = make_ecg(1000, len(names), seed=len(names))
    ecg[0, 100:200] = np.nan
    ecg[-1] = np.nan if len(names) > 2 else 0.0
    for signal in (ecg, ecg * 1000, np.full_like(ecg, np.nan)):
        record = EcgRecord(signal, rate, tuple(names))
        extractor = MeritFeatureExtractor(
            sampling_rate=round(rate), nan_policy="mask", extra_leads="drop", min_seconds=1e-6, max_seconds=math.inf
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                flags = extractor(record, return_quality=True)["quality"][0]
                notes = [str(warning.message) for warning in caught]
            except ValueError as error:
                flags, notes = None, [f"no quality flags: {error}"]
        assert record_quality(record) == (flags, notes)
        assert json.loads(json.dumps(flags)) == flags  # plain values


def test_quality_of_a_record_at_an_implausible_rate():
    flags, notes = record_quality(EcgRecord(make_ecg(100), 5, STANDARD_LEADS))
    assert flags is None and notes[0].startswith("no quality flags: Expected `sampling_rate`")
