"""The lens predicts what a policy with its own logits for every state does, and probing leaves a run alone."""

import pytest
import torch
from torch import nn

from companion.instruments.probe import Probe, run_probe
from companion.laboratory import experiment
from companion.laboratory.experiment import Experiment
from companion.laboratory.policies import WarmStart, build_policy
from companion.laboratory.rule import Rule
from companion.laboratory.updates import StepConfig
from companion.record import canonical
from entropy_dynamics import grpo, theory
from entropy_dynamics.lens import predicted_change
from entropy_dynamics.methods import RULES, TokenBatch
from entropy_dynamics.token_statistics import token_statistics

N, T, V = 12, 5, 7
OPTIONS = {
    "clip_b": {"mu": 0.5},
    "clip_v": {"mu": 0.5},
    "masked_share": {"statistic": "S", "share": 0.3},
    "sign_weights": {"strength": 0.2},
    "reference_kl": {"coefficient": 0.1},
    "matched_mask": {"like": "clip_b", "mu": 0.5, "choice": "random"},
    "intervention": {"action": "keep", "advantage": "negative", "statistic": "S", "sign": "above"},
    "clip_cov": {"low": 0.1, "fraction": 0.1},
    "kl_cov": {"fraction": 0.2},
    "gspo": {"clip_low": 0.05, "clip_high": 0.05},
}


@pytest.mark.parametrize("name", RULES)
def test_for_a_tabular_policy_the_lens_is_the_first_order_of_the_loss(name):
    """Every state owns its logits, so gradient ascent is exactly what Theorem 3.3 assumes."""
    generator = torch.Generator().manual_seed(3)
    old, step = (torch.randn(N, T, V, generator=generator, dtype=torch.float64) for _ in range(2))
    logits = nn.Parameter(old + 0.3 * step)
    tokens = torch.randint(V, (N, T), generator=generator)
    rewards = (torch.rand(N, 1, generator=generator) < 0.5).double()
    advantages = grpo.group_advantages(rewards.view(3, 4)).view(N, 1).expand(N, T)
    mask = torch.arange(T) < torch.randint(1, T + 1, (N, 1), generator=generator)
    temperature = 0.8
    now, then = (token_statistics(z.detach(), tokens, temperature=temperature) for z in (logits, old))
    rows = torch.arange(3).repeat_interleave(4)
    batch = TokenBatch(
        now, then, advantages, rewards.expand(N, T), mask, rows, entropies=(0.1, 0.1), reference=then.log_prob - 0.1
    )
    terms = Rule(name=name, options=OPTIONS.get(name, {}))(batch, generator)
    log_prob = token_statistics(logits, tokens, temperature=temperature).log_prob
    loss = grpo.loss(log_prob, theory.entropy(logits / temperature), batch, terms)
    (gradient,) = torch.autograd.grad(loss, logits)
    # the loss is a mean over tokens, and a push of z / temperature is meant
    update = -gradient * mask.sum() * temperature
    exact = theory.first_order_change(logits.detach() / temperature, update)
    predicted = predicted_change(batch, terms, logits.detach(), temperature)
    torch.testing.assert_close(predicted, exact.where(mask, 0.0), atol=1e-12, rtol=1e-9)
    assert predicted.abs().sum() > 0


START = WarmStart(width=16, layers=1, steps=0, prompts=4)
TINY = Experiment(
    start=START, steps=4, prompts=8, group_size=4, step=StepConfig(updates=2), evaluation_samples=1, learning_rate=1e-2
)
RULES_TRIED = (Rule(), Rule(name="clip_b", options={"mu": 0.5}), Rule(name="entropy_bonus"))


@pytest.fixture(scope="module")
def weights():
    return dict(build_policy(START).state_dict())


@pytest.fixture
def generous(monkeypatch):
    """Rewards that vary within a group, whatever an untrained policy writes."""
    monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids: sum(ids) % 2 == 0)


def test_a_probe_has_a_row_for_every_trial_and_a_token_table_for_every_first_batch(weights, generous):
    record = run_probe(Probe(experiment=TINY, rules=RULES_TRIED, at=(0, 2), batches=2), weights)
    effects = record.document["effects"]
    assert {len(column) for column in effects.values()} == {2 * 2 * 2 * 3}
    assert sorted(set(effects["at"])) == [0, 2] and set(effects["batch"]) == {0, 1}
    assert canonical(record.document)
    tokens = record.tensors
    assert {len(column) for column in tokens.values()} == {len(tokens["at"])}
    for at in (0, 2):
        fresh = (tokens["at"] == at) & (tokens["update"] == 0)
        assert (tokens["ratio"][fresh] == 1).all()
        mean = tokens["measured"][fresh].mean().item()
        row = effects["at"].index(at)
        assert effects["rule"][row] == 0 and effects["adam"][row] == pytest.approx(mean, rel=1e-3)
        assert effects["predicted"][row] == pytest.approx(tokens["predicted"][fresh].mean().item(), rel=1e-3)
        size = tokens["advantage"][fresh].abs().mean().item()
        assert effects["smaller"][row] == pytest.approx(-size, rel=1e-3) and effects["dropped"][row] == 0
        moved = (-tokens["advantage"] * tokens["discriminator"])[fresh].mean().item()
        assert effects["uncentred"][row] == pytest.approx(moved, rel=1e-3)
    assert [len(t) for t in record.document["texts"]] == [32, 32]


def test_probing_does_not_touch_the_run_and_a_rule_against_itself_makes_no_difference(weights, generous):
    late = run_probe(Probe(experiment=TINY, rules=(Rule(), Rule()), at=(2,), batches=1), weights).document["effects"]
    also_early = run_probe(Probe(experiment=TINY, rules=(Rule(),), at=(0, 2), batches=1), weights).document["effects"]
    for name in ("predicted", "adam", "sgd"):
        assert late[name][0] == late[name][1] == also_early[name][2]


def test_the_first_trial_is_what_the_run_does_next(weights, generous):
    effects = run_probe(Probe(experiment=TINY, rules=(Rule(),), at=(0,), batches=1), weights).document["effects"]
    trainer = experiment.Trainer(TINY, weights)
    _, rollout, rewards = trainer.rollout()
    reports = trainer.update(rollout, rewards)
    first, second = (report.batch.statistics.entropy[rollout.mask].mean().item() for report in reports)
    assert effects["adam"][0] == pytest.approx(second - first, rel=1e-2) and abs(second - first) > 1e-4
