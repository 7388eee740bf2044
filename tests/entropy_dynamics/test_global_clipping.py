"""A batch that is split over processes is masked as if it were whole."""

import pytest
import torch
from torch import distributed

from entropy_dynamics import clipping
from entropy_dynamics.global_clipping import Moments, judged, keep, keep_all_but, moments
from entropy_dynamics.methods import largest
from entropy_dynamics.token_statistics import TokenStatistics

CASES = {
    "clip_b": {"method": "clip_b", "mu": 1.2},
    "clip_b two-sided": {"method": "clip_b", "mu": 1.5, "reading": "two-sided"},
    "clip_v": {"method": "clip_v", "mu": 1.2},
    "clip_v two-sided": {"method": "clip_v", "mu": 1.5, "reading": "two-sided"},
    "clip_v capped": {"method": "clip_v", "mu": 1.0, "max_fraction": 0.05},
}


def split_batch(seed=0):
    """Responses of two processes with unequal counts, lengths and spreads; many values of |D| tie."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = 24, 11
    spread = torch.where(torch.arange(rows) < 10, 0.25, 0.4).unsqueeze(-1)
    s = (spread * torch.randn(rows, columns, generator=generator)).double()
    d = (s - 0.1 * torch.rand(rows, columns, generator=generator)).mul(20).round() / 20
    advantages = torch.randn(rows, 1, generator=generator).expand(rows, columns).contiguous()
    lengths = torch.randint(1, columns + 1, (rows, 1), generator=generator)
    lengths[:10] = lengths[:10].clamp(min=8)
    mask = torch.arange(columns) < lengths
    return {"s": s, "d": d, "advantages": advantages, "mask": mask}


def statistics_of(batch):
    nothing = torch.zeros_like(batch["s"])
    return TokenStatistics(nothing, nothing, batch["s"], batch["s"] - batch["d"])


def whole(batch, *, method, mu, reading="released", max_fraction=None):
    arguments = (statistics_of(batch), batch["advantages"], batch["mask"])
    if method == "clip_b":
        return clipping.clip_b(*arguments, mu=mu, reading=reading)
    return clipping.clip_v(*arguments, mu=mu, reading=reading, max_fraction=max_fraction)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(5))
def test_one_process_masks_as_clipping_does(case, seed):
    batch = split_batch(seed)
    arguments = (statistics_of(batch), batch["advantages"], batch["mask"])
    options = dict(CASES[case])
    values = judged(options.pop("method"), arguments[0])
    for statistics in (arguments[0], values):  # all statistics, or what the method judges by alone
        found = keep(
            statistics=statistics,
            advantages=arguments[1],
            mask=arguments[2],
            batch=moments(values, arguments[2]),
            **CASES[case],
        )
        assert torch.equal(found, whole(batch, **CASES[case]))
    assert 0 < (batch["mask"] & ~found).sum() < batch["mask"].sum()


def test_moments_by_hand():
    found = moments(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]]))
    assert (found.tokens, found.mean, found.sigma) == (2, 2, 1)
    assert (Moments().tokens, Moments().mean, Moments().sigma) == (0, 0, 0)


def test_moments_of_parts_add_up_in_any_order():
    batch = split_batch()
    rows = torch.arange(24).split(5)
    parts = [moments(batch["s"][some] * 1e6**i, batch["mask"][some]) for i, some in enumerate(rows)]  # of unlike sizes
    forward, backward = sum(parts, Moments()), sum(reversed(parts), Moments())
    assert forward == backward and forward.sigma == backward.sigma
    assert (parts[0] + parts[1]) + parts[2] == parts[0] + (parts[1] + parts[2])
    every, one = batch["s"][batch["mask"]], moments(batch["s"], batch["mask"])
    together = sum((moments(batch["s"][some], batch["mask"][some]) for some in rows), Moments())
    assert one.mean == pytest.approx(every.mean().item(), rel=1e-14)
    assert one.sigma == pytest.approx(every.std(correction=0).item(), rel=1e-14)
    assert (together.mean, together.sigma) == pytest.approx((one.mean, one.sigma), rel=1e-14)


@pytest.mark.parametrize("case", [name for name in CASES if "capped" not in name])
def test_micro_batches_are_masked_as_the_whole_batch(case):
    batch, options = split_batch(), dict(CASES[case])
    method = options.pop("method")
    values = judged(method, statistics_of(batch))
    rows = torch.arange(24).split(7)
    every = sum((moments(values[some], batch["mask"][some]) for some in rows), Moments())
    found = [keep(method, values[r], batch["advantages"][r], batch["mask"][r], every, **options) for r in rows]
    assert torch.equal(torch.cat(found), whole(batch, **CASES[case]))


def test_nothing_is_masked_where_all_are_alike_or_nothing_is_there():
    s = torch.full((2, 3), 0.3, dtype=torch.float64)
    nothing = torch.zeros_like(s)
    alike = TokenStatistics(nothing, nothing, s, nothing)
    advantages, full, empty = -torch.ones(2, 1), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    for mask in (full, empty):
        for method in ("clip_b", "clip_v"):
            assert torch.equal(
                keep(method, alike, advantages, mask, moments(judged(method, alike), mask), mu=1.0), mask
            )


@pytest.mark.parametrize("value", [-0.1, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_rounding_of_the_sums_is_no_spread(tokens, dtype, value):
    d, mask = torch.full((1, tokens), value, dtype=dtype), torch.ones(1, tokens, dtype=torch.bool)
    every = moments(d, mask)
    assert every.sigma == 0
    for reading in ("released", "two-sided"):
        expected = clipping.clip_v(d, -torch.ones(1, 1), mask, mu=1.0, reading=reading)
        assert torch.equal(keep("clip_v", d, -torch.ones(1, 1), mask, every, mu=1.0, reading=reading), expected)
    spread = moments(1 + 1e-5 * torch.tensor([[-1.0, 1.0]], dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool))
    assert spread.sigma == pytest.approx(1e-5, rel=1e-4)


def test_a_part_does_not_take_the_whole_batchs_number_for_itself():
    batch = split_batch()
    d, advantages, mask = (batch[name][:10] for name in ("d", "advantages", "mask"))
    every = moments(batch["d"], batch["mask"])
    here, there = int(mask.sum()), int(batch["mask"].sum())
    with pytest.raises(ValueError, match=rf"{here} of the batch's {there} tokens are here.*put the parts"):
        keep("clip_v", d, advantages, mask, every, mu=1.0, max_fraction=0.05)
    with pytest.raises(ValueError, match=r"of the batch's .* pass gather"):
        keep_all_but("clip_v", 0.1, d, advantages, mask, reduce=lambda x: 2 * x)


SHARES = [(method, share) for method in ("clip_b", "clip_v") for share in (0.0, 0.03, 0.4, 1.0)]


def lowest_share(batch, method, share):
    penalised = batch["mask"] & (batch["advantages"] < 0)
    values = batch["s" if method == "clip_b" else "d"]
    return batch["mask"] & ~largest(-values, penalised, round(share * int(penalised.sum())))


@pytest.mark.parametrize(("method", "share"), SHARES)
def test_one_process_masks_the_lowest_share(method, share):
    batch = split_batch()
    found = keep_all_but(method, share, statistics_of(batch), batch["advantages"], batch["mask"])
    assert torch.equal(found, lowest_share(batch, method, share))
    penalised = batch["mask"] & (batch["advantages"] < 0)
    assert (penalised & ~found).sum() == round(share * int(penalised.sum()))
    for bad in ({"method": "clip_x"}, {"share": 1.1}, {"share": -0.1}):
        arguments = {"method": method, "share": share} | bad
        with pytest.raises(ValueError, match="expected clip_b or clip_v and 0 to 1"):
            keep_all_but(*arguments.values(), statistics_of(batch), batch["advantages"], batch["mask"])


def test_bad_input_is_named():
    batch = split_batch()
    arguments = (statistics_of(batch), batch["advantages"], batch["mask"])
    every = moments(batch["s"], batch["mask"])
    with pytest.raises(ValueError, match="'clip_x'"):
        keep("clip_x", *arguments, every, mu=1.0)
    with pytest.raises(ValueError, match="Clip_B has no cap"):
        keep("clip_b", *arguments, every, mu=1.0, max_fraction=0.1)
    of_responses = (arguments[0], batch["advantages"][:, 0], batch["mask"])
    with pytest.raises(ValueError, match="bool mask"):
        moments(batch["s"], batch["mask"].float())
    for method in ("clip_b", "clip_v"):
        with pytest.raises(ValueError, match="one a response"):
            keep(method, *of_responses, every, mu=1.0)
        with pytest.raises(ValueError, match="mu is 0"):
            keep(method, *arguments, every, mu=0)
        with pytest.raises(ValueError, match="unknown reading 'both'"):
            keep(method, *arguments, every, mu=1.0, reading="both")
    with pytest.raises(ValueError, match="max_fraction is 2"):
        keep("clip_v", *arguments, every, mu=1.0, max_fraction=2)
    with pytest.raises(ValueError, match="statistics of some response tokens are not finite"):
        moments(batch["s"] * torch.nan, batch["mask"])
    for method, field in (("clip_b", "discriminator"), ("clip_v", "baseline")):
        harmed = arguments[0]._replace(**{field: getattr(arguments[0], field) * torch.nan})
        with pytest.raises(ValueError, match="statistics of some response tokens are not finite"):
            keep(method, harmed, *arguments[1:], every, mu=1.0)
        with pytest.raises(ValueError, match="advantages of some response tokens are not finite"):
            keep(method, arguments[0], batch["advantages"] * torch.nan, batch["mask"], every, mu=1.0)


ROWS = (slice(0, 10), slice(10, 24))  # the processes' parts


def _total(x):
    total = x.clone()
    distributed.all_reduce(total)
    return total


def _stack(x):
    parts = [torch.empty_like(x) for _ in ROWS]
    distributed.all_gather(parts, x)
    return torch.stack(parts)


def _gather(x):
    return _stack(x).flatten()


def _process(rank, folder):
    """What each of two processes does: mask its part of the batch as a whole, and once by its own moments."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(ROWS))
    part = {name: tensor[ROWS[rank]] for name, tensor in split_batch().items()}
    arguments = (statistics_of(part), part["advantages"], part["mask"])
    found = {}
    for name, case in CASES.items():
        options = dict(case)
        method = options.pop("method")
        values, mask = judged(method, arguments[0]), part["mask"]
        every = moments(values, mask, reduce=_total)
        found[name] = keep(method, *arguments, every, gather=_gather, rank=rank, **options)
        options.pop("max_fraction", None)
        found[f"{name}, own moments"] = keep(method, *arguments, moments(values, mask), **options)
    for method, share in SHARES:
        collectives = {"reduce": _total, "gather": _gather, "rank": rank}
        found[f"{method} {share}"] = keep_all_but(method, share, *arguments, **collectives)
        stacked = keep_all_but(method, share, *arguments, **collectives | {"gather": _stack})
        assert torch.equal(stacked, found[f"{method} {share}"])
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes found, and the batch; their ranges of tokens are of unequal size."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(_process, args=(str(folder),), nprocs=len(ROWS))
    return split_batch(), [torch.load(folder / f"{rank}.pt") for rank in range(len(ROWS))]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_mask_what_one_would(two_processes, case):
    batch, found = two_processes
    expected = whole(batch, **CASES[case])
    assert torch.equal(torch.cat([part[case] for part in found]), expected)
    counts = [int(batch["mask"][rows].sum()) for rows in ROWS]
    assert counts[0] != counts[1]
    masked = [1 - part[case].sum().item() / count for part, count in zip(found, counts)]
    assert all(0.01 <= share <= 0.3 for share in masked), masked


@pytest.mark.parametrize(("method", "share"), SHARES)
def test_two_processes_mask_the_lowest_share_of_both(two_processes, method, share):
    batch, found = two_processes
    masked = torch.cat([part[f"{method} {share}"] for part in found])
    assert torch.equal(masked, lowest_share(batch, method, share))


@pytest.mark.parametrize("case", [name for name in CASES if "capped" not in name])
def test_moments_of_its_own_would_mask_others(two_processes, case):
    batch, found = two_processes
    own = torch.cat([part[f"{case}, own moments"] for part in found])
    assert (own != whole(batch, **CASES[case])).any()
