"""The predictors beside the lens, by hand."""

import pytest
import torch

from companion.instruments.rivals import rivals
from entropy_dynamics.methods import Terms, TokenBatch
from entropy_dynamics.token_statistics import TokenStatistics


def test_rivals_by_hand():
    log_p = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]])  # the last one is no response token
    s = torch.tensor([[0.5, -0.25], [0.25, 7.0]])
    zero = torch.zeros_like(s)
    now = TokenStatistics(log_p, zero, s, zero)
    old = TokenStatistics(log_p - torch.tensor(2.0).log(), zero, s, zero)  # r = 2
    advantages = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    mask = torch.tensor([[True, True], [True, False]])
    batch = TokenBatch(now, old, advantages, zero, mask, torch.tensor([0, 0]))
    terms = Terms(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), zero)
    values = {name: value[mask].tolist() for name, value in rivals(batch, terms).items()}
    # c = 1 * 2 * 1 + 1, 0, 0.5 * 2 * -1; mean log p = -2
    assert values["dropped"] == [0, 1, 0]
    assert values["smaller"] == pytest.approx([-3, 0, -1])
    assert values["covariance"] == pytest.approx([-3 * 1, 0, 1 * -1])
    assert values["uncentred"] == pytest.approx([-3 * 0.5, 0, 0.25])


def test_a_token_with_any_coefficient_is_not_dropped():
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    statistics = TokenStatistics(zero, zero, zero, zero)
    batch = TokenBatch(statistics, statistics, one, zero, one.bool(), torch.tensor([0]))
    for terms, dropped in (((0, 0, 0), 1), ((1, 0, 0), 0), ((0, 1, 0), 0), ((0, 0, 1), 0)):
        assert rivals(batch, Terms(*(x * one for x in terms)))["dropped"].item() == dropped
