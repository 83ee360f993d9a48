"""The information identities behind the objective, in a linear-Gaussian world where each quantity has a closed form.

ECG X, report T = C X + noise and representation Z = W X + noise are jointly Gaussian, and T - X - Z is a Markov chain.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_merit.objective_merit import (
    contrastive_loss,
    random_masking,
    reconstruction_information,
    reconstruction_loss,
    text_information,
    word_information,
    word_loss,
)

seeds = st.integers(0, 2**32 - 1)
many = settings(max_examples=50, deadline=None)


def covariance(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random covariance matrix."""
    root = rng.standard_normal((size, size))
    return root @ root.T / size + 0.1 * np.eye(size)


def joint(cov_x: np.ndarray, *channels: tuple[np.ndarray, float]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Covariance of X and of A X + noise of the given variance for each channel, and the index set of each part."""
    maps = [np.eye(len(cov_x)), *(matrix for matrix, _ in channels)]
    stacked = np.vstack(maps)
    noise = [np.zeros(len(cov_x)), *(np.full(len(matrix), variance) for matrix, variance in channels)]
    ends = np.cumsum([len(matrix) for matrix in maps])
    parts = [np.arange(end - len(matrix), end) for end, matrix in zip(ends, maps)]
    return stacked @ cov_x @ stacked.T + np.diag(np.concatenate(noise)), parts


def conditional(cov: np.ndarray, given_part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    cross = cov[np.ix_(rest, given_part)]
    return cov[np.ix_(rest, rest)] - cross @ np.linalg.solve(cov[np.ix_(given_part, given_part)], cross.T)


def entropy(cov: np.ndarray) -> float:
    return 0.5 * (len(cov) * math.log(2 * math.pi * math.e) + np.linalg.slogdet(cov)[1])


def information(cov: np.ndarray, a: np.ndarray, b: np.ndarray, given_part: np.ndarray | None = None) -> float:
    """I(A;B) or I(A;B|C) in nats, as H(A) - H(A|B)."""
    if given_part is not None:
        cov, size = conditional(cov, given_part, np.concatenate([a, b])), len(a)
        a, b = np.arange(size), np.arange(size, len(cov))
    return entropy(cov[np.ix_(a, a)]) - entropy(conditional(cov, b, a))


@many
@given(seeds)
def test_chain_rule(seed):
    rng = np.random.default_rng(seed)
    cov, (x, t, z) = joint(covariance(6, rng), (rng.standard_normal((2, 6)), 0.5), (rng.standard_normal((3, 6)), 0.3))
    assert information(cov, z, x) == pytest.approx(information(cov, z, t) + information(cov, z, x, t), abs=1e-9)


def test_chain_rule_needs_the_markov_chain():
    """A representation that reads the report itself breaks the decomposition: the encoder never attends to text."""
    rng = np.random.default_rng(0)
    cov_x, report = covariance(6, rng), rng.standard_normal((2, 6))
    cov, (x, t) = joint(cov_x, (report, 0.5))
    leak = np.vstack([np.eye(8), np.hstack([rng.standard_normal((3, 6)), np.ones((3, 2))])])
    cov = leak @ cov @ leak.T + np.diag([0.0] * 8 + [0.3] * 3)
    z = np.arange(8, 11)
    assert information(cov, z, t) + information(cov, z, x, t) > information(cov, z, x) + 0.1


def gaussian_log_density(residual: np.ndarray, cov: np.ndarray) -> np.ndarray:
    quadratic = np.einsum("ni,ni->n", residual @ np.linalg.inv(cov), residual)
    return -0.5 * (quadratic + np.linalg.slogdet(2 * math.pi * cov)[1])


def test_barber_agakov_orders_decoders():
    rng = np.random.default_rng(1)
    cov_x, encoder = np.eye(5), rng.standard_normal((2, 5))
    cov, (x, z) = joint(cov_x, (encoder, 0.2))
    samples = rng.multivariate_normal(np.zeros(7), cov, size=200_000)
    mean = samples[:, z] @ np.linalg.solve(cov[np.ix_(z, z)], cov[np.ix_(z, x)])
    residual, worse_residual = samples[:, x] - mean, samples[:, x] - 0.5 * mean

    exact = entropy(cov_x) + gaussian_log_density(residual, conditional(cov, z, x)).mean()
    assert exact == pytest.approx(information(cov, z, x), abs=0.02)

    mse, worse_mse = (residual**2).mean(), (worse_residual**2).mean()
    isotropic = entropy(cov_x) + gaussian_log_density(residual, mse * np.eye(5)).mean()
    worse = entropy(cov_x) + gaussian_log_density(worse_residual, worse_mse * np.eye(5)).mean()
    assert worse + 0.1 < isotropic < exact - 0.1

    # What the model logs is the isotropic bound per sample of a white, standardised target.
    logged = [reconstruction_information(torch.tensor(value)).item() for value in (mse, worse_mse)]
    assert 5 * np.array(logged) == pytest.approx([isotropic, worse], abs=1e-6)


CORRELATIONS = torch.tensor([0.9, 0.7, 0.5])
TRUE_INFORMATION = -0.5 * torch.log(1 - CORRELATIONS**2).sum().item()  # 1.31 nats


def optimal_embeddings(pairs: int, seed: int, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of Gaussian pairs whose dot product is log p(z, t) / p(z) p(t), up to a constant."""
    generator = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(2, pairs, 3, generator=generator)
    t = CORRELATIONS * z + (1 - CORRELATIONS**2).sqrt() * noise
    gain = CORRELATIONS / (1 - CORRELATIONS**2)
    curvature = CORRELATIONS * gain / 2
    one = torch.ones(pairs, 1)
    ecg = torch.cat([sharpness * gain * z, -(curvature * z**2).sum(1, keepdim=True), one], dim=1)
    text = torch.cat([t, one, -(curvature * t**2).sum(1, keepdim=True)], dim=1)
    return ecg, text


def info_nce(batch_size: int, pairs: int = 8192, **options) -> float:
    ecg, text = optimal_embeddings(pairs, seed=0, **options)
    bounds = [
        text_information(contrastive_loss(u, v, torch.tensor(1.0)), batch_size)
        for u, v in zip(ecg.split(batch_size), text.split(batch_size))
    ]
    assert max(bounds) <= math.log(batch_size)
    return torch.stack(bounds).mean().item()


def test_info_nce_rises_to_the_information_with_the_batch():
    bounds = [info_nce(size) for size in (2, 8, 32, 512)]
    assert all(low + 0.05 < high for low, high in zip(bounds, bounds[1:]))
    assert bounds[-1] == pytest.approx(TRUE_INFORMATION, abs=0.05)
    assert max(bounds) <= TRUE_INFORMATION + 0.03  # three standard errors of 8192 pairs
    assert info_nce(512, sharpness=0.5) < bounds[-1] - 0.05


def test_signal_unique_features_are_invisible_to_alignment():
    """S is what the report is about, U the rest of the signal, which is hardly correlated with S."""
    cov_x = np.eye(6)
    cov_x[:3, 3:] = cov_x[3:, :3] = 0.02
    report, unique = np.eye(6)[:3], np.eye(6)[3:]
    cov, (x, t, z) = joint(cov_x, (report, 0.5), (report, 0.1))
    richer_cov, (_, _, richer_z) = joint(cov_x, (report, 0.5), (np.vstack([report, unique]), 0.1))
    assert information(richer_cov, richer_z, t) == pytest.approx(information(cov, z, t), rel=0.01)
    assert information(richer_cov, richer_z, x, t) > information(cov, z, x, t) + 3


@many
@given(seeds, st.sampled_from([0.25, 0.5, 0.75]))
def test_masked_bound_is_below_the_information_of_the_visible(seed, mask_ratio):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    masked = random_masking(torch.ones(1, 2, 8, dtype=torch.bool), mask_ratio).flatten().numpy()
    v, m = (~masked).nonzero()[0], masked.nonzero()[0]
    cov_x = covariance(16, rng)
    encoder = rng.standard_normal((3, len(v))) @ np.eye(16)[v]
    cov, (x, z) = joint(cov_x, (encoder, 0.2))
    posterior = conditional(cov, z, m)
    cov_m = cov[np.ix_(m, m)]
    mse = np.trace(posterior) / len(m)
    # The cross-entropy of the best isotropic decoder is that of white noise of its mean-square error.
    bound = entropy(cov_m) - entropy(mse * np.eye(len(m)))
    assert bound <= information(cov, z, m) + 1e-9
    assert information(cov, z, m) <= information(cov, v, m) + 1e-9
    assert entropy(cov_m) - entropy(posterior) == pytest.approx(information(cov, z, m), abs=1e-9)


def test_masked_modelling_rewards_redundancy_not_noise():
    time = np.arange(16)
    v, m = time[::2], time[1::2]
    redundant = 0.95 ** np.abs(time[:, None] - time)
    assert information(redundant, v, m) > 5
    assert information(np.eye(16), v, m) == pytest.approx(0, abs=1e-9)


def test_best_prediction_of_noise_is_zero_and_its_loss_one():
    patches = torch.randn(200, 4, 50, generator=torch.Generator().manual_seed(0))
    masked = torch.ones(200, 4, 50, dtype=torch.bool)
    loss = reconstruction_loss(torch.zeros_like(patches), patches, masked)
    assert loss.item() == pytest.approx(1, abs=1e-3)
    assert reconstruction_information(loss).item() == pytest.approx(0, abs=1e-3)


@many
@given(seeds)
def test_label_cap(seed):
    """I(Z;Y) ≤ I(T;Y) + I(Z;X|T), whatever is encoded and whatever the label is."""
    rng = np.random.default_rng(seed)
    report, label = rng.standard_normal((2, 6)), rng.standard_normal((1, 6))
    aligned, unique = report, rng.standard_normal((3, 6))
    for encoder in (aligned, np.vstack([aligned, unique])):
        cov, (x, t, y, z) = joint(covariance(6, rng), (report, 0.5), (label, 0.1), (encoder, 0.1))
        assert information(cov, z, y) <= information(cov, t, y) + information(cov, z, x, t) + 1e-9


def test_label_cap_binds_for_labels_that_reports_do_not_name():
    report, unique, label = np.eye(4)[:2], np.eye(4)[2:], np.eye(4)[2:3]
    aligned_cov, (x, t, y, z) = joint(np.eye(4), (report, 0.5), (label, 0.1), (report, 0.1))
    assert information(aligned_cov, t, y) == pytest.approx(0, abs=1e-9)
    assert information(aligned_cov, z, y) == pytest.approx(0, abs=1e-9)
    joint_cov, (x, t, y, z) = joint(np.eye(4), (report, 0.5), (label, 0.1), (np.vstack([report, unique]), 0.1))
    # y and its feature see the same unit variable, each with noise of variance 0.1.
    assert information(joint_cov, z, y) == pytest.approx(-0.5 * math.log(1 - (1 / 1.1) ** 2), abs=1e-9)
    assert information(joint_cov, z, y) <= information(joint_cov, z, x, t)


# A report whose words are signs: word w stands in it where a projection of the ECG, with noise, exceeds a threshold.
SIGNS = np.array([[1.0, 0.5, 0.0, 0.0], [0.0, 1.0, -1.0, 0.5], [0.3, 0.0, 0.2, 1.0]])
THRESHOLDS = np.array([0.5, -0.8, 1.5])
READER_NOISE, CODE_NOISE = 0.4, 0.3  # variances
ENCODER = np.array([[1.0, 0.2, 0.0, 0.3], [0.0, 0.8, -0.7, 0.0]])


def normal_cdf(values: np.ndarray) -> torch.Tensor:
    return torch.special.ndtr(torch.from_numpy(np.asarray(values)))


def binary_entropy(p: torch.Tensor) -> torch.Tensor:
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def worded_world() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weights from Z to the mean of every sign, its standard deviation given Z, that of the mean, and of the sign."""
    cov, (_, signs, z) = joint(np.eye(4), (SIGNS, READER_NOISE), (ENCODER, CODE_NOISE))
    weights = np.linalg.solve(cov[np.ix_(z, z)], cov[np.ix_(z, signs)])
    left = np.sqrt(np.diag(conditional(cov, z, signs)))
    total = np.sqrt(np.diag(cov[np.ix_(signs, signs)]))
    return weights, left, np.sqrt(total**2 - left**2), total


def information_of_words() -> np.ndarray:
    """I(Z;w) = H(w) - E H(w|Z) of every word: an integral over the mean of its sign, which is Gaussian."""
    _, left, spread, total = worded_world()
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(80)
    given_z = binary_entropy(normal_cdf((spread * nodes[:, None] - THRESHOLDS) / left)).numpy()
    conditional_entropy = node_weights @ given_z / node_weights.sum()
    return binary_entropy(normal_cdf(-THRESHOLDS / total)).numpy() - conditional_entropy


def draw_words(reports: int, seed: int = 0) -> tuple[np.ndarray, torch.Tensor]:
    """Representations and the words of their reports."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((reports, 4))
    z = x @ ENCODER.T + math.sqrt(CODE_NOISE) * rng.standard_normal((reports, 2))
    signs = x @ SIGNS.T + math.sqrt(READER_NOISE) * rng.standard_normal((reports, 3))
    return z, torch.from_numpy(signs > THRESHOLDS).float()


def word_bound(temperature: float = 1.0, columns: tuple[int, ...] = (0, 1, 2), blind: bool = False) -> float:
    """What training logs, in 400,000 reports, of the true posterior, or one too certain or too careful, or of none."""
    z, words = draw_words(400_000)
    weights, left, _, total = worded_world()
    odds = torch.logit(normal_cdf(-THRESHOLDS / total))
    logits = torch.logit(normal_cdf((z @ weights - THRESHOLDS) / left)) * temperature
    if blind:
        logits = odds.expand_as(logits)
    chosen = list(columns)
    return word_information(word_loss(logits[:, chosen], words[:, chosen]), odds[chosen]).item()


def test_the_word_bound_is_the_information_of_the_words_for_the_true_posterior():
    """To a Monte Carlo error of 0.002 nats a word, and below it for any other prediction."""
    exact = information_of_words()
    assert exact.min() > 0.02 and exact.max() > 0.15
    for word in range(3):
        assert word_bound(columns=(word,)) == pytest.approx(exact[word], abs=0.006)
    assert word_bound() == pytest.approx(exact.sum(), abs=0.01)
    for temperature in (0.5, 2.0):
        assert word_bound(temperature) < exact.sum() - 0.03
    assert word_bound(blind=True) == pytest.approx(0, abs=0.01)  # the frequencies of the words


def test_the_word_bound_counts_a_fact_once_for_every_word_that_tells_it():
    """So it may exceed I(Z;W): a word and its synonym have the information of one of them, and the bound is double."""
    one = word_bound(columns=(0,))
    assert word_bound(columns=(0, 0)) == pytest.approx(2 * one, abs=1e-4) and one > 0.1


def test_the_word_bound_is_not_capped_by_the_batch():
    """Ten words that Z tells exactly: 6.9 nats, where InfoNCE of two pairs stays below 0.69."""
    words = (torch.rand(2, 10, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    bound = word_information(word_loss(40 * (2 * words - 1), words), torch.zeros(10)).item()
    assert bound == pytest.approx(10 * math.log(2), abs=1e-4)
    embeds = torch.eye(2)
    assert text_information(contrastive_loss(embeds, embeds, torch.tensor(100.0)), 2).item() <= math.log(2) + 1e-6
