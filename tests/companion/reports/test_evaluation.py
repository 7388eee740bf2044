"""Estimators against enumeration and hand-computed values."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.reports import evaluation


@pytest.mark.parametrize("n", [1, 3, 6])
def test_pass_at_k_is_the_share_of_samples_of_k_that_hold_a_right_one(n):
    for c in range(n + 1):
        right = [i < c for i in range(n)]
        for k in range(1, n + 1):
            draws = list(combinations(right, k))
            assert evaluation.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_against_exact_integers(case):
    n, c, k = case
    value = evaluation.pass_at_k(n, c, k)
    assert value == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-9)
    assert 0 <= value <= 1


def test_pass_at_k_edges():
    assert evaluation.pass_at_k(32, np.array([0, 1, 32]), 32).tolist() == [0.0, 1.0, 1.0]
    assert evaluation.pass_at_k(32, 8, 1) == pytest.approx(0.25)
    for n, c, k, message in ((4, 1, 0, "k is 0"), (4, 1, 5, "k is 5"), (4, 5, 1, "c ranges"), (4, -1, 1, "c ranges")):
        with pytest.raises(ValueError, match=message):
            evaluation.pass_at_k(n, c, k)


def test_avg_by_hand():
    assert evaluation.avg_at_k(4, np.array([1, 4])).tolist() == [0.25, 1.0]


def test_histogram_by_hand():
    assert evaluation.pass_rate_histogram(2, np.array([0, 2, 2, 1])).tolist() == [0.25, 0.25, 0.5]
    for bad in ([], [3], [-1]):
        with pytest.raises(ValueError, match="counts from 0 to n = 2"):
            evaluation.pass_rate_histogram(2, np.array(bad, dtype=int))


def test_polarization():
    assert evaluation.polarization(np.array([0.0, 1.0, 1.0, 0.0])) == 1
    assert evaluation.polarization(np.array([0.3, 0.3])) == pytest.approx(0)
    assert evaluation.polarization(np.array([0.25, 0.75])) == pytest.approx(0.25)
    assert np.isnan(evaluation.polarization(np.zeros(3)))
    with pytest.raises(ValueError, match="within 0 to 1"):
        evaluation.polarization(np.array([0.5, 1.5]))


def test_t_interval_by_hand():
    mean, low, high = evaluation.t_interval([1.0, 2.0, 3.0])
    assert mean == 2 and high - mean == pytest.approx(4.302653 / 3**0.5) and mean - low == pytest.approx(high - mean)
    with pytest.raises(ValueError, match="two or more values, got 1"):
        evaluation.t_interval([1.0])


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):  # a crossed design: each problem is as hard under every seed
        scores = rng.normal(size=(8, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(8, 30))
        _, low, high = evaluation.bootstrap_interval(scores, resamples=200, seed=trial)
        covered += low < 0 < high
    assert 170 <= covered <= 198


def test_bootstrap_is_reproducible_and_refuses_bad_scores():
    scores = np.random.default_rng(0).random((3, 10))
    assert evaluation.bootstrap_interval(scores, seed=1) == evaluation.bootstrap_interval(scores, seed=1)
    mean, low, high = evaluation.bootstrap_interval(scores)
    assert low < mean == scores.mean() < high
    for bad in (np.zeros(3), np.zeros((0, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="scores must be finite"):
            evaluation.bootstrap_interval(bad)


def test_probability_of_improvement_by_hand():
    assert evaluation.probability_of_improvement([2, 3], [1, 3]) == (1 + 1 + 0 + 0.5) / 4
    assert evaluation.probability_of_improvement([1], [2]) == 0
    with pytest.raises(ValueError, match="got 0 and 1"):
        evaluation.probability_of_improvement([], [2])
