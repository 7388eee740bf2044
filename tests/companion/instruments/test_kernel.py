"""The kernel's parts add up to the derivative of each state's entropy along a step of gradient ascent."""

import dataclasses

import pytest
import torch

from companion.instruments.anatomy import changes_along, in_float64
from companion.instruments.kernel import ascent_direction, contributions, jacobian, norms
from companion.laboratory.ledger import state_entropies
from companion.laboratory.policies import WarmStart, build_policy
from companion.laboratory.rollout import response_logits, sample
from companion.puzzles import tasks

PROMPTS = torch.tensor([tasks.encode(problem.prompt) for problem in tasks.split(3).training[:3]])


@pytest.fixture
def laboratory():
    policy = in_float64(build_policy(WarmStart(width=16, layers=1)))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(3)
    generator = torch.Generator().manual_seed(0)
    settings = {"group_size": 2, "max_tokens": 4, "end": tasks.END, "temperature": 1.0}
    rollout = sample(policy, PROMPTS, generator=generator, **settings)
    coefficients = torch.randn(rollout.tokens.shape, generator=generator, dtype=torch.float64) * rollout.mask
    coefficients[2:4] = 0  # a group that does not count
    return policy, rollout, coefficients


def unflatten(vector, policy):
    parts = vector.split([p.numel() for p in policy.parameters()])
    return [part.view_as(p) for part, p in zip(parts, policy.parameters())]


def test_jacobian_is_the_change_of_the_logits(laboratory):
    policy, rollout, _ = laboratory
    j = jacobian(policy, PROMPTS[1], rollout.tokens[3], 2)
    direction = torch.randn(j.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    unflatten(direction, policy)[0][tasks.PAD] = 0  # the embedding of padding never gets a gradient
    before = response_logits(policy, PROMPTS, rollout.tokens)[3, 2].detach()
    with torch.no_grad():
        for parameter, change in zip(policy.parameters(), unflatten(direction, policy)):
            parameter += 1e-8 * change
        after = response_logits(policy, PROMPTS, rollout.tokens)[3, 2]
    torch.testing.assert_close((after - before) / 1e-8, j @ direction, rtol=1e-4, atol=1e-4)


def test_ascent_direction_is_the_gradient_over_all_rows(laboratory):
    policy, rollout, c = laboratory
    log_p = response_logits(policy, PROMPTS, rollout.tokens).log_softmax(-1)
    total = (c * log_p.gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(policy.parameters()))])
    torch.testing.assert_close(ascent_direction(policy, rollout, c), expected)


def test_contributions_add_up_to_the_derivative_of_the_entropy(laboratory):
    policy, rollout, c = laboratory
    rows = contributions(policy, rollout, c, states=1000, generator=torch.Generator().manual_seed(0))
    assert len(rows) == int((c != 0).sum())
    step = unflatten(1e-4 * ascent_direction(policy, rollout, c), policy)
    derivative = 1e4 * changes_along(list(policy.parameters()), step, lambda: state_entropies(policy, rollout)).first
    total = sorted(row["own"] + row["response"] + row["group"] + row["others"] for row in rows)
    torch.testing.assert_close(
        torch.tensor(total, dtype=torch.float64), derivative[c != 0].sort().values, rtol=1e-3, atol=1e-4
    )


def test_a_token_alone_is_moved_by_itself_alone(laboratory):
    policy, rollout, c = laboratory
    alone = torch.zeros_like(c)
    alone[5, 1] = 2.0
    (row,) = contributions(policy, rollout, alone, states=3, generator=torch.Generator().manual_seed(0))
    assert row["own"] != 0 and all(abs(row[n]) < 1e-9 for n in ("response", "group", "others"))


def test_a_head_of_its_own_for_every_state_has_the_identity_as_kernel(laboratory):
    """Only an output bias is trained, so K(s, t) is the identity: own is Theorem 3.3 and the rest is the batch's."""
    policy, rollout, c = laboratory
    bias = torch.nn.Parameter(torch.zeros(len(tasks.ALPHABET), dtype=torch.float64))
    for parameter in policy.parameters():
        parameter.requires_grad_(False)
    policy.lm_head.bias = bias
    policy.parameters = lambda: iter([bias])
    row = contributions(policy, rollout, c, states=1, generator=torch.Generator().manual_seed(0))[0]
    assert row["own"] == pytest.approx(row["theorem"], rel=1e-3) and row["alignment"] == pytest.approx(1)
    pairs = norms(policy, rollout)
    assert all(pair["coupling"] == pytest.approx(1) for pair in pairs)


def test_norms_cover_every_pair_and_know_a_state_from_itself(laboratory):
    policy, rollout, _ = laboratory
    rollout = dataclasses.replace(rollout, mask=rollout.mask & (torch.arange(4) < 2))
    pairs = norms(policy, rollout)
    names = {pair["s"] for pair in pairs}
    assert len(pairs) == len(names) ** 2 and {pair["t"] for pair in pairs} == names
    values = {(pair["s"], pair["t"]): pair["coupling"] for pair in pairs}
    assert all(values[n, n] == pytest.approx(1) for n in names)
    assert all(values[a, b] == pytest.approx(values[b, a]) and 0 <= values[a, b] <= 1.0001 for a, b in values)
    assert min(values.values()) < 0.9
