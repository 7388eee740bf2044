"""Every block of docs/own_loop.md runs, in the page's order, and gives what the whole batch would."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.testing import assert_close

from entropy_dynamics import theory
from entropy_dynamics.clipping import clip_b, clip_v
from entropy_dynamics.token_statistics import token_statistics

PAGE = Path(__file__).parents[2] / "docs" / "own_loop.md"
N, T, V, WIDTH = 6, 7, 11, 5
SHARDS = (0, 4, V)  # the words of two processes


def blocks():
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def given(rank):
    """What the page says that the loop has, as process `rank` of two has it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(V, WIDTH), nn.Linear(WIDTH, V, bias=False))
    with torch.no_grad():
        model[1].weight.mul_(4)  # far from uniform
    ids = torch.randint(V, (N, T + 1))
    tokens, mask = ids[:, 1:], torch.arange(T) < torch.tensor([7, 5, 6, 3, 7, 4]).unsqueeze(-1)
    logits = model(ids)[:, :-1].detach()
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return {
        **{"torch": torch, "model": model, "ids": ids, "tokens": tokens, "mask": mask, "logits": logits},
        "advantages": torch.tensor([1.0, -1.0, -0.5, -1.5, 0.5, -1.0]),
        "old_log_prob": log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1),
        "log_prob": log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1),
        **{"entropy": -(p * log_p).sum(-1), "sum_p2": (p * p).sum(-1), "sum_p2_log_p": (p * p * log_p).sum(-1)},
        **{"hidden": model[0](ids[:, :-1]), "head": model[1].weight},
        **{"rows": slice(3 * rank, 3 * rank + 3), "first": SHARDS[rank]},
        "own_logits": logits[..., SHARDS[rank] : SHARDS[rank + 1]].clone().requires_grad_(),
    }


def as_lists(x):
    """Statistics are tuples of a class; their tensors alone are written."""
    return [as_lists(y) for y in x] if isinstance(x, tuple | list) else x


def _process(rank, folder):
    """What each of two processes does with the page."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.compile = partial(torch.compile, backend="aot_eager")  # of no interest here, and slow: the code it makes
    names = given(rank)
    for block in blocks():
        weight = names["model"][1].weight
        weight.grad = None
        exec(block.replace("mu=3.0", "mu=0.8"), names)  # so small a batch has no tokens three deviations below
        if weight.grad is not None:
            names.setdefault("gradients", []).append(weight.grad)
    kinds = (torch.Tensor, tuple, list, float)
    found = {name: as_lists(x) for name, x in names.items() if isinstance(x, kinds) or name == "checkpoint"}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the page has made at its end, on each of two processes."""
    folder = tmp_path_factory.mktemp("page")
    torch.multiprocessing.spawn(_process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def whole(names):
    """S, D and advantages of the whole batch, by the definitions."""
    s = theory.discriminator(names["logits"]).gather(-1, names["tokens"].unsqueeze(-1)).squeeze(-1)
    return s, s - theory.expected_discriminator(names["logits"]), names["advantages"].unsqueeze(-1)


def test_the_loss_is_the_masked_one_and_has_a_gradient(page):
    names = page[0]
    s, _, advantages = whole(names)
    keep = clip_b(s, advantages, names["mask"], mu=0.8)
    assert 0 < (names["mask"] & ~keep).sum() < 10 and torch.equal(names["keep"], keep)
    assert_close(names["loss"], -(advantages * keep).sum() / names["mask"].sum())  # ratios are 1
    assert names["gradients"][0].abs().sum() > 0


def test_the_gradients_of_parts_add_up_to_that_of_the_whole(page):
    whole_batch, parts = page[0]["gradients"]
    assert_close(parts, whole_batch)


def test_from_ones_own_sums_the_masks_are_the_same(page):
    names = page[0]
    _, d, advantages = whole(names)
    assert torch.equal(names["keep_b"], names["keep"])
    keep = clip_v(d, advantages, names["mask"], mu=0.8)
    assert torch.equal(names["keep_v"], keep) and (names["mask"] & ~keep).any()


def test_the_cap_holds(page):
    penalised = page[0]["mask"] & (page[0]["advantages"].unsqueeze(-1) < 0)
    assert page[0]["masked"] == 1 / penalised.sum() and penalised.sum() > 1  # max(1, floor(0.05 n)) of 32 tokens


def test_parts_are_masked_as_the_whole_batch(page):
    assert torch.equal(torch.cat(page[0]["keeps"]), page[0]["keep"])
    assert torch.equal(torch.cat([names["keep_here"] for names in page]), page[0]["keep"])
    assert_close(sum(page[0]["losses"]), page[0]["loss"])


def test_shards_capped_heads_and_packed_rows_are_the_plain_statistics(page):
    names = page[0]
    plain = token_statistics(names["logits"], names["tokens"])
    for rank in range(2):
        for ours, expected in zip(page[rank]["of_shards"][:4], plain):
            assert_close(ours, expected)
    capped = 30 * torch.tanh(0.5 * names["logits"] / 30)
    for ours, expected in zip(names["from_head"][:4], token_statistics(capped, names["tokens"])):
        assert_close(ours, expected)
    assert torch.equal(names["keep_packed"], names["keep"][names["mask"]])


def test_the_compiled_loss_is_the_loss(page):
    assert_close(page[0]["compiled_loss"], page[0]["loss"])


def test_the_target_masks_its_share_of_the_penalised_tokens(page):
    names = page[0]
    penalised = names["mask"] & (names["advantages"].unsqueeze(-1) < 0)
    assert 0 < names["share"] <= 0.2 and names["checkpoint"].keys() == {"integral"}
    assert (names["mask"] & ~names["keep_share"]).sum() == round(names["share"] * int(penalised.sum())) > 0


def test_every_block_is_seen():
    assert len(blocks()) == PAGE.read_text(encoding="utf-8").count("```python") == 10
