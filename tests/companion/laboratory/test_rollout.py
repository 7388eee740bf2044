"""Sampling with a cache against plain forward passes."""

import pytest
import torch

from companion.laboratory.policies import WarmStart, build_policy, load_policy, warm_start
from companion.laboratory.rollout import response_logits, response_mask, sample
from companion.puzzles import countdown, tasks

PROMPTS = torch.tensor([tasks.encode(problem.prompt) for problem in tasks.split(3).training[:5]])


@pytest.fixture(scope="module")
def policy():
    policy = build_policy(WarmStart(width=32, layers=2))
    with torch.no_grad():
        for weight in policy.parameters():  # far from uniform, so that a wrong cache would show
            weight.mul_(3)
    return policy


def draw(policy, seed=0, **changes):
    settings = {"group_size": 4, "max_tokens": 6, "end": tasks.END, "temperature": 0.8} | changes
    return sample(policy, PROMPTS, generator=torch.Generator().manual_seed(seed), **settings)


@pytest.mark.parametrize("group_size", [1, 4, 17, 20])
def test_recorded_log_probs_are_those_of_the_trainer(policy, group_size):
    rollout = draw(policy, group_size=group_size)
    logits = response_logits(policy, PROMPTS, rollout.tokens)
    log_prob = (logits / 0.8).log_softmax(-1).gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_prob, rollout.log_prob, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("group_size", [1, 4, 17, 20])
def test_logits_are_those_of_one_plain_forward_pass(policy, group_size):
    tokens = draw(policy, group_size=group_size).tokens
    whole = torch.cat([PROMPTS.repeat_interleave(group_size, 0), tokens], 1)
    plain = policy(whole).logits[:, PROMPTS.shape[1] - 1 : -1]
    torch.testing.assert_close(response_logits(policy, PROMPTS, tokens), plain, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(response_logits(policy, PROMPTS, tokens[:, :1]), plain[:, :1], atol=2e-6, rtol=1e-5)


def test_gradients_are_those_of_one_plain_forward_pass(policy):
    tokens = draw(policy).tokens
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))

    def gradients(logits):
        log_prob = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return torch.autograd.grad((weights * log_prob).sum(), list(policy.parameters()))

    whole = torch.cat([PROMPTS.repeat_interleave(4, 0), tokens], 1)
    plain = gradients(policy(whole).logits[:, PROMPTS.shape[1] - 1 : -1])
    for ours, theirs in zip(gradients(response_logits(policy, PROMPTS, tokens)), plain):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_tokens_are_drawn_from_the_policy_at_its_temperature(policy):
    rollout = draw(policy, group_size=4000, max_tokens=1)
    p = (policy(PROMPTS).logits[:, -1] / 0.8).softmax(-1)
    counts = torch.stack([torch.bincount(group, minlength=p.shape[1]) for group in rollout.tokens.view(5, 4000)])
    error = (counts / 4000 - p).abs() / (p * (1 - p) / 4000).sqrt().clamp(min=1e-3)
    assert error.max() < 5


def test_the_same_seed_draws_the_same_responses(policy):
    first, again, other = draw(policy), draw(policy), draw(policy, seed=1)
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.log_prob, again.log_prob)
    assert not torch.equal(first.tokens, other.tokens)
    assert first.group_size == 4


def test_mask_ends_with_the_end_token():
    tokens = torch.tensor([[5, 9, 9], [9, 5, 5], [5, 5, 5]])
    assert response_mask(tokens, 9).int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]


def test_sampling_stops_when_all_responses_have_ended(policy):
    class AlwaysEnd:
        config, dtype = policy.config, policy.dtype

        def __call__(self, tokens, **settings):
            output = policy(tokens, **settings)
            output.logits[..., tasks.END] = 1e4
            return output

    rollout = draw(AlwaysEnd())
    assert rollout.tokens.tolist() == [[tasks.END]] * 20 and rollout.mask.all()


@pytest.mark.parametrize("changes", [{"temperature": 0.0}, {"group_size": 0}, {"max_tokens": 0}])
def test_bad_settings_are_named(policy, changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name} {value}"):
        draw(policy, **changes)


def test_responses_must_divide_into_groups(policy):
    with pytest.raises(ValueError, match="7 responses do not divide into groups for 5 prompts"):
        response_logits(policy, PROMPTS, torch.zeros(7, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"prompts must be \(P, L\)"):
        response_logits(policy, PROMPTS[:, :0], torch.zeros(5, 2, dtype=torch.long))


def test_the_initial_policy_depends_on_its_seed_alone():
    state = torch.get_rng_state()
    first, again, other = (build_policy(WarmStart(seed=seed, width=16)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert 3e5 < sum(p.numel() for p in build_policy(WarmStart()).parameters()) < 5e5


def test_a_warm_start_learns_the_form_of_an_answer():
    config = WarmStart(width=32, layers=1, steps=60, prompts=32)
    policy = load_policy(config, warm_start(config).tensors)
    texts = [tasks.decode(row) for row in draw(policy, temperature=0.5, group_size=20).tokens.tolist()]
    assert sum(countdown.evaluate(text) is not None for text in texts) > 60  # of 100
