"""Comparisons change one thing."""

import pytest

from companion.runs import comparisons
from entropy_dynamics.methods import Rule


def flatten(value, prefix=""):
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, child in value.items() for key, leaf in flatten(child, f"{prefix}.{name}").items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_intervention_differs_from_its_base_in_its_rule_alone(seed):
    runs = comparisons.interventions(seeds=(0, 1))
    base = comparisons.plain(steps=30, seeds=(0, 1))["GRPO", seed].model_copy(
        update={"ledger_every": 5 * (seed == 0), "evaluation_samples": 4}
    )
    arms = [run for (_, s), run in runs.items() if s == seed]
    assert len(arms) == 18 and len({arm.model_dump_json() for arm in arms}) == 18
    for arm in arms:
        assert arm.step.rule != Rule()
        assert comparisons.with_rule(arm, Rule()) == base


def one_field_apart(arm, reference):
    ours, theirs = flatten(arm.model_dump()), flatten(reference.model_dump())
    return {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}


@pytest.mark.parametrize("runs", [comparisons.methods(), comparisons.sweeps(), comparisons.results()])
def test_every_arm_differs_from_plain_grpo_in_its_rule_alone(runs):
    for (arm, seed), run in runs.items():
        reference = comparisons.base(seed)
        assert comparisons.with_rule(run, Rule()) == reference
        assert all(name.startswith(".step.rule.") for name in one_field_apart(run, reference)), arm
        assert (run == reference) == (arm == "GRPO")
        assert run.start.seed == run.seed == seed  # the seed includes the warm start


def test_arms_of_one_seed_are_all_different():
    for runs in (comparisons.methods(), comparisons.sweeps()):
        keys = [run.model_dump_json() for run in runs.values()]
        assert len(keys) == len(set(keys))


def test_grpo_evaluated_more_often_is_the_same_training():
    for (_, seed), run in comparisons.cheap_diversity().items():
        names = one_field_apart(run, comparisons.base(seed))
        assert names == {".evaluate_every", ".evaluation_temperatures", ".evaluation_sizes"}


def test_the_start_is_evaluated_as_the_runs_are():
    for runs in (comparisons.results(), comparisons.plain()):
        for (_, seed), run in comparisons.before(runs).items():
            names = one_field_apart(run, runs["GRPO", seed])
            assert {".steps"} <= names and all(n == ".steps" or n.startswith((".step.", ".ledger")) for n in names)


def test_probes_try_every_method_along_plain_grpo():
    for seed, probe in comparisons.probes().items():
        assert probe.experiment == comparisons.base(seed) and probe.rules[0] == Rule()
        assert len(set(rule.model_dump_json() for rule in probe.rules)) == len(comparisons.METHODS)


def test_a_sweep_covers_five_values_of_mu_in_both_readings():
    for family in ("Clip_B", "Clip_B two-sided", "Clip_V", "Clip_V two-sided"):
        arms = {arm for arm, _ in comparisons.sweeps() if arm.rpartition(" ")[0] == family}
        assert len(arms) == 5


def test_all_runs_are_each_there_once():
    runs = [run.model_dump_json() for run in comparisons.all_runs()]
    assert len(runs) == len(set(runs))
    assert {run.model_dump_json() for run in comparisons.results().values()} <= set(runs)
