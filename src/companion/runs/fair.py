"""The runs of the planned comparison (data/plan.toml), stage by stage; a stage needs what those before it decided.

On validation problems: `rates`, `effects`, `strengths`, `shares`. On test problems: `finals`, `stale`, `equal_entropy`.
"""

from collections.abc import Iterator

from companion.laboratory.experiment import Experiment, Variant
from companion.laboratory.policies import WarmStart
from companion.laboratory.rule import Rule
from companion.laboratory.updates import Control, StepConfig
from companion.runs.names import Runs
from companion.runs.plan import Choices, checksum, first_checksum, plan

BONUS = "bonus alone"
# Arms that are run again with nothing chosen anew, and where: another task, and another start of another shape.
HEADLINE = ("GRPO", "Clip_B", "entropy bonus")
ELSEWHERE: dict[str, dict] = {
    "walks": {"start": {"task": "walks", "sizes": (5, 7), "noise": 0.6}, "size": 5, "evaluation_sizes": (5, 7)},
    "other start": {"start": {"width": 64, "layers": 5, "noise": 0.5}},
}
# Arms whose strength the plan's rule chooses: the rule, its option, and its other options.
TUNED: dict[str, tuple[str, str, dict]] = {
    "Clip_B": ("clip_b", "mu", {}),
    "Clip_V": ("clip_v", "mu", {}),
    "entropy bonus": ("entropy_bonus", "coefficient", {}),
    "Clip-Cov": ("clip_cov", "fraction", {"clip": 0.2}),
    "KL to the start": ("reference_kl", "coefficient", {}),
}


def trial(
    seed: int, step: StepConfig, *, rate: float, batches: int, problems: str = "validation", **other
) -> Experiment:
    """A run in the fresh regime."""
    common = plan()["common"]
    config = Experiment(
        start=WarmStart(seed=seed),
        seed=seed,
        steps=batches,
        prompts=common["prompts"],
        group_size=common["group_size"],
        learning_rate=rate,
        step=step.model_copy(update={"denominator": common["denominator"]}),
        evaluation_samples=common["evaluation_samples"],
        evaluation_sizes=tuple(common["sizes"]),
        evaluate_every=common["evaluate_every"],
        problems=problems,
        evaluation_draws=common["evaluation_draws"],
        kl_from_start=True,
        variants_at=common["endpoints"],
        plan=checksum(),
    )
    return config.model_copy(update=other)


# Of the runs from before the amendments.
AS_FIRST = {"plan": first_checksum(), "evaluation_draws": "same"}


def tuned(arm: str, strength: float) -> StepConfig:
    """How an arm with a strength of its own updates."""
    if arm == "EntroPIC":
        control = Control(option="strength", target=strength, **plan()["strengths"]["entropic"])
        return StepConfig(rule=Rule(name="sign_weights", options={"strength": 0.0}), control=control)
    name, option, others = TUNED[arm]
    return StepConfig(rule=Rule(name=name, options={option: strength} | others))


def actuator(name: str, *, share: float = 0.0) -> tuple[Rule, str, float]:
    """What raises entropy at the same entropy: the rule at strength 0, the option that is its strength, the largest.

    Names are the plan's statistics and `BONUS`; the random mask takes `share` and moves a bonus beside it.
    """
    section = plan()["equal_entropy"]
    if name == BONUS:
        return Rule(name="entropy_bonus", options={"coefficient": 0.0}), "coefficient", section["largest_bonus"]
    rule = Rule(name="masked_share", options={"statistic": name, "share": share})
    return (
        (rule, "coefficient", section["largest_bonus"])
        if name == "random"
        else (rule, "share", section["largest_share"])
    )


def controlled(name: str, target: float, effects: dict[str, float], *, share: float = 0.0) -> StepConfig:
    """Updates with an actuator that holds entropy at the target."""
    rule, option, largest = actuator(name, share=share)
    effect = effects[BONUS if name == "random" else name]
    horizon = plan()["equal_entropy"]["horizon"]
    return StepConfig(
        rule=rule, control=Control(option=option, target=target, effect=effect, horizon=horizon, largest=largest)
    )


def variants() -> tuple[Variant, ...]:
    """What is free of a run's own weights, every setting."""
    free = plan()["free"]
    return (
        *(Variant(temperature=x) for x in free["temperature"]),
        *(Variant(start_share=x) for x in free["average with the start"]),
        *(Variant(averaged=x) for x in free["average of the last"]),
    )


def rates() -> Runs:
    """GRPO at every learning rate."""
    section = plan()["learning_rate"]
    runs = {
        (f"GRPO {rate:g}", seed): trial(seed, StepConfig(), rate=rate, batches=section["batches"], **AS_FIRST)
        for rate in section["values"]
        for seed in plan()["common"]["selection_seeds"]
    }
    return Runs("rates", runs)


def effects(chosen: Choices) -> Runs:
    """GRPO and every actuator at half its largest strength, for a few batches."""
    batches = plan()["equal_entropy"]["effect_batches"]
    arms = {"GRPO": StepConfig()}
    for name in (*plan()["equal_entropy"]["statistics"], BONUS):
        if name != "random":
            rule, option, largest = actuator(name)
            arms[name] = StepConfig(rule=rule.with_option(option, largest / 2))
    return _validated("effects", arms, chosen, batches=batches)


def strengths(chosen: Choices) -> Runs:
    """GRPO with what is free, and every strength of every arm that has one."""
    arms = {
        f"{arm} {strength:g}": tuned(arm, strength)
        for arm in (*TUNED, "EntroPIC")
        for strength in plan()["strengths"][arm]
    }
    settings = {"batches": chosen.batches, **AS_FIRST}
    plain = _validated("strengths", {"GRPO": StepConfig()}, chosen, variants=variants(), **settings)
    return Runs("strengths", plain | _validated("strengths", arms, chosen, **settings))


def shares(chosen: Choices) -> Runs:
    """The mask by D at each target, whose share the random mask takes."""
    arms = {f"D at {target:g}": controlled("D", target, chosen.effects) for target in chosen.targets}
    return _validated("shares", arms, chosen, batches=chosen.batches)


def final_arms(chosen: Choices) -> dict[str, StepConfig]:
    """The arms of the fresh regime at the chosen rate, by name."""
    found = {"GRPO": StepConfig()}
    for arm in (*TUNED, "EntroPIC"):
        found[arm] = tuned(arm, chosen.strengths[arm])
        if arm in ("Clip_B", "Clip_V"):
            for choice in ("random", "rarest"):
                like = {"like": TUNED[arm][0], "mu": chosen.strengths[arm], "choice": choice}
                found[f"{choice} mask like {arm}"] = StepConfig(rule=Rule(name="matched_mask", options=like))
    return found


def best_free(chosen: Choices) -> str:
    """The best free rival's name."""
    return next(iter(chosen.free))


def finals(chosen: Choices) -> Runs:
    """The fresh regime on test problems: all arms, Clip_B and Clip_V at every strength, and GRPO at lower rates."""
    many = {"GRPO", "Clip_B", "Clip_V"} | (
        {f"GRPO {chosen.free['lower rate']:g}"} if best_free(chosen) == "lower rate" else set()
    )
    arms = {arm: (step, chosen.rate) for arm, step in final_arms(chosen).items()}
    for method in ("Clip_B", "Clip_V"):
        for strength in plan()["strengths"][method]:
            if strength != chosen.strengths[method]:
                arms[f"{method} {strength:g}"] = tuned(method, strength), chosen.rate
    arms |= {f"GRPO {rate:g}": (StepConfig(), rate) for rate in lower_rates(chosen)}
    runs = {
        (arm, seed): trial(
            seed,
            step,
            rate=rate,
            batches=chosen.batches,
            problems="test",
            **({"variants": variants()} if arm == "GRPO" else {}),
        )
        for arm, (step, rate) in arms.items()
        for seed in _final_seeds(arm in many)
    }
    return Runs("fair", runs)


def _final_seeds(many: bool) -> list[int]:
    common = plan()["common"]
    return common["final_seeds"] + (common["more_seeds"] if many else [])


def lower_rates(chosen: Choices) -> list[float]:
    """The learning rates below the chosen one."""
    return [rate for rate in plan()["learning_rate"]["values"] if rate < chosen.rate]


def stale(chosen: Choices) -> Runs:
    """The stale regime on test problems: twice the prompts, an update on each half; masks anew, and once a batch."""
    arms, common = final_arms(chosen), plan()["common"]
    some = {arm: arms[arm] for arm in ("GRPO", "Clip_B", "Clip_V", "entropy bonus")}
    some |= {
        f"{arm}, once a batch": arms[arm].model_copy(update={"masks": "once a batch"}) for arm in ("Clip_B", "Clip_V")
    }
    regime = {"prompts": 2 * common["prompts"], "evaluate_every": common["evaluate_every"] // 2}
    runs = {
        (arm, seed): trial(
            seed,
            step.model_copy(update={"parts": 2}),
            rate=chosen.rate,
            batches=chosen.batches // 2,
            problems="test",
            **regime,
        )
        for arm, step in some.items()
        for seed in common["final_seeds"]
    }
    return Runs("stale", runs)


def equal_entropy(chosen: Choices) -> Runs:
    """Every actuator at both targets on test problems."""
    section = plan()["equal_entropy"]
    runs = {}
    for target, share in zip(chosen.targets, chosen.shares):
        for name in (*section["statistics"], BONUS):
            step = controlled(name, target, chosen.effects, share=share if name == "random" else 0.0)
            for seed in _final_seeds(name in section["many_seeds"]):
                settings = {"rate": chosen.rate, "batches": chosen.batches, "problems": "test"}
                runs[f"{name} at {target:g}", seed] = trial(seed, step, **settings)
    return Runs("equal-entropy", runs)


def elsewhere(chosen: Choices) -> Iterator[Runs]:
    """GRPO, Clip_B, the bonus, the best free rival and D at the first target: another task, and another start."""
    arms = {arm: (step, chosen.rate) for arm, step in final_arms(chosen).items() if arm in HEADLINE}
    arms[f"D at {chosen.targets[0]:g}"] = controlled("D", chosen.targets[0], chosen.effects), chosen.rate
    if best_free(chosen) == "lower rate":
        rate = chosen.free["lower rate"]
        arms[f"GRPO {rate:g}"] = StepConfig(), rate
    for place, settings in ELSEWHERE.items():
        runs = {}
        for arm, (step, rate) in arms.items():
            for seed in plan()["elsewhere"]["seeds"]:
                other = {k: x for k, x in settings.items() if k != "start"}
                other |= {"start": WarmStart(seed=seed, **settings["start"])}
                other |= {"variants": variants()} if arm == "GRPO" else {}
                common = {"rate": rate, "batches": chosen.batches, "problems": "test"}
                runs[arm, seed] = trial(seed, step, **common, **other)
        yield Runs(f"elsewhere-{place.replace(' ', '-')}", runs)


def stages(chosen: Choices) -> Iterator[Runs]:
    """The runs that the choices come from, and once all is chosen those on test problems."""
    if chosen.rate is not None:
        yield rates()
    for decided, stage in (("effects", effects), ("strengths", strengths), ("shares", shares)):
        if getattr(chosen, decided) is not None:
            yield stage(chosen)
    if chosen.shares is not None:
        yield from (stage(chosen) for stage in (finals, stale, equal_entropy))
        yield from elsewhere(chosen)


def _validated(comparison: str, arms: dict[str, StepConfig], chosen: Choices, *, batches: int, **other) -> Runs:
    runs = {
        (arm, seed): trial(seed, step, rate=chosen.rate, batches=batches, **other)
        for arm, step in arms.items()
        for seed in plan()["common"]["selection_seeds"]
    }
    return Runs(comparison, runs)
