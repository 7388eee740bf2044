"""Clip_B and Clip_V by hand, and the released reading against a loop written from its description."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entropy_dynamics.clipping import CLIP_B_MU, CLIP_V_MAX_FRACTION, CLIP_V_MU, clip_b, clip_v
from entropy_dynamics.token_statistics import TokenStatistics


def statistics(discriminator, baseline=0.0):
    s = torch.as_tensor(discriminator, dtype=torch.float64)
    return TokenStatistics(torch.zeros_like(s), torch.ones_like(s), s, torch.zeros_like(s) + baseline)


# S has mean 0 and population deviation sqrt(40 / 10) = 2 over the ten response tokens; the eleventh is behind the end.
S = torch.tensor([[5.0, -3.0, 0.0, 0.0, 0.0, 99.0], [-1.0, -1.0, -2.0, 0.0, 2.0, -99.0]])
MASK = torch.tensor([[True] * 5 + [False]] * 2)
NEGATIVE, POSITIVE = torch.tensor([[-1.0], [-1.0]]), torch.tensor([[1.0], [1.0]])


def masked(keep):
    return (MASK & ~keep).nonzero().tolist()


def test_clip_b_by_hand():
    deviation = math.sqrt((25 + 9 + 1 + 1 + 4 + 4) / 10)  # 2.098
    assert masked(clip_b(statistics(S), NEGATIVE, MASK, mu=1.0)) == [[0, 1]]  # -3 < -2.098
    assert masked(clip_b(statistics(S), NEGATIVE, MASK, mu=2.9 / deviation)) == [[0, 1]]
    assert masked(clip_b(statistics(S), NEGATIVE, MASK, mu=3.1 / deviation)) == []
    assert masked(clip_b(statistics(S), POSITIVE, MASK, mu=0.1)) == []  # rewarded tokens stay
    assert masked(clip_b(statistics(S), POSITIVE, MASK, mu=1.0, reading="two-sided")) == [[0, 0], [0, 1]]
    mixed = torch.tensor([[1.0], [-1.0]])
    assert masked(clip_b(statistics(S), mixed, MASK, mu=1.9 / deviation)) == [[1, 2]]
    shifted = clip_b(statistics(S + 7), NEGATIVE, MASK, mu=1.0)
    assert masked(shifted) == [[0, 1]]  # judged from the batch mean
    assert not clip_b(statistics(S), NEGATIVE, MASK, mu=1.0)[~MASK].any()


def test_clip_v_judges_from_zero_and_scales_by_the_centred_deviation():
    # D = S - 7: all far below zero, but their deviation about their mean is still 2.098
    keep = clip_v(statistics(S, baseline=7.0), NEGATIVE, MASK, mu=2.0)
    assert masked(keep) == [[i, j] for i, j in MASK.nonzero().tolist() if S[i, j] - 7 < -2 * 2.0976]
    assert masked(clip_v(statistics(S), NEGATIVE, MASK, mu=1.0)) == [[0, 1]]
    assert masked(clip_v(statistics(S), POSITIVE, MASK, mu=1.0)) == []
    assert masked(clip_v(statistics(S), POSITIVE, MASK, mu=1.0, reading="two-sided")) == [[0, 0], [0, 1]]


def test_the_cap_takes_the_worst_first_and_at_least_one():
    arguments = (statistics(S), NEGATIVE, MASK)
    assert masked(clip_v(*arguments, mu=0.4)) == [[0, 1], [1, 0], [1, 1], [1, 2]]
    assert masked(clip_v(*arguments, mu=0.4, max_fraction=0.2)) == [[0, 1], [1, 2]]
    assert masked(clip_v(*arguments, mu=0.4, max_fraction=0.39)) == [[0, 1], [1, 0], [1, 2]]  # the first of equals
    assert masked(clip_v(*arguments, mu=0.4, max_fraction=CLIP_V_MAX_FRACTION)) == [[0, 1]]


@pytest.mark.parametrize("clip", [clip_b, clip_v])
@pytest.mark.parametrize("reading", ["released", "two-sided"])
def test_without_spread_every_token_is_kept(clip, reading):
    for s in (torch.full((2, 6), 0.3), torch.full((2, 6), 0.3) + 1e-14 * S):
        assert torch.equal(clip(statistics(s), NEGATIVE, MASK, mu=1e-3, reading=reading), MASK)
    empty = torch.zeros(2, 6, dtype=torch.bool)
    assert torch.equal(clip(statistics(S), NEGATIVE, empty, mu=1.0, reading=reading), empty)


def released_by_loop(values, centre, advantages, mask, mu):
    """From the description of the released code: penalised tokens whose value is below minus mu deviations."""
    kept = [values[i][j] for i in range(len(values)) for j in range(len(values[i])) if mask[i][j]]
    mean = sum(kept) / len(kept)
    sigma = math.sqrt(sum((v - mean) ** 2 for v in kept) / len(kept))
    origin = mean if centre else 0.0
    return [
        [
            bool(mask[i][j] and not (advantages[i] < 0 and sigma >= 1e-12 and values[i][j] - origin < -mu * sigma))
            for j in range(len(values[i]))
        ]
        for i in range(len(values))
    ]


@given(seed=st.integers(0, 10**6), mu=st.floats(0.05, 4))
def test_the_released_readings_are_the_described_loops(seed, mu):
    generator = torch.Generator().manual_seed(seed)
    s, e, a = (torch.randn(n, generator=generator, dtype=torch.float64) for n in ((4, 7), (4, 7), (4, 1)))
    mask = torch.rand(4, 7, generator=generator) < 0.8
    mask[0, 0] = True
    values = (s.tolist(), (s - e).tolist())
    sides = (a.squeeze(-1).tolist(), mask.tolist(), mu)
    assert clip_b(statistics(s, e), a, mask, mu=mu).tolist() == released_by_loop(values[0], True, *sides)
    assert clip_v(statistics(s, e), a, mask, mu=mu).tolist() == released_by_loop(values[1], False, *sides)


@given(seed=st.integers(0, 10**6), mu=st.floats(0.5, 3))
def test_the_two_sided_reading_masks_what_the_released_one_does_and_more(seed, mu):
    generator = torch.Generator().manual_seed(seed)
    s, e, a = (torch.randn(n, generator=generator) for n in ((3, 5), (3, 5), (3, 1)))
    mask = torch.ones(3, 5, dtype=torch.bool)
    for clip in (clip_b, clip_v):
        released, both = (clip(statistics(s, e), a, mask, mu=mu, reading=r) for r in ("released", "two-sided"))
        assert not (both & ~released).any()
        assert not (~released & (a >= 0)).any()


def test_bad_input_is_named():
    for mu in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"mu is {mu}, expected a positive number"):
            clip_b(statistics(S), NEGATIVE, MASK, mu=mu)
    with pytest.raises(ValueError, match="unknown reading 'both'; choose from released, two-sided"):
        clip_v(statistics(S), NEGATIVE, MASK, mu=1, reading="both")
    with pytest.raises(ValueError, match="max_fraction is 0, expected above 0"):
        clip_v(statistics(S), NEGATIVE, MASK, mu=1, max_fraction=0)
    with pytest.raises(ValueError, match="expected a bool mask"):
        clip_b(statistics(S), NEGATIVE, MASK.float(), mu=1)
    with pytest.raises(ValueError, match=r"got torch.bool of \(5,\)"):
        clip_b(statistics(S), NEGATIVE, MASK[0, :5], mu=1)
    with pytest.raises(ValueError, match="not finite"):
        clip_b(statistics(S * torch.nan), NEGATIVE, MASK, mu=1)


@pytest.mark.parametrize("clip", [clip_b, clip_v])
def test_advantages_of_another_shape_are_refused_and_not_broadcast(clip):
    square, mask = statistics(torch.arange(4.0).view(2, 2)), torch.ones(2, 2, dtype=torch.bool)
    for shape in ((2,), (1, 2), (1, 1), (), (3, 1), (4, 2, 2)):
        with pytest.raises(ValueError, match=r"like the mask, or one a response.*unsqueeze"):
            clip(square, -torch.ones(shape), mask, mu=1.0)
    a = torch.tensor([[1.0], [-1.0]])
    assert torch.equal(clip(square, a, mask, mu=0.5), clip(square, a.expand(2, 2), mask, mu=0.5))


@pytest.mark.parametrize("clip", [clip_b, clip_v])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_advantages_that_are_not_finite_are_refused_where_they_count(clip, bad):
    a = NEGATIVE.repeat(1, 6)
    a[0, 5] = bad
    assert torch.equal(clip(statistics(S), a, MASK, mu=1.0), clip(statistics(S), NEGATIVE, MASK, mu=1.0))
    harmed = S.clone()
    harmed[0, 5] = bad  # a statistic of padding
    assert torch.equal(clip(statistics(harmed), a, MASK, mu=1.0), clip(statistics(S), NEGATIVE, MASK, mu=1.0))
    a[0, 0] = bad
    with pytest.raises(ValueError, match="advantages of some response tokens are not finite"):
        clip(statistics(S), a, MASK, mu=1.0)


def test_the_released_constants():
    assert (CLIP_B_MU, CLIP_V_MU, CLIP_V_MAX_FRACTION) == (2.5, 8.5, 1e-4)
