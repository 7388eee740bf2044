"""Contributions token by token: against the kernel's parts, against a kernel known by hand, and batch by batch."""

import numpy as np
import pandas as pd
import pytest
import torch

from companion.instruments import own_share
from companion.instruments.anatomy import in_float64
from companion.instruments.kernel import contributions
from companion.instruments.own_share import OwnShare, contributions_of_tokens, of_batch, of_parts, run_own_share
from companion.laboratory import experiment
from companion.laboratory.experiment import Experiment
from companion.laboratory.policies import WarmStart, build_policy
from companion.laboratory.rollout import response_logits, sample
from companion.puzzles import tasks
from companion.record import canonical
from entropy_dynamics import theory

START = WarmStart(width=16, layers=1, steps=0)
PROMPTS = torch.tensor([tasks.encode(problem.prompt) for problem in tasks.split(3).training[:3]])


@pytest.fixture
def laboratory():
    policy = in_float64(build_policy(START))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(3)
    generator = torch.Generator().manual_seed(0)
    settings = {"group_size": 2, "max_tokens": 4, "end": tasks.END, "temperature": 1.0}
    rollout = sample(policy, PROMPTS, generator=generator, **settings)
    coefficients = torch.randn(rollout.tokens.shape, generator=generator, dtype=torch.float64) * rollout.mask
    coefficients[2:4] = 0  # a group that does not count
    return policy, rollout, coefficients


def test_contributions_add_up_to_the_parts_that_the_kernel_has(laboratory):
    """The kernel's parts come from whole Jacobians and gradients of sums, not from differences."""
    policy, rollout, c = laboratory
    before = [parameter.clone() for parameter in policy.parameters()]
    everywhere = contributions(policy, rollout, c, states=1000, generator=torch.Generator().manual_seed(0))
    places = (c != 0).nonzero()
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    for (row, position), expected in zip(places.tolist(), everywhere):
        h = contributions_of_tokens(policy, rollout, c, row, position)
        parts = of_parts(h, row, position, 2)
        parts |= {"others": of_batch(h, parts)["others"]}
        size = h.abs().sum().item()
        assert all(parts[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5 * size) for name in parts)
        assert (h[c == 0] == 0).all()
    assert all((a == b).all() for a, b in zip(before, policy.parameters()))


def test_the_identity_as_kernel_by_hand(laboratory):
    """Only an output bias is trained, so that K(s, t) is the identity: every token moves every state like its own."""
    policy, rollout, c = laboratory
    bias = torch.nn.Parameter(torch.zeros(len(tasks.ALPHABET), dtype=torch.float64))
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    policy.lm_head.bias = bias
    policy.parameters = lambda: iter([bias])
    logits = response_logits(policy, rollout.prompts, rollout.tokens).detach()
    pushes = c.unsqueeze(-1) * theory.grpo_logit_update(logits, rollout.tokens, 1.0)
    row, position = (c != 0).nonzero()[3].tolist()
    expected = theory.first_order_change(logits[row, position].expand_as(pushes), pushes)
    h = contributions_of_tokens(policy, rollout, c, row, position)
    torch.testing.assert_close(h, expected, rtol=1e-5, atol=1e-8)


def test_a_smaller_batch_has_some_of_the_same_contributions(laboratory):
    policy, rollout, c = laboratory
    row, position = (c != 0).nonzero()[-1].tolist()
    whole = contributions_of_tokens(policy, rollout, c, row, position)
    part = contributions_of_tokens(policy, rollout.part(slice(1, 3)), c[2:], row - 2, position)
    torch.testing.assert_close(part, whole[2:], rtol=1e-6, atol=1e-9)


def test_sums_by_hand():
    h = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-4.0, 0.5]], dtype=torch.float64)
    parts = of_parts(h[:2], 1, 0, 2)
    assert parts == {"own": 3.0, "response": -1.0, "group": 3.0}
    assert of_batch(h, parts) == {"others": -3.5, "absolute": 11.5, "squares": 31.25}


def test_a_record_has_a_row_for_every_state_and_size(monkeypatch):
    monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids: sum(ids) % 2 == 0)
    asked = []
    original = own_share.contributions_of_tokens

    def spy(policy, rollout, coefficients, row, position):
        asked.append((h := original(policy, rollout, coefficients, row, position), coefficients))
        return h

    monkeypatch.setattr(own_share, "contributions_of_tokens", spy)
    config = OwnShare(experiment=Experiment(start=START, prompts=6, group_size=4), problems=(1, 3, 6), states=5)
    document = run_own_share(config, dict(build_policy(START).state_dict())).document
    assert canonical(document)
    states, batches = (pd.DataFrame(document[name]) for name in ("states", "batches"))
    assert len(states) == 5 and len(batches) == 15
    grid = batches.pivot(index="state", columns="problems")
    assert (
        (np.diff(grid.tokens) > 0).any() and (np.diff(grid.squares) >= 0).all() and (np.diff(grid.absolute) >= 0).all()
    )
    assert (grid.others[1].abs() < 1e-6 * grid.absolute[1]).all()  # its own problem alone
    assert (grid.squares[1] >= states.own**2 * (1 - 1e-6)).all()
    for state, (h, coefficients) in enumerate(asked):
        assert grid.tokens[6][state] == (coefficients != 0).sum()
        assert grid.squares[6][state] == pytest.approx(h.square().sum().item())
        total = states.loc[state, ["own", "response", "group"]].sum() + grid.others[6][state]
        assert total == pytest.approx(h.sum().item(), abs=1e-6 * grid.absolute[6][state])


def test_batches_that_the_rollout_cannot_give_are_refused():
    with pytest.raises(ValueError, match=r"problems is \(4, 100\), expected 1 to 64"):
        OwnShare(experiment=Experiment(), problems=(4, 100))
    with pytest.raises(ValueError, match=r"temperature is 0\.7"):
        OwnShare(experiment=Experiment(temperature=0.7), problems=(4,))
