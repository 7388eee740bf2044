"""Steps taken apart: the orders are those of the entropy, and a trial is what the optimizer would do."""

import copy

import pandas as pd
import pytest
import torch

from companion.instruments import anatomy
from companion.instruments.anatomy import Anatomy, Trial, changes_along, effective_step, in_float64, run_anatomy
from companion.laboratory import experiment
from companion.laboratory.experiment import Experiment, Trainer
from companion.laboratory.ledger import entropy_ledger, mean_entropy
from companion.laboratory.policies import WarmStart, build_policy
from companion.laboratory.rollout import response_logits, sample
from companion.laboratory.rule import Rule
from companion.language_models import language_model_anatomy
from companion.language_models.language_model import Responses, teacher_force
from companion.language_models.language_model_anatomy import (
    LanguageModelAnatomy,
    batches_of,
    run_language_model_anatomy,
)
from companion.puzzles import tasks
from companion.record import canonical
from entropy_dynamics import theory

START = WarmStart(width=16, layers=1, steps=0, prompts=4)
TINY = Experiment(start=START, prompts=6, group_size=4, evaluation_samples=1, learning_rate=1e-3)
PROMPTS = torch.tensor([tasks.encode(problem.prompt) for problem in tasks.split(3).training[:4]])
TRIALS = {
    "sgd": Trial(optimizer="sgd", learning_rate=1e-2),
    "adam": Trial(learning_rate=1e-3),
    "fresh": Trial(learning_rate=1e-3, optimizer="fresh adam"),
    "decay": Trial(learning_rate=1e-3, optimizer="adamw", weight_decay=0.1),
    "kept": Trial(
        learning_rate=1e-3,
        rule=Rule(
            name="intervention",
            options={"action": "keep", "advantage": "positive", "statistic": "S", "sign": "above"},
        ),
    ),
}


@pytest.fixture(scope="module")
def weights():
    return dict(build_policy(START).state_dict())


@pytest.fixture
def generous(monkeypatch):
    """Rewards that vary within a group, whatever an untrained policy writes."""
    monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids: sum(ids) % 2 == 0)


def test_changes_along_a_cubic_by_hand():
    x = torch.tensor([2.0], dtype=torch.float64)
    changes = changes_along([x], [torch.tensor([0.1], dtype=torch.float64)], lambda: x**3)
    # x^3 at 2 along 0.1: 3 x^2 0.1 = 1.2, 3 x 0.01 = 0.06, and 2.1^3 - 8 = 1.261
    assert changes.first.item() == pytest.approx(1.2 + 0.001 / 32**2)
    assert changes.second.item() == pytest.approx(0.06)
    assert changes.measured.item() == pytest.approx(1.261)
    assert x.item() == 2


def test_parameters_come_back_after_an_error():
    x = torch.tensor([2.0], dtype=torch.float64)

    def fails():
        if x.item() != 2:
            raise RuntimeError("moved")
        return x.clone()

    with pytest.raises(RuntimeError, match="moved"):
        changes_along([x], [torch.ones(1, dtype=torch.float64)], fails)
    assert x.item() == 2


def test_in_float64_is_the_same_policy_to_float32_accuracy_and_smooth_beyond_it(weights):
    policy = build_policy(START)
    generator = torch.Generator().manual_seed(0)
    settings = {"group_size": 2, "max_tokens": 4, "end": tasks.END, "temperature": 1.0}
    rollout = sample(policy, PROMPTS, generator=generator, **settings)
    precise = in_float64(copy.deepcopy(policy))
    assert [n for n, _ in precise.named_parameters()] == [n for n, _ in policy.named_parameters()]
    coarse = response_logits(policy, PROMPTS, rollout.tokens)
    fine = response_logits(precise, PROMPTS, rollout.tokens)
    torch.testing.assert_close(coarse.double(), fine, atol=1e-5, rtol=1e-5)
    with entropy_ledger(precise, rollout) as entry, torch.no_grad():
        for name, parameter in precise.named_parameters():
            if "embed" not in name:  # the embedding of padding never gets a gradient
                parameter.add_(1e-9)
    assert entry.measured == pytest.approx(entry.parameters, rel=1e-4)  # float32 norms would drown it in noise


def test_first_order_is_the_gradient_times_the_step(weights):
    policy = in_float64(build_policy(START))
    generator = torch.Generator().manual_seed(0)
    settings = {"group_size": 2, "max_tokens": 4, "end": tasks.END, "temperature": 1.0}
    rollout = sample(policy, PROMPTS, generator=generator, **settings)
    parameters = list(policy.parameters())
    step = [1e-5 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    step[0][tasks.PAD] = 0  # the embedding of padding never gets a gradient
    gradients = torch.autograd.grad(mean_entropy(policy, rollout), parameters)
    expected = sum((g * change).sum() for g, change in zip(gradients, step)).item()
    changes = changes_along(parameters, step, lambda: anatomy.state_entropies(policy, rollout))
    assert changes.first[rollout.mask].mean().item() == pytest.approx(expected, rel=1e-5)


def test_effective_step_of_a_grpo_step_is_alpha_and_of_an_orthogonal_one_zero():
    logits = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    tokens, p = torch.tensor([1]), logits.softmax(-1)
    direction = torch.nn.functional.one_hot(tokens, 3) - p
    found = effective_step(logits, tokens, 0.3 * direction + 5.0)  # softmax does not see the 5
    assert found["alpha"].item() == pytest.approx(0.3) and found["alignment"].item() == pytest.approx(1)
    across = torch.linalg.cross(direction, torch.ones_like(direction))
    found = effective_step(logits, tokens, across)
    assert found["alpha"].item() == pytest.approx(0, abs=1e-12)


def test_an_anatomy_has_a_row_for_every_trial_and_kind_and_orders_that_converge(weights, generous):
    config = Anatomy(experiment=TINY, trials=TRIALS, at=(0, 2), kept_states=10, kernel_states=4)
    document = run_anatomy(config, weights).document
    assert canonical(document)
    batches, states = pd.DataFrame(document["batches"]), pd.DataFrame(document["states"])
    assert len(batches) == 2 * len(TRIALS) * 3
    assert set(batches.kind) == {"updated", "same responses", "unseen problems"}
    assert (batches[batches.kind != "updated"].theorem == 0).all()
    beyond_first, beyond_second = states.measured - states["first"], states.measured - states["first"] - states.second
    left = [(x**2).sum() for x in (beyond_second, beyond_first, states.measured)]
    assert left[0] < 0.3 * left[1] < 0.3 * left[2]
    updated = states[states.kind == "updated"]
    assert updated[["coefficient", "alpha", "alignment", "radius"]].notna().all(axis=None)
    assert states[states.kind != "updated"]["alpha"].isna().all()
    assert len(document["kernel"]["own"]) == 2 * 4 and set(document["norms"]["at"]) == {0}
    first = batches[batches["at"] == 0].set_index(["trial", "kind"])
    assert (first.loc["adam"] == first.loc["fresh"]).all(axis=None)  # the run's Adam has no history yet
    third = batches[batches["at"] == 2].set_index(["trial", "kind"])
    assert (third.loc["adam"].measured != third.loc["fresh"].measured).all()
    assert (first.loc["adam"].measured != first.loc["decay"].measured).all()
    kept = first.states[:, "updated"]
    assert 0 < kept["kept"] < kept["adam"] == kept["sgd"]


def test_a_trial_with_all_tokens_is_what_the_run_does_next(weights, generous):
    trial = Trial(learning_rate=TINY.learning_rate, max_grad_norm=TINY.step.max_grad_norm)
    config = Anatomy(experiment=TINY, trials={"next": trial}, at=(1,), updated=1.0, kernel_states=0)
    table = pd.DataFrame(run_anatomy(config, weights).document["batches"]).set_index("kind")
    trainer = Trainer(TINY, weights)
    trainer.update(*trainer.rollout()[1:])
    _, rollout, rewards = trainer.rollout()
    before = anatomy.state_entropies(trainer.policy, rollout)
    (report,) = trainer.update(rollout, rewards)
    after = anatomy.state_entropies(trainer.policy, rollout)
    pushed = report.terms.of_log_prob(report.batch) != 0
    assert table.measured["updated"] == pytest.approx((after - before)[pushed].mean().item(), rel=1e-2)


def test_a_language_model_is_taken_apart_alike(monkeypatch):
    """With the small policy as the language model: rows for all kinds, and the measured change is that of the step."""
    policy = build_policy(START)
    monkeypatch.setattr(language_model_anatomy, "load_language_model", lambda name: (copy.deepcopy(policy), None))
    pairs = tuple(((1, 2, 3), (4, 5, 6, 7)) if i % 2 else ((3, 2), (1, 9, 8)) for i in range(4))
    trials = {
        "sgd": Trial(optimizer="sgd", learning_rate=1e-2),
        "adam": Trial(learning_rate=1e-3, optimizer="fresh adam"),
    }
    config = LanguageModelAnatomy(batches=(pairs, pairs[:2]), unseen=(((7, 7), (1, 2)),), trials=trials)
    document = run_language_model_anatomy(config).document
    assert canonical(document)
    batches = pd.DataFrame(document["batches"])
    states = batches.pivot(index=["at", "trial"], columns="kind", values="states")
    assert (states["unseen problems"] == 2).all()
    assert (states["updated"] + states["same responses"]).tolist() == [14, 14, 7, 7]
    generator = torch.Generator().manual_seed(0)
    advantages = 2.0 * torch.randint(2, (4,), generator=generator).double() - 1
    drawn = torch.rand(14, generator=generator) < config.updated
    moved = in_float64(copy.deepcopy(policy))
    logits, tokens = teacher_force(moved, pairs)
    before = theory.entropy(logits)[drawn].mean().item()
    weights = drawn * advantages.repeat_interleave(torch.tensor([len(response) for _, response in pairs]))
    log_prob = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    (-(weights * log_prob).mean()).backward()
    torch.optim.SGD(moved.parameters(), lr=1e-2).step()
    after = theory.entropy(teacher_force(moved, pairs)[0])[drawn].mean().item()
    assert batches.measured[0] == pytest.approx(after - before, rel=1e-5)


def test_responses_are_cut_into_batches():
    responses = Responses("m", 1.0, 0, [[1], [2], [3]], [[4, 5, 6], [7], [8]])
    assert batches_of(responses, batches=1, size=2, max_tokens=2) == ((((1,), (4, 5)), ((2,), (7,))),)
    with pytest.raises(ValueError, match="need 4 responses, got 3"):
        batches_of(responses, batches=2, size=2, max_tokens=2)


def test_a_hotter_policy_is_refused():
    with pytest.raises(ValueError, match=r"temperature is 0\.7"):
        Anatomy(experiment=TINY.model_copy(update={"temperature": 0.7}), trials=TRIALS)
