"""What a trainer logs of a mask, by hand and over parts."""

import pytest
import torch

from entropy_dynamics.masking_log import masking_log
from entropy_dynamics.token_statistics import TokenStatistics

S = torch.tensor([[0.5, -0.1], [0.3, 9.0]], dtype=torch.float64)  # the last one is no response token
BASELINE = torch.tensor([[0.1, 0.1], [0.2, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True], [True, False]])
KEPT = torch.tensor([[True, True], [False, False]])
ADVANTAGES = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)


def statistics(rows=slice(None)):
    return TokenStatistics(torch.zeros_like(S[rows]), torch.zeros_like(S[rows]), S[rows], BASELINE[rows])


def test_by_hand():
    found = masking_log(statistics(), ADVANTAGES, MASK, KEPT)
    # D = 0.4, -0.2, 0.1 and A = 2, 2, -1: -A D = -0.8, 0.4, 0.1
    assert found["mean_s"] == pytest.approx(0.7 / 3) and found["mean_d"] == pytest.approx(0.1)
    assert found["sigma_d"] == pytest.approx((0.21 / 3 - 0.01) ** 0.5)
    assert found["sigma_s"] == pytest.approx((0.35 / 3 - (0.7 / 3) ** 2) ** 0.5)
    assert found["predicted_change_unmasked"] == pytest.approx(-0.1)
    assert found["predicted_change"] == pytest.approx(-0.4 / 3)
    assert found["cov_a_d"] == pytest.approx(0.1 - 1 * 0.1)
    assert found["masked_positive"] == 0 and found["masked_negative"] == 1


def log_of(rows, reduce):
    return masking_log(statistics(rows), ADVANTAGES[rows], MASK[rows], KEPT[rows], reduce=reduce)


def added_by(rows):
    """What a process with these rows would add to each sum."""
    added = []
    log_of(rows, lambda x: added.append(x) or x)
    return added


def test_a_process_with_a_part_logs_the_whole_batch():
    first, second = slice(0, 1), slice(1, 2)
    sums = iter([a + b for a, b in zip(added_by(first), added_by(second))])
    assert log_of(first, lambda x: next(sums)) == pytest.approx(masking_log(statistics(), ADVANTAGES, MASK, KEPT))


def test_no_response_tokens():
    nothing = torch.zeros_like(MASK)
    assert set(masking_log(statistics(), ADVANTAGES, nothing, nothing).values()) == {0.0}


@pytest.mark.parametrize("advantages", [ADVANTAGES.squeeze(-1), ADVANTAGES.expand(2, 3)])
def test_advantages_of_another_shape_are_refused(advantages):
    with pytest.raises(ValueError, match="advantages have shape"):
        masking_log(statistics(), advantages, MASK, KEPT)
