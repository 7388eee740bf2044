import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom

from companion.mathematics import batches, checks
from companion.mathematics.batches import VARIANTS, gain
from companion.provenance import ROOT

RIGHT = torch.tensor([1, 0, 0, 1, 0], dtype=torch.float64)


def policies(states, *, seed):
    return torch.randn(states, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def responses():
    tokens = pd.read_csv(ROOT / "data" / "lens_tokens.csv")
    return batches.response_table(tokens[tokens["update"] == 0])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_the_gain_is_that_of_all_groups(name, size):
    for z in policies(3, seed=size):
        rate = (z.softmax(-1) * RIGHT).sum().item()
        exact = batches.enumerated(VARIANTS[name], z, RIGHT, size)
        assert abs(exact["covariance"]) > 1e-4
        assert exact["mean_ad"] == pytest.approx(gain(VARIANTS[name], rate, size) * exact["covariance"], abs=1e-12)
        bias = batches.filtered_mean(rate, size) * exact["covariance"] if VARIANTS[name].filtered else 0.0
        assert exact["mean_d"] == pytest.approx(bias, abs=1e-12)


def test_another_scale_has_another_gain():
    (z,) = policies(1, seed=0)
    rate = (z.softmax(-1) * RIGHT).sum().item()
    exact = batches.enumerated(VARIANTS["standardised"], z, RIGHT, 4)
    population = dataclasses.replace(
        VARIANTS["standardised"], scale=lambda right, size: np.sqrt(right * (size - right)) / size
    )
    ratio = exact["mean_ad"] / exact["covariance"]
    assert gain(population, rate, 4) == pytest.approx(ratio * math.sqrt(4 / 3))


@pytest.mark.parametrize("name", ["mean only", "leave one out"])
def test_a_constant_scale_asks_nothing_of_the_rewards(name):
    (z,) = policies(1, seed=1)
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.7], dtype=torch.float64)
    exact = batches.enumerated(VARIANTS[name], z, rewards, 4)
    expected = {"mean only": 0.75, "leave one out": 1.0}[name] * exact["covariance"]
    assert exact["mean_ad"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.8])
@pytest.mark.parametrize("size", [2, 3, 8, 64])
def test_the_standardised_gain_as_a_mean_over_right_responses(rate, size):
    n = np.arange(size + 1)
    mean = (binom.pmf(n, size, rate) * np.sqrt(n * (size - n) * (size - 1) / size)).sum()
    expected = mean / (size * rate * (1 - rate))
    assert gain(VARIANTS["standardised"], rate, size) == pytest.approx(expected, rel=1e-12)


def test_gains_by_hand():
    standardised = VARIANTS["standardised"]
    assert gain(standardised, 0.3, 2) == pytest.approx(math.sqrt(0.5))  # one deviation of a mixed pair, whatever q is
    assert gain(standardised, 0.3, 3) == pytest.approx(2 / 3 / math.sqrt(1 / 3))
    assert gain(standardised, 1e-9, 8) == pytest.approx(7 / math.sqrt(8))  # one right response in eight
    assert gain(standardised, 0.3, 4000) == pytest.approx(1 / math.sqrt(0.21), rel=1e-3)
    assert gain(VARIANTS["mean only, filtered"], 0.5, 2) == pytest.approx(1.0)  # half of the pairs are mixed
    assert batches.chance_of_a_mixed_group(0.5, 3) == pytest.approx(0.75)
    assert batches.chance_of_a_mixed_group(1e-12, 8) == pytest.approx(8e-12, rel=1e-6)


def test_speeds():
    table = batches.gains([0.25], [4]).set_index("variant")
    assert list(table.index) == list(VARIANTS)
    assert table.speed["mean only"] == pytest.approx(0.75 * 0.25 * 0.75)


def test_responses_of_a_table_of_tokens():
    rows = [(0, 4, "a", 0, 0.1, 0.5), (0, 4, "a", 0, 0.2, 0.5), (0, 4, "a", 1, -0.4, -0.5), (0, 4, "b", 2, 0.3, 0.0)]
    tokens = pd.DataFrame(rows, columns=["seed", "step", "problem", "row", "centred", "advantage"])
    table = batches.response_table(tokens)
    assert table.total.tolist() == pytest.approx([0.3, -0.4])
    assert table.right.tolist() == [True, False]


def test_the_batch_mean_of_recorded_tokens_is_that_of_its_standardised_groups(responses):
    """Advantages are recorded with four digits, and with the released 1e-6 in their denominator."""
    recorded = (responses.advantage * responses.total).groupby([responses.seed, responses.step]).mean()
    whole = batches.subgroup_table(responses, [8])
    formula = whole[whole.variant == "standardised"].set_index(["seed", "step"]).formula
    np.testing.assert_allclose(recorded, formula, rtol=1e-3)
    population = formula * math.sqrt(8 / 7)
    assert (abs(recorded / population - 1) > 0.05).all()


def test_smaller_groups_of_recorded_responses(responses):
    first = responses[responses.problem.isin(responses.problem.unique()[:20])]
    table = batches.subgroup_table(first, [2, 4, 7])
    np.testing.assert_allclose(table.measured, table.formula, atol=1e-12)
    assert table.formula.abs().max() > 0.01
    wrong = table.formula * (1 - 1 / table["size"])
    assert not np.allclose(table.measured, wrong, atol=1e-3)


def test_a_batch_of_the_language_model_has_the_gain_of_its_groups():
    tokens = pd.read_csv(ROOT / "data" / "smollm2_tokens.csv").assign(seed=0, step=0)
    table = batches.response_table(tokens)
    cut = batches.subgroup_table(table, [2, 8])
    holds, line = checks.gain_of_responses(table, cut)
    assert holds and "1 batch within" in line
    wrong = table.assign(advantage=table["advantage"] * math.sqrt(8 / 7))
    assert not checks.gain_of_responses(wrong, cut)[0]
    assert not checks.gain_of_responses(table, cut.assign(measured=cut["measured"] + 1e-9))[0]
    assert not checks.gain_of_responses(table.assign(total=-table["total"]), cut)[0]


def test_the_gain_is_decided_on_all_groups(monkeypatch):
    assert checks.group_gain(policies(1, seed=0), RIGHT, [2, 3])[0]
    monkeypatch.setattr(batches, "filtered_mean", lambda rate, size: 0.0)
    assert not checks.group_gain(policies(1, seed=0), RIGHT, [2, 3])[0]
