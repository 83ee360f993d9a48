"""Prompts, classical features, corruptions and class maps."""

import ast
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_merit.processing.benchmark.label_sets import class_names
from modeling_merit.processing.benchmark.prompts import (
    average_prompts,
    flatten_prompts,
    load_prompts,
    read_prompt_file,
)
from modeling_merit.processing.benchmark.shift import SEVERITIES, class_map, corrupt, to_concepts
from modeling_merit.processing.leads import LIMB_LEADS, STANDARD_LEADS
from modeling_merit.processing.metrics.classification import metric_value
from modeling_merit.processing.probing.classical_features import FEATURE_NAMES, classical_features, impute

TASKS = ("all", "diagnostic", "superclass", "subclass", "form", "rhythm", "cpsc2018", "csn")


def synthetic_ecg(rate=100.0, heart_rate=75.0, axis=60.0, seconds=10.0, qrs_scale=1.0, pr=0.16, jitter=0.0, seed=0):
    """Twelve leads (mV) of Gaussian waves, whose frontal axis, rate and intervals are known."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    beats = np.cumsum(60 / heart_rate * (1 + jitter * rng.uniform(-1, 1, 60))) - 0.3
    beats = beats[beats < seconds + 1]

    def wave(delay, width, height):
        return height * np.exp(-0.5 * ((time[:, None] - beats - delay) / width) ** 2).sum(1)

    p, t = wave(-pr, 0.02, 0.12), wave(0.28, 0.04, 0.3)
    qrs = wave(0, 0.018 * qrs_scale, 1.0)
    angle = np.deg2rad(axis)
    signals = {"I": qrs * np.cos(angle), "II": qrs * np.cos(angle - np.pi / 3)}
    signals = {lead: signal + 0.7 * p + 0.7 * t for lead, signal in signals.items()}
    for lead, (first, second) in LIMB_LEADS.items():
        signals[lead] = first * signals["I"] + second * signals["II"]
    for index, size in enumerate((-0.8, -0.4, 0.3, 1.2, 1.4, 1.0), start=1):
        signals[f"V{index}"] = size * qrs + 0.5 * p + t
    return np.stack([signals[lead] for lead in STANDARD_LEADS]) + rng.normal(scale=0.005, size=(12, len(time)))


def _feature(values, name):
    return float(values[FEATURE_NAMES.index(name)])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([100.0, 250.0, 500.0]), st.integers(45, 120), st.integers(-80, 170))
def test_rate_and_axis_are_measured_at_any_sampling_rate(rate, heart_rate, axis):
    values = classical_features(synthetic_ecg(rate, heart_rate, axis), rate)
    assert _feature(values, "heart_rate") == pytest.approx(heart_rate, rel=0.03)
    measured = np.rad2deg(np.arctan2(_feature(values, "qrs_axis_sin"), _feature(values, "qrs_axis_cos")))
    assert abs((measured - axis + 180) % 360 - 180) < 20
    assert _feature(values, "rr_cv") < 0.05


def test_features_follow_what_changes():
    base, wide, late, uneven = (
        classical_features(synthetic_ecg(250, **change), 250)
        for change in ({}, {"qrs_scale": 2.2}, {"pr": 0.24}, {"jitter": 0.3})
    )
    assert _feature(wide, "qrs_ms") > 1.4 * _feature(base, "qrs_ms")
    assert _feature(late, "pr_ms") - _feature(base, "pr_ms") == pytest.approx(80, abs=25)
    assert _feature(uneven, "rr_rmssd") > 0.1 > 0.02 > _feature(base, "rr_rmssd")
    assert _feature(base, "r_V5") == pytest.approx(1.4, abs=0.2)
    assert _feature(base, "sokolow_lyon_mv") == pytest.approx(0.8 + 1.4, abs=0.3)
    assert _feature(base, "r_V5") / _feature(
        classical_features(0.5 * synthetic_ecg(250), 250), "r_V5"
    ) == pytest.approx(2)


def test_missing_samples_and_leads():
    ecg = synthetic_ecg()
    gaps = ecg.copy()
    gaps[1, 200:203], gaps[7] = np.nan, np.nan
    values, whole = classical_features(np.stack([gaps, ecg]), 100)
    of_v2 = [name.endswith("_V2") for name in FEATURE_NAMES]
    assert np.isnan(values[of_v2]).all() and np.isfinite(whole).all()
    assert np.isfinite(values[~np.array(of_v2)]).mean() > 0.98
    assert _feature(values, "heart_rate") == pytest.approx(75, rel=0.03)
    for flat in (np.zeros((12, 1000)), np.full((12, 1000), np.nan)):
        nothing = classical_features(flat, 100)
        assert _feature(nothing, "beats") == 0 and np.isnan(_feature(nothing, "heart_rate"))
    train, test = impute(np.stack([whole, whole + 2]), values[None])
    assert np.isfinite(test).all() and test[0, of_v2].tolist() == pytest.approx((whole + 1)[of_v2].tolist(), rel=1e-6)


def test_bad_signals_are_refused():
    with pytest.raises(ValueError, match="12, samples"):
        classical_features(np.zeros((8, 1000)), 100)
    with pytest.raises(ValueError, match="2 s"):
        classical_features(np.zeros((12, 100)), 100)


@pytest.mark.slow
@pytest.mark.real_data
def test_features_of_real_records_tell_rhythms_apart(ptb_xl_dir):
    with open(ptb_xl_dir / "ptbxl_database.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["ecg_id"]) < 400]
    signals = np.stack([wfdb.rdrecord(str(ptb_xl_dir / row["filename_lr"])).p_signal.T for row in rows])
    values = classical_features(signals, 100)
    assert values.shape == (len(rows), len(FEATURE_NAMES)) and np.isfinite(values).mean() > 0.995
    assert 60 < np.nanmedian(values[:, FEATURE_NAMES.index("heart_rate")]) < 80
    codes = [ast.literal_eval(row["scp_codes"]) for row in rows]
    for code, name, sign in (("SBRAD", "heart_rate", -1), ("STACH", "heart_rate", 1), ("AFIB", "rr_rmssd", 1)):
        labels = np.array([[code in row] for row in codes]).astype(int)
        scores = sign * values[:, [FEATURE_NAMES.index(name)]]
        assert metric_value("macro_auroc", labels, np.nan_to_num(scores)) > 0.85


@pytest.mark.parametrize("task", TASKS)
def test_every_class_has_prompts_in_both_languages(task):
    for language in ("en", "de"):
        prompts = load_prompts(task, [language])
        assert list(prompts) == class_names(task)
        for name, texts in prompts.items():
            assert len(texts) >= 3 and len(set(texts)) == len(texts), name
            assert all(text == text.strip().lower() and 2 <= len(text) <= 120 for text in texts), name
    assert list(load_prompts(task)) == class_names(task)


def test_prompts_of_different_statements_differ():
    prompts = load_prompts("all")
    first = {name: texts[0] for name, texts in prompts.items()}
    assert len(set(first.values())) == 71
    german = {name: texts[0] for name, texts in load_prompts("all", ["de"]).items()}
    assert (
        len(set(german.values())) >= 70
    )  # LVH and its voltage criteria may share words, no two statements a first text
    assert german["CLBBB"] == "linksschenkelblock" and german["AFLT"] == "vorhofflattern"


def test_legacy_names_find_their_prompts():
    assert list(load_prompts("subclass", class_names=class_names("subclass", "legacy", "test")))[10] == "ISC"
    with pytest.raises(ValueError, match="XYZ"):
        load_prompts("rhythm", class_names=["SR", "XYZ"])
    with pytest.raises(ValueError, match="languages"):
        load_prompts("rhythm", ["sv"])
    with pytest.raises(ValueError, match="challenge2021"):
        load_prompts("challenge2021")


def test_prompt_files(tmp_path: Path):
    path = tmp_path / "prompts.json"
    path.write_text(
        json.dumps({"NST": "Non-specific ST changes", "LAFB": ["Left axis", " linksanteriorer Hemiblock "]})
    )
    prompts = read_prompt_file(path, ["LAFB", "NST_"])
    assert prompts == {"LAFB": ["left axis", "linksanteriorer hemiblock"], "NST_": ["non-specific st changes"]}
    with pytest.raises(ValueError, match="NORM"):
        read_prompt_file(path, ["NORM"])
    path.write_text(json.dumps({"NST": 3}))
    with pytest.raises(ValueError, match="JSON object"):
        read_prompt_file(path, ["NST_"])


@pytest.mark.real_data
@pytest.mark.parametrize("task", TASKS)
def test_ckepe_file_covers_every_task(task, data_dir):
    path = data_dir.parent / "protocol/merl/zeroshot/CKEPE_prompt.json"
    if not path.is_file():
        pytest.skip(f"no prompt file of the literature: {path}")
    assert list(read_prompt_file(path, class_names(task))) == class_names(task)


def test_averaged_prompts_are_unit_vectors():
    texts, owners = flatten_prompts(load_prompts("rhythm"))
    embeddings = np.random.default_rng(0).normal(size=(len(texts), 8)) * np.geomspace(1, 100, len(texts))[:, None]
    averaged = average_prompts(embeddings, owners)
    np.testing.assert_allclose(np.linalg.norm(averaged, axis=1), np.ones(12))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    mean = unit[owners == 3].mean(0)
    np.testing.assert_allclose(averaged[3], mean / np.linalg.norm(mean))


@pytest.mark.parametrize("kind", SEVERITIES)
def test_corruptions_are_repeatable_and_grow(kind):
    signals = np.stack([synthetic_ecg(seed=seed) for seed in range(3)]).astype(np.float32)
    assert np.array_equal(corrupt(signals, kind, 0, 100, [5, 6, 7]), signals)
    damage = []
    for severity in range(1, 6):
        corrupted = corrupt(signals, kind, severity, 100, [5, 6, 7])
        assert corrupted.shape == signals.shape and corrupted.dtype == signals.dtype
        alone = corrupt(signals[1:2], kind, severity, 100, [6])
        assert np.array_equal(corrupted[1], alone[0])
        damage.append(float(np.sqrt(((corrupted - signals) ** 2).mean())))
    assert damage[0] > 0
    if kind in ("noise", "baseline_wander", "lead_drop", "resampling"):
        assert damage == sorted(damage)
    if kind in ("noise", "baseline_wander"):
        assert not np.array_equal(
            corrupt(signals, kind, 3, 100, [5, 6, 7], seed=1), corrupt(signals, kind, 3, 100, [5, 6, 7])
        )
    if kind == "noise":
        assert damage == pytest.approx(list(SEVERITIES["noise"]), rel=0.05)


@pytest.mark.parametrize("severity", [3, 4])
def test_swapped_electrodes_keep_einthoven_and_goldberger(severity):
    signals = synthetic_ecg(axis=30)[None]
    signals[0, 2:6] = [w1 * signals[0, 0] + w2 * signals[0, 1] for w1, w2 in LIMB_LEADS.values()]
    one, two, three, avr, avl, avf = corrupt(signals, "lead_swap", severity, 100, [1])[0, :6]
    np.testing.assert_allclose(two - one, three, atol=1e-9)
    np.testing.assert_allclose([-(one + two) / 2, one - two / 2, two - one / 2], [avr, avl, avf], atol=1e-9)
    assert not np.allclose(one, signals[0, 0])


def test_class_maps_name_existing_classes_and_agree_in_both_directions():
    tasks = {"ptb_xl": "all", "cpsc2018": "cpsc2018", "csn": "csn", "challenge2021": "challenge2021"}
    for source, task in tasks.items():
        for target, other in tasks.items():
            mapping = class_map(source, target)
            assert set(mapping) <= set(class_names(task))
            assert {name for names in mapping.values() for name in names} <= set(class_names(other))
            back = class_map(target, source)
            assert all(name in back[image] for name, images in mapping.items() for image in images)
    assert len(class_map("cpsc2018", "ptb_xl")) == 9
    assert class_map("csn", "ptb_xl")["AF"] == ["AFLT"] and class_map("challenge2021", "ptb_xl")["AF"] == ["AFIB"]
    with pytest.raises(ValueError, match="cpsc2018"):
        class_map("ptbxl", "csn")


def test_scores_and_labels_meet_in_shared_concepts():
    names = class_names("all")
    scores = np.random.default_rng(0).random((4, 71))
    ours, concepts = to_concepts(scores, names, "ptb_xl", "csn")
    theirs, same = to_concepts(np.ones((4, 38), dtype=np.int8), class_names("csn"), "csn", "ptb_xl")
    assert concepts == same and ours.shape == theirs.shape and len(concepts) >= 20
    tachycardia = ours[:, concepts.index("supraventricular tachycardia")]
    assert (tachycardia == scores[:, [names.index("SVTAC"), names.index("PSVT")]].max(1)).all()


def test_package_data_carry_their_licence():
    folder = Path(__file__).parent.parent / "processing" / "benchmark"
    statements = json.loads((folder / "ptb_xl_statements.json").read_text(encoding="utf-8"))
    assert re.search("CC BY 4.0", statements["licence"]) and "Wagner" in statements["source"]
