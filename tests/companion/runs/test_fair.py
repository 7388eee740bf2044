"""The planned runs are those of the plan, and nothing looks at test problems before all is chosen."""

import subprocess

import pytest

from companion.laboratory.experiment import Experiment
from companion.runs import fair
from companion.runs import plan as plans
from companion.runs.plan import Choices, checksum, choices, first_checksum, plan, require_committed
from companion.runs.records import compute

CHOSEN = Choices(
    checksum(),
    rate=2e-4,
    batches=192,
    effects={name: 0.01 for name in (*plan()["equal_entropy"]["statistics"], fair.BONUS)},
    strengths={arm: plan()["strengths"][arm][2] for arm in (*fair.TUNED, "EntroPIC")},
    free={"average with the start": 0.3, "lower rate": 1e-4},
    targets=(0.3, 0.4),
    shares=(0.1, 0.2),
)
STAGES = list(fair.stages(CHOSEN))
NAMES = [runs.comparison for runs in STAGES]


def test_stages_come_in_order_and_only_when_they_are_decided():
    assert [
        *("rates", "effects", "strengths", "shares", "fair", "stale", "equal-entropy"),
        *("elsewhere-walks", "elsewhere-other-start"),
    ] == NAMES
    assert list(fair.stages(Choices(checksum()))) == []
    some = Choices(checksum(), rate=2e-4, batches=192, effects=CHOSEN.effects)
    assert [runs.comparison for runs in fair.stages(some)] == ["rates", "effects"]


def test_only_the_last_stages_look_at_test_problems_and_their_seeds_are_fresh():
    common = plan()["common"]
    for runs in STAGES:
        final = runs.comparison not in ("rates", "effects", "strengths", "shares")
        seeds = {seed for _, seed in runs}
        assert {config.problems for config in runs.values()} == {"test" if final else "validation"}
        assert seeds <= set(common["final_seeds"] + common["more_seeds"] if final else common["selection_seeds"])
        assert all(config.seed == seed == config.start.seed for (_, seed), config in runs.items())
        before = runs.comparison in ("rates", "strengths")  # the amendments
        assert {config.plan for config in runs.values()} == {first_checksum() if before else checksum()}
        assert {config.evaluation_draws for config in runs.values()} == {"same" if before else "fresh"}
    assert not set(common["selection_seeds"]) & set(common["final_seeds"] + common["more_seeds"])


def test_arms_of_a_stage_differ_in_their_updates_alone():
    for runs in STAGES:
        same = {"step", "variants", *(("learning_rate",) if runs.comparison in ("rates", "fair") else ())}
        for seed in {seed for _, seed in runs}:
            arms = {arm: config for (arm, s), config in runs.items() if s == seed}
            assert len({config.model_dump_json(exclude=same) for config in arms.values()}) == 1
            assert len({config.model_dump_json() for config in arms.values()}) == len(arms)
    assert {config.step.denominator for runs in STAGES for config in runs.values()} == {"all"}


def test_the_two_regimes_have_the_same_responses_and_updates():
    def counts(config):
        updates = config.steps * config.step.updates * config.step.parts
        return (
            config.steps * config.prompts * config.group_size,
            updates,
            config.prompts * config.group_size // config.step.parts,
        )

    fresh, stale = (next(iter(STAGES[NAMES.index(name)].values())) for name in ("fair", "stale"))
    assert counts(fresh) == counts(stale) and (fresh.step.parts, stale.step.parts) == (1, 2)


def test_controls_are_matched_to_the_chosen_strengths():
    arms = fair.final_arms(CHOSEN)
    for method, rule in (("Clip_B", "clip_b"), ("Clip_V", "clip_v")):
        for choice in ("random", "rarest"):
            options = arms[f"{choice} mask like {method}"].rule.options
            assert options["like"] == rule and options["choice"] == choice
            assert options["mu"] == CHOSEN.strengths[method] == arms[method].rule.options["mu"]


def test_ten_seeds_where_the_plan_says_so():
    for free, ten in (
        ({"average with the start": 0.3, "lower rate": 1e-4}, {"GRPO", "Clip_B", "Clip_V"}),
        ({"lower rate": 1e-4, "temperature": 1.2}, {"GRPO", "Clip_B", "Clip_V", "GRPO 0.0001"}),
    ):
        runs = fair.finals(Choices(**vars(CHOSEN) | {"free": free}))
        seeds = {arm: sum(other == arm for other, _ in runs) for arm, _ in runs}
        assert {arm for arm, count in seeds.items() if count == 10} == ten and set(seeds.values()) == {5, 10}
        assert {f"GRPO {rate:g}" for rate in (2.5e-5, 5e-5, 1e-4)} <= set(seeds)


def test_every_statistic_is_controlled_on_the_same_pool():
    runs = STAGES[NAMES.index("equal-entropy")]
    rules = {arm: config.step.rule for (arm, _), config in runs.items()}
    masks = [rule for rule in rules.values() if rule.name == "masked_share"]
    assert len(masks) == 12 and len(rules) == 14
    counts = {arm: sum(other == arm for other, _ in runs) for arm in rules}
    assert {arm for arm, count in counts.items() if count == 10} == {
        f"{name} at {target}" for name in ("D", "p", "random") for target in CHOSEN.targets
    }
    for (arm, _), config in runs.items():
        control = config.step.control
        assert arm.endswith(f" at {control.target:g}") and control.target in CHOSEN.targets
        random = config.step.rule.options.get("statistic") == "random"
        assert control.option == ("share" if config.step.rule.name == "masked_share" and not random else "coefficient")
        if random:
            assert config.step.rule.options["share"] == CHOSEN.shares[CHOSEN.targets.index(control.target)]


def test_every_strength_of_the_methods_is_tested():
    runs = fair.finals(CHOSEN)
    for method in ("Clip_B", "Clip_V"):
        mus = {
            config.step.rule.options["mu"]
            for (arm, _), config in runs.items()
            if config.step.rule.name == method.lower()
        }
        assert mus == set(plan()["strengths"][method])


def test_amendments_take_the_place_of_what_they_name():
    assert plan()["equal_entropy"]["largest_share"] == 0.2 and plan()["equal_entropy"]["horizon"] == 10
    assert checksum() != first_checksum()


def test_elsewhere_only_task_or_start_differ():
    there = {(arm, seed): config for (arm, seed), config in fair.finals(CHOSEN).items()}
    for runs in fair.elsewhere(CHOSEN):
        arms = {arm for arm, _ in runs}
        assert arms == {"GRPO", "Clip_B", "entropy bonus", "D at 0.3"} and {seed for _, seed in runs} == {10, 11, 12}
        for (arm, seed), config in runs.items():
            if arm != "D at 0.3":
                changed = {"start", "size", "evaluation_sizes"}
                assert config.model_dump(exclude=changed) == there[arm, seed].model_dump(exclude=changed)
            assert config.start.seed == seed and config.start != there["GRPO", seed].start
    with_rate = Choices(**vars(CHOSEN) | {"free": {"lower rate": 5e-5}})
    assert all(any(arm == "GRPO 5e-05" for arm, _ in runs) for runs in fair.elsewhere(with_rate))


def test_choices_of_another_plan_are_refused(tmp_path):
    Choices("f" * 64, rate=1e-4).write(tmp_path / "choices.json")
    with pytest.raises(ValueError, match="made under the plan ffffffffffff"):
        choices(tmp_path / "choices.json")
    CHOSEN.write(tmp_path / "choices.json")
    assert choices(tmp_path / "choices.json") == CHOSEN
    assert choices(tmp_path / "none.json") == Choices(checksum())


def test_test_problems_wait_for_the_committed_choices(tmp_path, monkeypatch):
    path = tmp_path / "choices.json"
    path.write_text("{}")
    require_committed(path)  # no repository: nothing could be committed

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=b", *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    git("init")
    git("commit", "--allow-empty", "-m", "empty")
    monkeypatch.setattr(plans.require_committed, "__defaults__", (path,))
    with pytest.raises(RuntimeError, match="is not committed as it stands"):
        compute(Experiment(problems="test", steps=0), None)
    git("add", ".")
    with pytest.raises(RuntimeError, match="is not committed as it stands"):
        require_committed(path)
    git("commit", "-m", "choices")
    require_committed(path)
    path.write_text("{ }")
    with pytest.raises(RuntimeError, match="is not committed as it stands"):
        require_committed(path)
