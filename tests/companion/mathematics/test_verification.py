import numpy as np
import pandas as pd
import pytest
import torch

from companion.mathematics.verification import (
    GRPO,
    SINGLE_LOGIT,
    agreement,
    agreement_table,
    band_table,
    change_table,
    log_log_slope,
    random_policies,
    remainder_table,
)
from entropy_dynamics import theory


@pytest.mark.parametrize("update", [SINGLE_LOGIT, GRPO])
def test_change_table_is_the_naive_recomputation(update):
    z, k = random_policies(7, 30, seed=0)
    table = change_table([(z[:4].float(), k[:4]), (z[4:].float(), k[4:])], update, [0.5, 0.01])
    assert len(table) == 14 and table.token.tolist() == 2 * list(range(7))
    z = z.float().double()
    p = z.softmax(-1)
    for step in (0.01, 0.5):
        delta = step * torch.nn.functional.one_hot(k, 30).double()
        if update is GRPO:
            delta -= step * p
        after = (z + delta).softmax(-1)
        exact = -(after * after.log()).sum(-1) + (p * p.log()).sum(-1)
        rows = table[table.step == step]
        np.testing.assert_allclose(rows.exact, exact, rtol=1e-9, atol=1e-13)
        h = -(p * p.log()).sum(-1)
        np.testing.assert_allclose(rows.entropy, h)
        np.testing.assert_allclose(rows.log_prob, p.log().gather(-1, k[:, None])[:, 0])
        s = np.exp(rows.log_prob) * (rows.entropy + rows.log_prob)
        expected = -step * (s - rows.baseline) if update is GRPO else -step * s
        np.testing.assert_allclose(rows.first_order, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("update", [SINGLE_LOGIT, GRPO])
@pytest.mark.parametrize("size", [2, 50])
def test_remainders_fall_with_the_right_order(update, size):
    table = remainder_table(update, [size], np.geomspace(1e-3, 1e-1, 5), states=30, seed=0)
    assert log_log_slope(table.step, table.change) == pytest.approx(1, abs=0.05)
    assert log_log_slope(table.step, table.first_order) == pytest.approx(2, abs=0.05)
    assert log_log_slope(table.step, table.second_order) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("update", [SINGLE_LOGIT, GRPO])
def test_wrong_twins_disagree(update):
    z, k = random_policies(200, 50, seed=0)
    agreements = agreement_table(change_table([(z, k)], update, [0.01]), update).set_index("prediction")
    assert agreements.r_squared["first order"] > 0.999
    wrong = agreements.filter(like="wrong", axis=0)
    assert ((wrong.r_squared < 0.9) | (wrong.sign_agreement < 0.97)).all()
    assert agreements.sign_agreement["first order"] > 0.98
    assert len(agreements) == 2 + len(update.wrong)


def test_agreement_by_hand():
    result = agreement(pd.Series([1.0, -1.0, 2.0]), pd.Series([1.0, 1.0, 4.0]))
    assert result.r_squared == pytest.approx(1 - 8 / 6)
    assert result.worst_error == pytest.approx(0.5)
    assert result.worst_relative_error == pytest.approx(2)
    assert result.sign_agreement == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="got 2 and 3"):
        agreement(pd.Series([1.0, 2.0]), pd.Series([1.0, 2.0, 3.0]))


def test_slope_of_a_power_law():
    assert log_log_slope([1, 10, 100], [5, 0.05, 0.0005]) == pytest.approx(-2)
    with pytest.raises(ValueError, match="positive"):
        log_log_slope([1, 2], [1, 0])


def test_band_table_adds_up_probability():
    z, _ = random_policies(5, 20, seed=1)
    table = band_table([z[:3], z[3:]])
    s, p = theory.discriminator(z), z.softmax(-1)
    baseline = (p * s).sum(-1)
    expected = [sum(p[r, i] for i in range(20) if 0 < s[r, i] < baseline[r]) for r in range(5)]
    np.testing.assert_allclose(table.mass, [float(x) for x in expected])
    np.testing.assert_allclose(table.baseline, baseline)
    assert table.mass.max() > 0


def test_random_policies_depend_on_the_seed_alone():
    z, k = random_policies(5, 8, seed=3)
    again, k_again = random_policies(5, 8, seed=3)
    assert torch.equal(z, again) and torch.equal(k, k_again)
    assert not torch.equal(z, random_policies(5, 8, seed=4)[0])
    assert theory.entropy(random_policies(200, 50, seed=0)[0]).std() > 0.5
