"""Which runs are compared with which. Every arm of a comparison is one base config with one thing changed."""

from collections.abc import Hashable, Iterator, Sequence
from functools import cache

from companion.instruments.anatomy import Anatomy, Trial
from companion.instruments.own_share import OwnShare
from companion.instruments.probe import Probe
from companion.laboratory.experiment import Experiment
from companion.laboratory.policies import WarmStart
from companion.laboratory.rule import Rule
from companion.laboratory.updates import StepConfig
from companion.language_models.language_model import COMMITTED, SMOLLM2, Responses
from companion.language_models.language_model_anatomy import LanguageModelAnatomy, batches_of
from companion.provenance import ROOT
from companion.runs import fair
from companion.runs.names import WARM_START, Catalogue, Runs, start_of, warm_starts
from companion.runs.plan import choices
from companion.runs.records import Config, Run, run_all
from companion.runs.store import Store

# Which way entropy must go when only these tokens keep their gradient: (sign of A, S above or below 0) -> direction.
DIRECTIONS = {
    ("positive", "above"): -1,
    ("positive", "below"): +1,
    ("negative", "above"): +1,
    ("negative", "below"): -1,
}
SEEDS = (0, 1, 2)  # of methods and sweeps; probes have two more


def plain(*, steps: int = 120, seeds: Sequence[int] = (0, 1, 2)) -> Runs:
    """GRPO as it is; the first seed keeps the entropy ledger at every step."""
    runs = {("GRPO", seed): Experiment(seed=seed, steps=steps, ledger_every=int(seed == seeds[0])) for seed in seeds}
    return Runs("one-update", runs)


def intervention_rules() -> dict[str, Rule]:
    """The paper's four interventions by S, their mask-out twins, the same four by D, and random controls of both."""
    families = {
        "keep S": {"action": "keep", "statistic": "S"},
        "remove S": {"action": "remove", "statistic": "S"},
        "keep D": {"action": "keep", "statistic": "D"},
        "keep at random": {"action": "keep", "statistic": "S", "at_random": True},
        "remove at random": {"action": "remove", "statistic": "S", "at_random": True},
    }
    return {
        f"{family}, {advantage} {sign}": Rule(
            name="intervention", options=options | {"advantage": advantage, "sign": sign}
        )
        for family, options in families.items()
        for (advantage, sign), direction in DIRECTIONS.items()
        if family != "remove at random" or direction < 0  # the control of the two removals that should save entropy
    }


def interventions(*, steps: int = 30, seeds: Sequence[int] = (0, 1, 2)) -> Runs:
    """Every intervention under every seed; the first seed keeps the entropy ledger at every fifth step."""
    common = {"steps": steps, "evaluation_samples": 4}  # these runs are about entropy; what they learn is not judged
    bases = {seed: Experiment(seed=seed, ledger_every=5 * int(seed == seeds[0]), **common) for seed in seeds}
    rules = intervention_rules().items()
    return Runs("interventions", {(arm, s): with_rule(base, rule) for arm, rule in rules for s, base in bases.items()})


def base(seed: int) -> Experiment:
    """Plain GRPO of notebooks 07 and 08: two updates per batch, so that importance ratios matter; own warm start.

    Evaluated on held-out problems of the trained size and on those of four numbers, which no reinforcement touches.
    """
    return Experiment(
        start=WarmStart(seed=seed),
        seed=seed,
        steps=48,
        prompts=128,
        step=StepConfig(updates=2),
        evaluation_samples=64,
        evaluation_sizes=(3, 4),
    )


# The methods of notebook 07 that have full runs. Options that are not named are the defaults of `methods`, the released
# ones where known.
METHODS: dict[str, Rule] = {
    "GRPO": Rule(),
    "no PPO clip": Rule(options={"clip_low": 1.0, "clip_high": 1e9}),
    "clip-higher": Rule(options={"clip_high": 0.28}),
    "clip-low, tighter": Rule(options={"clip_low": 0.1}),
    "on-policy": Rule(name="on_policy"),
    "80/20": Rule(name="top_entropy"),
    "Clip-Cov, released": Rule(name="clip_cov"),
    "Clip-Cov, matched": Rule(name="clip_cov", options={"fraction": 0.02}),
    "KL-Cov": Rule(name="kl_cov"),
    "advantage reweighting": Rule(name="advantage_reweighting"),
    "rare positives": Rule(name="rare_positives"),
    "W-REINFORCE": Rule(name="w_reinforce"),
    "NSR": Rule(name="w_reinforce", options={"positive": 0.0}),
    "CE-GPPO": Rule(name="ce_gppo"),
    "GSPO": Rule(name="gspo"),
    "entropy-ratio clipping": Rule(name="entropy_ratio_clipping"),
    "OPEFO": Rule(name="opefo"),
    "REPO": Rule(name="repo"),
    "STEER": Rule(name="steer"),
    "covariance-aware": Rule(name="covariance_aware"),
    "entropy bonus": Rule(name="entropy_bonus"),
    "adaptive bonus": Rule(name="adaptive_entropy_bonus"),
    "Clip_B": Rule(name="clip_b", options={"mu": 2.0}),
    "Clip_B, two-sided": Rule(name="clip_b", options={"mu": 2.0, "reading": "two-sided"}),
    "Clip_V": Rule(name="clip_v", options={"mu": 3.0}),
    "Clip_V, two-sided": Rule(name="clip_v", options={"mu": 3.0, "reading": "two-sided"}),
    "Clip_V, capped": Rule(name="clip_v", options={"mu": 8.5, "max_fraction": 1e-4}),
    "random mask": Rule(name="matched_mask", options={"like": "clip_b", "mu": 2.0, "choice": "random"}),
    "rarest mask": Rule(name="matched_mask", options={"like": "clip_b", "mu": 2.0, "choice": "rarest"}),
}
# What notebook 07 tries in single updates: also rules without a full run, and rules with the clip of their own scripts
# instead of GRPO's, short of its dual clip of 10. EntroPIC's strength is that of its controller with entropy 0.2 nats
# below its target.
PROBED: dict[str, Rule] = METHODS | {
    "CISPO": Rule(name="cispo"),
    "SAPO": Rule(name="sapo"),
    "GMPO": Rule(name="gmpo"),
    "dual clip": Rule(options={"dual_clip": 3.0}),
    "ASPO": Rule(name="aspo"),
    "EntroPIC": Rule(name="sign_weights", options={"strength": 0.2}),
    "Entrocraft": Rule(name="entrocraft"),
    "REPO-R": Rule(name="repo_r"),
    "80/20, its clip": Rule(name="top_entropy", options={"clip_high": 0.28}),
    "advantage reweighting, its clip": Rule(name="advantage_reweighting", options={"clip_high": 0.24}),
    "entropy-ratio clipping, its clip": Rule(name="entropy_ratio_clipping", options={"clip_high": 0.28}),
    "STEER, its clip": Rule(name="steer", options={"clip_high": 0.28}),
    "CE-GPPO, imitation": Rule(name="ce_gppo", options={"imitation": 0.1}),
}
MU = {"clip_b": (1.0, 1.5, 2.0, 2.5, 3.0), "clip_v": (1.5, 2.0, 3.0, 5.0, 8.5)}


def methods(*, seeds: Sequence[int] = SEEDS, arms: Sequence[str] = tuple(METHODS)) -> Runs:
    """A full run of each method under each seed."""
    return Runs("methods", {(arm, seed): with_rule(base(seed), METHODS[arm]) for arm in arms for seed in seeds})


def probes(*, seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> Runs:
    """One update with and without each rule of `PROBED`, early and late in a run of GRPO, by seed."""
    rules = tuple(PROBED.values())
    return Runs("probes", {seed: Probe(experiment=base(seed), rules=rules, at=(4, 40)) for seed in seeds})


def sweeps(*, seeds: Sequence[int] = SEEDS) -> Runs:
    """Clip_B and Clip_V over mu in both readings. An arm is named "family mu", for example "Clip_B 2.0"."""
    rules = {
        f"{family} {mu}": Rule(name=name, options={"mu": mu, "reading": reading})
        for family, name, reading in (
            ("Clip_B", "clip_b", "released"),
            ("Clip_B two-sided", "clip_b", "two-sided"),
            ("Clip_V", "clip_v", "released"),
            ("Clip_V two-sided", "clip_v", "two-sided"),
        )
        for mu in MU[name]
    }
    return Runs("sweeps", {(arm, seed): with_rule(base(seed), rule) for arm, rule in rules.items() for seed in seeds})


def before(runs: Runs) -> Runs:
    """The policies that the runs start from, evaluated as the runs are."""
    starts = {("start", s): run.model_copy(update={"steps": 0, "step": StepConfig()}) for (_, s), run in runs.items()}
    return Runs(runs.comparison, starts)


def trials() -> dict[str, Trial]:
    """Steps that are taken apart: GRPO's and the interventions', with SGD and with Adam that does or does not go on."""
    rules = {"GRPO": Rule()} | {n: rule for n, rule in intervention_rules().items() if n.startswith("keep S")}
    adam = {"learning_rate": 3e-4, "max_grad_norm": 1.0}
    optimizers = {
        "SGD": {"optimizer": "sgd", "learning_rate": 0.01},
        "Adam, no history": adam | {"optimizer": "fresh adam", "learning_rate": 3e-5},
        "Adam": adam,
    }
    variants = {
        "Adam, weight decay 0.1": adam | {"optimizer": "adamw", "weight_decay": 0.1},
        "Adam, gradient clipped to 0.05": adam | {"max_grad_norm": 0.05},
        "Adam, ten times the rate": adam | {"learning_rate": 3e-3},
    }
    made = {f"{name}: {arm}": Trial(rule=rule, **o) for name, o in optimizers.items() for arm, rule in rules.items()}
    return made | {f"{name}: GRPO": Trial(**o) for name, o in variants.items()}


def anatomies(*, seeds: Sequence[int] = (0, 1, 2)) -> Runs:
    """Steps of the small policy taken apart along a run of GRPO, by seed."""
    return Runs("anatomies", {s: Anatomy(experiment=Experiment(seed=s), trials=trials()) for s in seeds})


# Layers and width of the policies whose own shares are compared: one of the two varied from the small policy's.
NETWORKS = tuple((3, width) for width in (24, 48, 96, 192)) + tuple((layers, 96) for layers in (1, 2, 6))


def network(*, seeds: Sequence[int] = (0, 1, 2, 3, 4), sizes: Sequence[tuple[int, int]] = NETWORKS) -> Runs:
    """Own shares of policies of every size, each from a warm start of its own; an arm is named "layers x width".

    What was predicted of them stands in data/network_predictions.toml.
    """
    runs = {}
    for layers, width in sizes:
        for seed in seeds:
            start = WarmStart(seed=seed, layers=layers, width=width)
            experiment = Experiment(start=start, seed=seed, prompts=256)
            runs[f"{layers} x {width}", seed] = OwnShare(experiment=experiment)
    return Runs("network", runs)


def language_model_anatomy(responses: Responses, *, model: str = SMOLLM2, batches: int = 4) -> Runs:
    """Steps of a language model on given responses; those after the first `batches` times six are the unseen ones."""
    *trained, unseen = batches_of(responses, batches=batches + 1, size=6, max_tokens=24)
    steps = {
        "SGD": Trial(optimizer="sgd", learning_rate=1e-3),
        "Adam, 1e-6": Trial(optimizer="fresh adam", learning_rate=1e-6),
        "Adam, 1e-5": Trial(optimizer="fresh adam", learning_rate=1e-5),
    }
    config = LanguageModelAnatomy(model=model, batches=tuple(trained), unseen=unseen, trials=steps)
    return Runs("language-model-anatomy", {config.seed: config})


def ledgers(*, seeds: Sequence[int] = (0, 1, 2), steps: int = 40) -> Runs:
    """GRPO with one and with four updates a batch, at two learning rates, with the entropy ledger at every step."""
    runs = {
        (f"{updates} x {rate:g}", seed): Experiment(
            seed=seed,
            steps=steps,
            learning_rate=rate,
            step=StepConfig(updates=updates),
            ledger_every=1,
            evaluation_samples=4,
        )
        for updates in (1, 4)
        for rate in (3e-4, 1e-3)
        for seed in seeds
    }
    return Runs("ledgers", runs)


def with_rule(base: Experiment, rule: Rule) -> Experiment:
    """The base config with another rule and nothing else changed."""
    return base.model_copy(update={"step": base.step.model_copy(update={"rule": rule})})


def released() -> Iterator[Runs]:
    """Every run that the notebooks look at, comparison by comparison; the first one gives a run its name.

    The starts of `network` are not among them: they are large, and are made when a run of theirs is.
    """
    trained = [methods(), sweeps(), plain(), interventions(), ledgers()]
    trained += fair.stages(choices())
    others = [probes(), anatomies(), language_model_anatomy(Responses.read(ROOT / COMMITTED))]
    yield warm_starts(config for runs in [*trained, *others] for config in runs.values())
    yield from (before(plain()), *trained, *others, network())


@cache
def catalogue() -> Catalogue:
    """The released runs by name."""
    return Catalogue(released())


def named(runs: Runs) -> dict[Hashable, Run]:
    """The runs with their names and those of their starts."""

    def run(config: Config, key: Hashable) -> Run:
        name = catalogue().name(config, runs.comparison, key)
        return Run(name, config, (start := start_of(config)) and start_run(start))

    return {key: run(config, key) for key, config in runs.items()}


def start_run(start: WarmStart) -> Run:
    """A warm start as a run of its own."""
    return Run(catalogue().name(start, WARM_START, start.seed), start)


def named_by_name() -> dict[str, Run]:
    """The released runs by name, each once."""
    return {run.name: run for runs in released() for run in named(runs).values()}


def records_of(runs: Runs | Sequence[Runs], store: Store, *, jobs: int = 2, minutes: float = 3.0) -> dict:
    """The record of every run of one or several comparisons, by the same keys; see `records.run_all`."""
    wanted = {key: run for some in ([runs] if isinstance(runs, Runs) else runs) for key, run in named(some).items()}
    return dict(zip(wanted, run_all(list(wanted.values()), store, jobs=jobs, minutes=minutes)))
