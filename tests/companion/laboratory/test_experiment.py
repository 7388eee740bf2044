"""Runs are determined by their configs, and bad configs are refused before they start."""

import pytest
import torch
from pydantic import ValidationError

from companion.laboratory import experiment
from companion.laboratory.experiment import Experiment, Trainer, Variant, run, train_on_batch
from companion.laboratory.policies import WarmStart, build_policy, load_policy
from companion.laboratory.rule import Rule
from companion.laboratory.updates import Control, StepConfig
from companion.record import canonical
from entropy_dynamics.methods import RULES

START = WarmStart(sizes=(3,), width=16, layers=1, steps=3, prompts=4)
TINY = Experiment(start=START, steps=3, prompts=4, group_size=2, evaluation_samples=2, ledger_every=2)


@pytest.fixture(scope="module")
def weights():
    return dict(build_policy(START).state_dict())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(weights):
    first, again = run(TINY, weights), run(TINY, weights)
    assert canonical(first.document) == canonical(again.document)
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    other = run(TINY.model_copy(update={"seed": 1}), weights)
    assert other.document["series"] != first.document["series"]


def test_a_record_holds_every_step_and_the_evaluation(weights):
    document = run(TINY, weights).document
    assert {len(values) for values in document["series"].values()} == {3}
    measured = document["series"]["ledger_measured"]
    assert [value is None for value in measured] == [False, True, False]
    assert set(document["series"]["masked_positive"]) <= {0.0, None}
    (evaluation,) = document["evaluations"]
    assert (evaluation["step"], evaluation["size"], evaluation["temperature"]) == (3, 3, 1.0)
    assert len(evaluation["correct"]) == len(evaluation["distinct"]) == 128
    assert all(0 <= d <= c <= 2 for d, c in zip(evaluation["distinct"], evaluation["correct"]))


def test_the_ledger_does_not_touch_the_training(weights):
    with_ledger = run(TINY, weights)
    without = run(TINY.model_copy(update={"ledger_every": 0}), weights)
    assert all(torch.equal(with_ledger.tensors[name], without.tensors[name]) for name in without.tensors)


def test_evaluations_on_the_way_do_not_touch_the_training(weights):
    settings = {"evaluate_every": 2, "evaluation_sizes": (3, 4), "evaluation_temperatures": (1.0, 0.5)}
    often = run(TINY.model_copy(update=settings), weights)
    places = [(e["step"], e["size"], e["temperature"]) for e in often.document["evaluations"]]
    on_the_way = [(step, size, 1.0) for step in (0, 2) for size in (3, 4)]
    assert places == [*on_the_way, (3, 3, 1.0), (3, 3, 0.5), (3, 4, 1.0), (3, 4, 0.5)]
    once = run(TINY, weights)
    assert all(torch.equal(often.tensors[name], once.tensors[name]) for name in once.tensors)
    assert often.document["evaluations"][4] == once.document["evaluations"][0]


def test_validation_and_test_problems_are_evaluated_apart(weights, monkeypatch):
    monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids: (problem.target + sum(ids)) % 3 == 0)
    policy = load_policy(START, weights)
    validation, test = (
        experiment.evaluate(policy, 0, 3, 1.0, 4, 10**6, problems=name)["correct"] for name in ("validation", "test")
    )
    assert validation != test
    seen = []
    for name in ("validation", "test"):
        problems = getattr(experiment.tasks.split(3), name)
        rollout = experiment._rollout(policy, problems[:32], 4, 1.0, torch.Generator().manual_seed(10**6), 6)
        seen.append(experiment._rewards(problems[:32], rollout).sum(-1).int().tolist())
    assert seen == [validation[:32], test[:32]]


def test_fresh_draws_differ_from_step_to_step(weights, monkeypatch):
    monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids: sum(ids) % 3 == 0)
    found = {}
    for draws in ("same", "fresh"):
        settings = {"learning_rate": 1e-12, "evaluate_every": 1, "evaluation_draws": draws, "evaluation_samples": 8}
        evaluations = run(TINY.model_copy(update=settings), weights).document["evaluations"]
        found[draws] = {str(evaluation["correct"]) for evaluation in evaluations}
    assert len(found["same"]) == 1 and len(found["fresh"]) == 4 and not found["same"] & found["fresh"]


def test_the_kl_from_the_start_is_that_of_the_sampled_tokens(weights):
    other = build_policy(START.model_copy(update={"seed": 1}))
    start = load_policy(START, weights)
    found = experiment.evaluate(other, 0, 3, 1.0, 32, 0, reference=start)
    states = torch.tensor([experiment.tasks.encode(p.prompt) for p in experiment.tasks.split(3).validation])
    with torch.no_grad():
        p, q = (model(states).logits[:, -1].log_softmax(-1) for model in (other, start))
    at_the_first_token = (p.exp() * (p - q)).sum(-1).mean().item()
    assert found["kl"] == pytest.approx(at_the_first_token, rel=0.5) and found["kl"] > 0.001
    assert experiment.evaluate(start, 0, 3, 1.0, 2, 0, reference=start)["kl"] == pytest.approx(0, abs=1e-6)
    assert "kl" not in experiment.evaluate(start, 0, 3, 1.0, 2, 0)


def test_variants_are_made_of_the_runs_own_weights(weights):
    variants = [{"temperature": 0.5}, {"start_share": 1.0}, {"start_share": 0.25}, {"averaged": 2}]
    settings = {"evaluate_every": 1, "variants": tuple(Variant(**v) for v in variants), "variants_at": 2}
    config = TINY.model_copy(update=settings)
    record = run(config, weights)
    evaluations = record.document["evaluations"]
    own = [e for e in evaluations if "averaged" not in e]
    made = [e for e in evaluations if "averaged" in e]
    assert [e["step"] for e in own] == [0, 1, 2, 3] and [e["step"] for e in made] == [2] * 4 + [3] * 4
    ends = [run(TINY.model_copy(update={"steps": steps}), weights).tensors for steps in (2, 3)]
    mixed = {name: 0.75 * x + 0.25 * weights[name] for name, x in ends[1].items()}
    mean = {name: (x + ends[1][name]) / 2 for name, x in ends[0].items()}
    expected = [(ends[1], 0.5), (weights, 1.0), (mixed, 1.0), (mean, 1.0)]
    for found, (tensors, temperature) in zip(made[4:], expected):
        again = experiment.evaluate(load_policy(START, tensors), 3, 3, temperature, 2, 10**6)
        assert {name: found[name] for name in again} == again
    places = [(e["temperature"], e["start_share"], e["averaged"]) for e in made[4:]]
    assert places == [(0.5, 0.0, 1), (1.0, 1.0, 1), (1.0, 0.25, 1), (1.0, 0.0, 2)]
    plain = run(TINY, weights)
    assert all(torch.equal(record.tensors[name], plain.tensors[name]) for name in plain.tensors)


def test_a_run_near_its_start_has_the_starts_log_probabilities(weights):
    rule = Rule(name="reference_kl", options={"coefficient": 0.5})
    trainer = Trainer(TINY.model_copy(update={"step": StepConfig(rule=rule, updates=2)}), weights)
    for _ in range(2):
        _, rollout, rewards = trainer.rollout()
        reports = trainer.update(rollout, rewards)
        reference = experiment._log_probs(load_policy(START, weights), rollout)
        assert all(torch.equal(report.batch.reference, reference) for report in reports)
        sampled = (rollout.log_prob - reference)[rollout.mask].abs().max()
        assert (sampled < 1e-4) == (len(trainer.entropies) == 1)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_state_is_all_that_the_rest_of_a_run_depends_on(weights, optimizer):
    rule = Rule(name="matched_mask", options={"like": "clip_b", "mu": 0.5, "choice": "random"})
    step = StepConfig(rule=rule, updates=2)
    if optimizer == "sgd":
        control = Control(option="coefficient", target=2.8, effect=0.1)
        step = StepConfig(rule=Rule(name="entropy_bonus"), control=control, parts=2)
    config = TINY.model_copy(update={"optimizer": optimizer, "step": step})
    straight = Trainer(config, weights)
    train_on_batch(straight, ledger=False)
    state = straight.state()
    rest = [train_on_batch(straight, ledger=False) for _ in range(2)]
    resumed = Trainer(config, weights)
    resumed.restore(state)
    assert [train_on_batch(resumed, ledger=False) for _ in range(2)] == rest
    assert all(torch.equal(x, resumed.state()[name]) for name, x in straight.state().items())


def test_a_run_of_no_steps_evaluates_its_start(weights):
    record = run(TINY.model_copy(update={"steps": 0}), weights)
    assert record.document["series"] == {} and record.document["evaluations"][0]["step"] == 0
    assert all(torch.equal(record.tensors[name], weights[name]) for name in weights)
    on_the_way = run(TINY.model_copy(update={"evaluate_every": 3}), weights).document["evaluations"][0]
    assert on_the_way == record.document["evaluations"][0]


def test_a_rule_that_looks_back_sees_the_entropy_of_every_batch(weights, monkeypatch):
    seen = []

    def spy(batch, generator):
        seen.append((batch.update, batch.entropies))
        return batch.mask

    monkeypatch.setitem(RULES, "spy", spy)
    config = TINY.model_copy(update={"step": StepConfig(rule=Rule(name="spy"), updates=2)})
    entropies = run(config, weights).document["series"]["entropy"]
    assert [update for update, _ in seen] == [0, 1] * 3
    assert [len(past) for _, past in seen] == [1, 1, 2, 2, 3, 3]
    assert seen[-1][1] == pytest.approx(entropies, rel=1e-5)


def test_what_is_recorded_of_a_batch_in_parts_is_of_the_whole_batch(weights, monkeypatch):
    monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids: sum(ids) % 2 == 0)
    first = {}
    for parts in (1, 2):
        step = StepConfig(rule=Rule(name="clip_b", options={"mu": 0.5}), parts=parts)
        config = TINY.model_copy(update={"steps": 1, "learning_rate": 1e-12, "ledger_every": 0, "step": step})
        first[parts] = {name: column[0] for name, column in run(config, weights).document["series"].items()}
    before = ("reward", "tokens", "entropy", "mean_s", "mean_d", "mean_d_standard_error", "cov_a_d", "ratio_mean")
    for name in before:  # the policy hardly moves between the parts
        assert first[2][name] == pytest.approx(first[1][name], rel=1e-5, abs=1e-9), name
    assert first[1]["masked_negative"] > 0 and first[2]["masked_negative"] > 0


def test_steps_only_cut_a_run_short(weights):
    long, short = (run(TINY.model_copy(update={"steps": steps}), weights).document["series"] for steps in (3, 2))
    assert long["entropy"][:2] == short["entropy"] and long["reward"][:2] == short["reward"]


def test_a_group_of_one_and_rewards_all_alike_are_defined(weights, monkeypatch):
    canonical(run(TINY.model_copy(update={"group_size": 1}), weights).document)  # refuses NaN
    for verdict in (True, False):
        monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids, verdict=verdict: verdict)
        record = run(TINY, weights)
        assert record.document["series"]["reward"] == [float(verdict)] * 3
        assert all(torch.equal(record.tensors[name], weights[name]) for name in weights)  # no variance, no gradient


def test_masked_fractions_follow_the_rule(weights, monkeypatch):
    monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids: sum(ids) % 2 == 0)
    options = {"action": "keep", "advantage": "positive", "statistic": "S", "sign": "above"}
    config = TINY.model_copy(update={"step": StepConfig(rule=Rule(name="intervention", options=options))})
    series = run(config, weights).document["series"]
    negative = [value for value in series["masked_negative"] if value is not None]
    assert negative and set(negative) == {1.0}
    assert all(value is None or value < 1 for value in series["masked_positive"])


@pytest.mark.parametrize(
    "settings",
    [
        *({"steps": -1}, {"group_size": 0}, {"learning_rate": -1.0}, {"optimizer": "lion"}, {"mu": 2}, {"seed": -1}),
        {"prompts": 100_000},
    ],
)
def test_bad_configs_name_the_field(settings):
    with pytest.raises(ValidationError, match=next(iter(settings))):
        Experiment(**settings)
