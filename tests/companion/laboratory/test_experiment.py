"""Runs are determined by their configs, and bad configs are refused before they start."""

import pytest
import torch
from pydantic import ValidationError

from companion.laboratory import experiment
from companion.laboratory.experiment import Experiment, Trainer, run, train_on_batch
from companion.laboratory.policies import WarmStart, build_policy
from companion.laboratory.rule import Rule
from companion.laboratory.updates import StepConfig
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
    assert places == [(0, 3, 1.0), (2, 3, 1.0), (3, 3, 1.0), (3, 3, 0.5), (3, 4, 1.0), (3, 4, 0.5)]
    once = run(TINY, weights)
    assert all(torch.equal(often.tensors[name], once.tensors[name]) for name in once.tensors)
    assert often.document["evaluations"][2] == once.document["evaluations"][0]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_state_is_all_that_the_rest_of_a_run_depends_on(weights, optimizer):
    rule = Rule(name="matched_mask", options={"like": "clip_b", "mu": 0.5, "choice": "random"})
    config = TINY.model_copy(update={"optimizer": optimizer, "step": StepConfig(rule=rule, updates=2)})
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
