"""Corruptions and the concepts that data sets have in common."""

import numpy as np
import pytest
from known_ecg import synthetic_ecg

from modeling_merit.processing.benchmark.label_sets import class_names, package_data
from modeling_merit.processing.benchmark.shift import SEVERITIES, corrupt, to_concepts
from modeling_merit.processing.leads import LIMB_LEADS


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
def test_reversed_leads_keep_einthoven_and_goldberger(severity):
    signals = synthetic_ecg(axis=30)[None]
    signals[0, 2:6] = [w1 * signals[0, 0] + w2 * signals[0, 1] for w1, w2 in LIMB_LEADS.values()]
    one, two, three, avr, avl, avf = corrupt(signals, "lead_reversal", severity, 100, [1])[0, :6]
    np.testing.assert_allclose(two - one, three, atol=1e-9)
    np.testing.assert_allclose([-(one + two) / 2, one - two / 2, two - one / 2], [avr, avl, avf], atol=1e-9)
    assert not np.allclose(one, signals[0, 0])


def test_class_maps_name_existing_classes():
    concepts = package_data("class_maps.json")["concepts"]
    tasks = {"ptb_xl": "all", "cpsc2018": "cpsc2018", "csn": "csn", "challenge2021": "challenge2021"}
    for data_set, task in tasks.items():
        used = [name for row in concepts.values() for name in row.get(data_set, ())]
        assert set(used) <= set(class_names(task)) and len(used) == len(set(used))
    with pytest.raises(ValueError, match="cpsc2018"):
        to_concepts(np.zeros((1, 1)), ["AF"], "ptbxl", "csn")


@pytest.mark.parametrize(
    "data_set, name, other, counterparts",
    [
        ("csn", "AF", "ptb_xl", ["AFLT"]),
        ("challenge2021", "AF", "ptb_xl", ["AFIB"]),
        ("cpsc2018", "VPC", "ptb_xl", ["PVC"]),
        ("csn", "SVT", "ptb_xl", ["SVTAC", "PSVT"]),
    ],
)
def test_equal_names_need_not_mean_the_same(data_set, name, other, counterparts):
    one, concept = to_concepts(np.ones((1, 1)), [name], data_set, other)
    others, concepts = to_concepts(np.ones((1, len(counterparts))), counterparts, other, data_set)
    assert concept == concepts and len(concept) == 1


def test_scores_and_labels_meet_in_shared_concepts():
    names = class_names("all")
    scores = np.random.default_rng(0).random((4, 71))
    ours, concepts = to_concepts(scores, names, "ptb_xl", "csn")
    theirs, same = to_concepts(np.ones((4, 38), dtype=np.int8), class_names("csn"), "csn", "ptb_xl")
    assert concepts == same and ours.shape == theirs.shape and len(concepts) >= 20
    tachycardia = ours[:, concepts.index("supraventricular tachycardia")]
    assert (tachycardia == scores[:, [names.index("SVTAC"), names.index("PSVT")]].max(1)).all()
