"""The probe against scikit-learn, its choice of C, and what it does with classes that cannot be trained."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from modeling_merit.processing.metrics.classification import metric_value
from modeling_merit.processing.probing.logistic_probe import DEFAULT_GRID, PRIOR_SCALES, fit_logistic, logistic_probe


def _data(seed=0, rows=900, width=12):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + 5
    z = (x - x.mean(0)) @ rng.normal(size=(width, 4)) / 10
    y = (z + rng.normal(size=z.shape) > [0, 0.5, 1.5, 3]).astype(int)
    return np.split(x, [500, 700]), np.split(y, [500, 700])


@pytest.mark.parametrize("c", [*DEFAULT_GRID, 100.0])
def test_fit_equals_scikit_learn(c):
    (train, _, test), (train_y, _, _) = _data()
    scaler = StandardScaler().fit(train)
    weights = fit_logistic(scaler.transform(train), train_y, c)
    for column in range(4):
        model = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(scaler.transform(train), train_y[:, column])
        np.testing.assert_allclose(weights[:-1, column], model.coef_[0], atol=1e-3)
        np.testing.assert_allclose(weights[-1, column], model.intercept_[0], atol=1e-3)


def test_probe_equals_scikit_learn_and_chooses_on_validation():
    (train, val, test), (train_y, val_y, _) = _data(1)
    result = logistic_probe(train, train_y, val, val_y, test)
    scaler = StandardScaler().fit(train)
    expected = {}
    for c in DEFAULT_GRID:
        models = [
            LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(scaler.transform(train), y) for y in train_y.T
        ]
        probabilities = [
            np.stack([k.predict_proba(scaler.transform(x))[:, 1] for k in models], 1) for x in (val, test)
        ]
        expected[c] = (metric_value("macro_auroc", val_y, probabilities[0]), *probabilities)
    for (c, scale), value in result.val_macro_auroc.items():
        assert scale == 0 and value == pytest.approx(expected[c][0], abs=1e-3)
    chosen, scale = max(result.val_macro_auroc, key=lambda choice: result.val_macro_auroc[choice])
    assert (result.c, result.prior_scale) == (chosen, scale)
    np.testing.assert_allclose(result.val_probabilities, expected[chosen][1], atol=1e-3)
    np.testing.assert_allclose(result.test_probabilities, expected[chosen][2], atol=1e-3)


def test_probe_does_not_depend_on_the_scale_of_features_or_on_constant_ones():
    (train, val, test), (train_y, val_y, _) = _data(2)
    scale = np.geomspace(1e-3, 1e3, train.shape[1])
    plain = logistic_probe(train, train_y, val, val_y, test)
    constant = [np.column_stack([x * scale - 7, np.full(len(x), 0.1)]) for x in (train, val, test)]
    scaled = logistic_probe(constant[0], train_y, constant[1], val_y, constant[2])
    np.testing.assert_allclose(scaled.test_probabilities, plain.test_probabilities, atol=1e-4)


def test_classes_that_cannot_be_trained_keep_their_only_label():
    (train, val, test), (train_y, val_y, _) = _data(3)
    train_y[:, 1], train_y[:, 2] = 0, 1
    result = logistic_probe(train, train_y, val, val_y, test)
    assert (result.test_probabilities[:, 1] == 0).all() and (result.test_probabilities[:, 2] == 1).all()
    assert metric_value("macro_auroc", val_y[:, 1:3], result.val_probabilities[:, 1:3]) == 0.5


def test_separable_data_converge_and_wrong_input_is_refused():
    x = np.linspace(-1, 1, 200)[:, None] * [1, 2, 3]
    y = (x[:, :1] > 0).astype(int)
    result = logistic_probe(x, y, x, y, x, grid=[1e-4, 1e4])
    assert metric_value("macro_auroc", y, result.test_probabilities) == 1
    with pytest.raises(ValueError, match="finite"):
        logistic_probe(np.where(x > 0.9, np.nan, x), y, x, y, x)
    with pytest.raises(ValueError, match="fit together"):
        logistic_probe(x, y[:-1], x, y, x)
    with pytest.raises(ValueError, match="validation labels"):
        logistic_probe(x, y, x, np.zeros_like(y), x)
    with pytest.raises(RuntimeError, match="converge"):
        fit_logistic(x, y, 1e4, max_steps=1)


def test_the_grid_is_left_when_validation_has_fallen_twice():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 60))
    y = (x[:, :1] + 3 * rng.normal(size=(160, 1)) > 0).astype(int)  # noise that large values of C fit
    found = logistic_probe(x[:100], y[:100], x[100:130], y[100:130], x[130:], grid=(1e-3, 1e-2, 1e-1, 1, 10, 100))
    assert [c for c, _ in found.val_macro_auroc] == [1e-3, 1e-2, 1e-1, 1, 10] and found.c == 1e-1
    clear = (x[:, :1] > 0).astype(int)
    found = logistic_probe(x[:100], clear[:100], x[:100], clear[:100], x[:1], grid=(1, 10, 100, 1000))
    assert [c for c, _ in found.val_macro_auroc] == [1, 10, 100, 1000]  # equal values are no fall


def test_a_prior_is_corrected_and_counts_where_labels_are_few():
    (train, val, test), (train_y, val_y, test_y) = _data(5)
    rng = np.random.default_rng(0)
    known = [y + rng.normal(scale=0.4, size=y.shape) for y in (train_y, val_y, test_y)]  # as of another classifier
    few = slice(0, 12)
    prior = [known[0][few] * 7 + 3, known[1] * 7 + 3, known[2] * 7 + 3]  # its scale does not count
    plain = logistic_probe(train[few], train_y[few], val, val_y, test)
    guided = logistic_probe(train[few], train_y[few], val, val_y, test, prior=prior)
    scores = [metric_value("macro_auroc", test_y, probe.test_probabilities) for probe in (plain, guided)]
    assert {scale for _, scale in guided.val_macro_auroc} == set(PRIOR_SCALES)
    assert plain.prior_scale == 0 < guided.prior_scale and scores[1] > scores[0] + 0.05
    unknown = [rng.normal(size=part.shape) for part in known]
    useless = logistic_probe(train, train_y, val, val_y, test, prior=unknown)
    assert useless.prior_scale == 0
    alone = logistic_probe(train, train_y, val, val_y, test)
    np.testing.assert_allclose(useless.test_probabilities, alone.test_probabilities, atol=1e-6)


def test_a_class_without_labels_keeps_the_order_of_its_prior():
    (train, val, test), (train_y, val_y, test_y) = _data(6)
    train_y = train_y.copy()
    train_y[:, 3] = 0
    prior = [y + np.random.default_rng(0).normal(scale=0.4, size=y.shape) for y in (train_y, val_y, test_y)]
    probe = logistic_probe(train, train_y, val, val_y, test, prior=prior)
    assert (probe.test_probabilities[:, 3].argsort() == prior[2][:, 3].argsort()).all()
    assert probe.test_probabilities[:, 3].mean() < 0.1
    assert (logistic_probe(train, train_y, val, val_y, test).test_probabilities[:, 3] == 0).all()


def test_offsets_shift_the_optimum():
    """The gradient of the penalised loss with the offset in it is zero."""
    (train, _, _), (train_y, _, _) = _data(7)
    x, offset = (train - train.mean(0)) / train.std(0), np.random.default_rng(0).normal(size=train_y.shape)
    weights = fit_logistic(x, train_y, 0.1, offset=offset)
    error = expit(x @ weights[:-1] + weights[-1] + offset) - train_y
    np.testing.assert_allclose(x.T @ error + weights[:-1] / 0.1, 0, atol=1e-2)
    np.testing.assert_allclose(error.sum(0), 0, atol=1e-2)


@pytest.mark.parametrize("spoil", [lambda prior: prior[:2], lambda prior: [p[:, :2] for p in prior], "nan"])
def test_a_prior_that_does_not_fit_is_refused(spoil):
    (train, val, test), (train_y, val_y, test_y) = _data(8)
    prior = [y.astype(float) for y in (train_y, val_y, test_y)]
    prior = [part * np.nan for part in prior] if spoil == "nan" else spoil(prior)
    with pytest.raises(ValueError, match="Expected finite prior scores of shapes"):
        logistic_probe(train, train_y, val, val_y, test, prior=prior)
