"""Comparisons change one thing."""

import re
import subprocess
import sys

import pytest

from companion.laboratory.rule import Rule
from companion.language_models.arithmetic import TASKS
from companion.language_models.real_training import ARMS
from companion.provenance import ROOT
from companion.record import place, slug
from companion.runs import comparisons
from companion.runs.names import identity
from companion.runs.store import Store


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


@pytest.mark.parametrize("runs", [comparisons.methods(), comparisons.sweeps()])
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


def test_the_start_is_evaluated_as_the_runs_are():
    runs = comparisons.plain()
    for (_, seed), run in comparisons.before(runs).items():
        names = one_field_apart(run, runs["GRPO", seed])
        assert {".steps"} <= names and all(n == ".steps" or n.startswith((".step.", ".ledger")) for n in names)


def test_probes_try_every_method_along_plain_grpo():
    for seed, probe in comparisons.probes().items():
        assert probe.experiment == comparisons.base(seed) and probe.rules[0] == Rule()
        assert len(set(rule.model_dump_json() for rule in probe.rules)) == len(comparisons.PROBED)
        assert probe.rules[: len(comparisons.METHODS)] == tuple(comparisons.METHODS.values())


def test_a_sweep_covers_five_values_of_mu_in_both_readings():
    for family in ("Clip_B", "Clip_B two-sided", "Clip_V", "Clip_V two-sided"):
        arms = {arm for arm, _ in comparisons.sweeps() if arm.rpartition(" ")[0] == family}
        assert len(arms) == 5


def test_the_catalogue_has_every_run_once_under_a_name_in_words():
    catalogue = comparisons.catalogue()
    assert len({identity(config) for config in catalogue.configs.values()}) == len(catalogue.configs) == 638
    for name in catalogue.configs:
        assert re.fullmatch(r"[a-z][a-z-]*(/[a-z0-9][a-z0-9.-]*)?/seed-\d+", name), name
    for runs in comparisons.released():
        for run in comparisons.named(runs).values():
            assert catalogue.configs[run.name] == run.config
    grpo = {name for name, config in catalogue.configs.items() if config == comparisons.base(0)}
    assert grpo == {"methods/grpo/seed-0"}


def test_runs_with_other_settings_get_names_of_their_own():
    committed = comparisons.catalogue().configs
    for runs, name in (
        (comparisons.plain(steps=10, seeds=[0]), "one-update/grpo/seed-0-with-steps-10"),
        (comparisons.methods(seeds=[17], arms=["Clip_B"]), "methods/clip-b/seed-17"),
        (comparisons.ledgers(seeds=[17], steps=5), "ledgers/1-x-0.0003/seed-17-with-steps-5"),
    ):
        run = next(iter(comparisons.named(runs).values()))
        assert run.name == name and name not in committed


def test_every_run_has_a_record_of_its_config():
    store = Store(ROOT / "build" / "nothing", ROOT / "data" / "runs")
    missing = [n for n, config in comparisons.catalogue().configs.items() if store.get(n, config) is None]
    assert not missing, f"{len(missing)} runs have no record of their config; run make retrain"


def test_no_file_of_data_is_named_by_a_hash_and_every_record_is_known():
    files = [path for path in (ROOT / "data").rglob("*") if path.is_file()]
    assert not [path for path in files if re.fullmatch(r"[0-9a-f]{16,}", path.stem)]
    names = {p.relative_to(ROOT / "data/runs").with_suffix("").as_posix() for p in (ROOT / "data/runs").rglob("*.json")}
    arms = {place(f"smollm2-{slug(task)}", (arm, seed)) for task in TASKS for arm in ARMS for seed in range(3)}
    of_language_model = {n for n in names if n.startswith("smollm2-")}
    assert names - of_language_model == set(comparisons.catalogue().configs)
    assert of_language_model <= arms | {"smollm2-formats/seed-0"}


def test_who_only_reads_runs_does_not_wait_for_the_models_of_transformers():
    code = "import sys, companion.comparison.answers; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.split()
    assert "transformers" in loaded and "transformers.modeling_utils" not in loaded
