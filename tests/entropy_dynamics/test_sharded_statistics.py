"""Statistics of a vocabulary that is split over processes are those of the whole."""

import pytest
import torch
from torch import distributed
from torch.testing import assert_close

from entropy_dynamics.sharded_statistics import sharded_token_statistics
from entropy_dynamics.token_statistics import token_statistics

SHARDS = (slice(0, 30), slice(30, 41))  # the processes' words


def sample(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 6, 41, generator=generator, dtype=torch.float64)
    logits[0, 0, 30:] = -torch.inf  # one process has nothing but masked words there
    tokens = torch.randint(41, (4, 6), generator=generator)
    tokens[0, 0], tokens[1] = 3, 40
    return logits.to(dtype), tokens


def loss(log_prob):
    return (log_prob * torch.linspace(-1, 2, log_prob.numel(), dtype=log_prob.dtype).view(log_prob.shape)).sum()


def _process(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(SHARDS))

    def gather(x):
        parts = [torch.empty_like(x) for _ in SHARDS]
        distributed.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    found = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        logits, tokens = sample(dtype)
        part = logits[..., SHARDS[rank]].requires_grad_()
        statistics = sharded_token_statistics(
            part, tokens, SHARDS[rank].start, gather=gather, temperature=0.7, curvature=True
        )
        loss(statistics.log_prob).backward()
        found[dtype] = [x.detach() for x in statistics], part.grad
    errors = []
    for harm in ("token", "logits"):
        logits, tokens = sample(torch.float32)
        part = logits[..., SHARDS[rank]].clone()
        if harm == "token":
            tokens[2, 3] = 41
        elif rank == 0:
            part[2, 2, 5] = torch.nan
        try:
            sharded_token_statistics(part, tokens, SHARDS[rank].start, gather=gather)
        except ValueError as error:
            errors.append(str(error))
    torch.save((found, errors), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    torch.multiprocessing.spawn(_process, args=(str(folder),), nprocs=len(SHARDS))
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SHARDS))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_two_shards_give_the_statistics_of_the_whole(processes, dtype):
    logits, tokens = sample(dtype)
    logits.requires_grad_()
    whole = token_statistics(logits, tokens, temperature=0.7, curvature=True)
    loss(whole.log_prob).backward()
    close = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 2e-6, "atol": 2e-6}
    for found, _ in processes:
        for ours, theirs in zip(found[dtype][0], whole, strict=True):
            assert_close(ours, theirs.detach(), **close)
    first, second = (found[dtype][0] for found, _ in processes)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    gradient = torch.cat([found[dtype][1] for found, _ in processes], -1)
    near = close if dtype != torch.bfloat16 else {"rtol": 0.01, "atol": 1e-3}
    assert_close(gradient, logits.grad, **near)


def test_every_process_gets_the_error(processes):
    for _, errors in processes:
        assert errors[0] == "token 41 is in the vocabulary of 0 processes, expected one"
        assert "largest logit of a state is nan" in errors[1]


def test_one_process_with_either_way_to_gather():
    logits, tokens = sample(torch.float64)
    whole = token_statistics(logits, tokens)
    for gather in (lambda x: x, lambda x: x.unsqueeze(0)):  # joined, and stacked
        for ours, theirs in zip(sharded_token_statistics(logits, tokens, 0, gather=gather)[:4], whole):
            assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_what_does_not_fit_is_refused_by_name():
    logits, tokens = sample(torch.float32)
    for bad in (tokens[:, 1:], tokens[0], tokens.unsqueeze(-1)):
        with pytest.raises(ValueError, match=r"expected \(4, 6\): one token per state"):
            sharded_token_statistics(logits, bad, 0, gather=lambda x: x)
    with pytest.raises(ValueError, match="tokens must be integer vocabulary indices"):
        sharded_token_statistics(logits, tokens.float(), 0, gather=lambda x: x)
    with pytest.raises(ValueError, match="logits must be floating"):
        sharded_token_statistics(tokens.unsqueeze(-1), tokens, 0, gather=lambda x: x)
