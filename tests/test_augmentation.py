"""Augmentation: what changes, by how much, and what must not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_merit.processing.augmentation import augment_ecg

CALM = {"gain_jitter": 0.0, "wander_mv": 0.0, "noise_mv": 0.0, "lead_dropout": 0.0, "gap_probability": 0.0}


def signals(batch=4, leads=12, samples=1000):
    return np.random.default_rng(0).normal(size=(batch, leads, samples)).astype(np.float32)


def augment(ecgs, seed=0, **options):
    return augment_ecg(ecgs, np.random.default_rng(seed), sampling_rate=100, **(CALM | options))


def test_nothing_asked_for_nothing_changed():
    ecgs = signals()
    out, mask = augment(ecgs)
    assert np.array_equal(out, ecgs) and mask.all() and mask.shape == ecgs.shape


def test_the_generator_decides_and_the_input_stays():
    ecgs = signals()
    before = ecgs.copy()
    a, b, other = (augment_ecg(ecgs, np.random.default_rng(s), sampling_rate=100, crop_seconds=5) for s in (1, 1, 2))
    assert all(np.array_equal(x, y) for x, y in zip(a, b))
    assert not np.array_equal(a[0], other[0])
    assert np.array_equal(ecgs, before)
    assert a[0].dtype == np.float32 and a[1].dtype == bool


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1000), st.integers(0, 999))
def test_crops_are_the_same_part_of_all_leads(length, seed):
    samples = np.broadcast_to(np.arange(1000, dtype=np.float32), (3, 2, 1000))
    out, mask = augment(samples, seed, crop_seconds=length / 100)
    assert out.shape == mask.shape == (3, 2, length)
    assert (np.diff(out, axis=2) == 1).all()
    assert np.array_equal(out[:, 0], out[:, 1]) and 0 <= out.min() <= out.max() <= 999


def test_crops_reach_both_ends():
    ecgs = np.broadcast_to(np.arange(10, dtype=np.float32), (500, 1, 10))
    starts = augment(ecgs, crop_seconds=0.08)[0][:, 0, 0]
    assert np.unique(starts).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seconds", [10.5, 0.0, -1.0])
def test_impossible_crops_are_named(seconds):
    with pytest.raises(ValueError, match=rf"above 0 and at most 10.0 s, got {seconds} s"):
        augment(signals(), crop_seconds=seconds)


def test_gain_is_one_per_record_and_log_normal():
    ecgs = signals(batch=2000, leads=2, samples=10)
    gains = augment(ecgs, gain_jitter=0.1)[0] / ecgs
    assert np.ptp(gains, axis=(1, 2)).max() < 1e-5
    logs = np.log(gains[:, 0, 0])
    assert abs(logs.mean()) < 0.01 and logs.std() == pytest.approx(0.1, rel=0.1)


def test_wander_is_slow_and_small():
    wander = augment(np.zeros((200, 2, 3000)), wander_mv=0.1)[0].astype(float)
    assert 0.09 < np.abs(wander).max() <= 0.1
    # At most 0.5 Hz: the slope is at most 2π · 0.5 · 0.1 mV/s.
    assert np.abs(np.diff(wander, axis=2)).max() * 100 <= np.pi * 0.1 * 1.01
    assert not np.allclose(wander[:, 0], wander[:, 1])


def test_noise_is_white_and_small():
    noise = augment(np.zeros((400, 2, 1000)), noise_mv=0.02)[0].astype(float)
    deviation = noise.std(axis=(1, 2))
    assert deviation.max() < 0.021 and deviation.mean() == pytest.approx(0.01, rel=0.1)
    assert abs((noise[..., 1:] * noise[..., :-1]).mean() / (noise**2).mean()) < 0.01


def test_leads_are_lost_as_often_as_asked():
    _, mask = augment(np.zeros((4000, 12, 5)), lead_dropout=0.5)
    assert (mask == mask[:, :, :1]).all()
    kept = mask[:, :, 0].sum(axis=1)
    assert kept.min() >= 1
    # A record that is chosen keeps all 12 leads with probability 1/12: all 11 others survive a uniform rate.
    assert (kept < 12).mean() == pytest.approx(0.5 * 11 / 12, abs=0.03)
    assert set(np.unique(kept)) == set(range(1, 13))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 999))
def test_one_lead_always_stays(leads, seed):
    _, mask = augment(np.zeros((20, leads, 5)), seed, lead_dropout=1.0)
    assert mask.any(axis=(1, 2)).all()


def test_gaps_are_as_frequent_and_as_long_as_asked():
    _, mask = augment(np.zeros((4000, 3, 200)), gap_probability=0.3)
    assert np.array_equal(mask[:, 0], mask[:, 1]) and np.array_equal(mask[:, 0], mask[:, 2])
    missing = (~mask[:, 0]).sum(axis=1)
    edges = np.abs(np.diff(mask[:, 0].astype(int), axis=1)).sum(axis=1)
    assert missing.max() <= 101 and (edges <= 2).all()  # one gap, of at most half of the time
    with_gap = missing > 0
    assert with_gap.mean() == pytest.approx(0.3, abs=0.03)
    assert missing[with_gap].mean() == pytest.approx(50, rel=0.05)  # uniform up to 100 samples
    places = (~mask[:, 0]).any(axis=0).nonzero()[0]
    assert places.min() <= 2 and places.max() >= 198  # anywhere


def test_without_gaps_the_random_numbers_are_those_of_before():
    ecgs = signals()
    plain = augment_ecg(ecgs, np.random.default_rng(3), sampling_rate=100)
    with_gaps = augment_ecg(ecgs, np.random.default_rng(3), sampling_rate=100, gap_probability=1.0)
    assert np.array_equal(plain[0], with_gaps[0]) and not np.array_equal(plain[1], with_gaps[1])
    assert not (with_gaps[1] & ~plain[1]).any()
