"""Does today's code still do what made the records? Short runs of every kind are made again and compared.

- `early`: three batches of every kind of run, from its stored warm start, and what the instruments measure;
- `late`: from one stored state of plain GRPO at batch 40 (weights, Adam's moments, generators, entropies so far) two
  batches with every rule and set of options, since many rules act late in a run or never in a short one;
- `whole`: whole runs of single methods, one always and another by turns.

    python -m companion.runs.replay

With the versions and on the processor that made a reference, all numbers must be the same. Elsewhere the last digits of
sums differ, and each column may be off by `TOLERANCE`. Now and then a draw falls the other way there, after which a run
goes its own way: so whole runs are left out, and a few others (`STRAYS`) may be off after their first batch, which does
not depend on what was drawn after an update.
"""

import argparse
import hashlib
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from companion.instruments.anatomy import Anatomy
from companion.instruments.own_share import OwnShare
from companion.instruments.probe import Probe
from companion.laboratory.experiment import Experiment, Trainer, evaluate, train_on_batch
from companion.laboratory.rule import Rule
from companion.language_models.language_model_anatomy import LanguageModelAnatomy
from companion.processes import end_with_parent
from companion.provenance import ROOT
from companion.record import Record, place
from companion.runs import comparisons
from companion.runs.names import identity
from companion.runs.records import Run, compute, made_by, on_this_machine, reproducible
from companion.runs.store import OtherConfig, Store, StoreError

BATCHES = 3
LATE = 40  # batches of plain GRPO before the late replay
STATE = f"state/grpo-batch-{LATE}"
SAMPLES = 4  # responses to each test problem in a replay
KINDS = ("early", "late", "whole")
ALWAYS = "whole/methods/clip-b/seed-0"
WHOLE = ("GRPO", "Clip_B", "Clip_V", "random mask", "rarest mask", "on-policy", "Clip-Cov, matched")
# Rules that no run has, or whose settings in the comparisons do nothing at batch 40, with settings that do.
EXTRA = {
    "CISPO": Rule(name="cispo", options={"largest_ratio": 1.1}),
    "SAPO": Rule(name="sapo"),
    "GMPO": Rule(name="gmpo", options={"clip_low": 0.1, "clip_high": 0.1}),
    "ASPO": Rule(name="aspo"),
    "Entrocraft": Rule(name="entrocraft"),
    "REPO-R": Rule(name="repo_r", options={"target": 1.0}),
    "adaptive bonus": Rule(name="adaptive_entropy_bonus", options={"target": 1.0}),
    "Clip_V, capped": Rule(name="clip_v", options={"mu": 1.5, "max_fraction": 1e-3}),
}
TOLERANCE = 0.02  # of a column: the sum of the differences over the sum of the sizes
ZERO = 1e-10  # a value this small is rounding
ZEROS = {"kl": 1e-7}  # before the first update it is a mean of differences that only float32's rounding makes
CHOOSING = ("rates", "effects", "strengths", "shares")  # whose settings are not replayed late but for the chosen ones
STRAYS = 0.1  # share of the replays
EXTREMES = {"ratio_max"}  # of one token: a single draw changes it


def references() -> dict[str, Run]:
    """Every run that can be replayed, by name; the config of a late one is that of its whole run."""
    released, plain_run = comparisons.named_by_name(), _plain()
    base = plain_run.config
    found: dict[str, Run] = {}
    seen: set[str] = set()
    arms: set[str] = set()
    for name, run in released.items():
        config = run.config
        if (arm := name.rpartition("/")[0]) in arms:
            continue  # the first seed is enough
        arms.add(arm)
        if isinstance(config, Experiment):
            plain = config.step.model_copy(update={"rule": Rule(), "control": None})
            alike = {"step": plain, "learning_rate": base.learning_rate}
            if (kind := identity(config.model_copy(update=alike))) not in seen:
                seen.add(kind)
                short = {"steps": min(BATCHES, config.steps), "evaluation_samples": SAMPLES}
                found[f"early/{name}"] = Run(f"early/{name}", config.model_copy(update=short), run.start)
            twice = {"updates": base.step.updates if config.step.parts == 1 else 1}
            late = base.model_copy(update={"step": config.step.model_copy(update=twice)})
            chosen = name.partition("/")[0] not in CHOOSING
            if config.steps and chosen and (rule := "late" + identity(late)) not in seen:
                seen.add(rule)
                found[f"late/{name}"] = Run(f"late/{name}", late, plain_run.start)
        elif (run.start is None or run.start.name in released) and (short := _short(config)) is not None:
            found[f"early/{name}"] = Run(f"early/{name}", short, run.start)
    for arm, rule in EXTRA.items():
        name = f"late/{place('extra', (arm, 0))}"
        found[name] = Run(name, comparisons.with_rule(base, rule), plain_run.start)
    found |= {
        f"whole/{run.name}": Run(f"whole/{run.name}", run.config, run.start)
        for run in comparisons.named(comparisons.methods(seeds=[0], arms=WHOLE)).values()
    }
    return found


def _short(config: Any) -> Any:
    """The same instrument on less."""
    if isinstance(config, Probe):
        return config.model_copy(update={"at": (1,), "batches": 1, "rules": config.rules[::4]})
    if isinstance(config, Anatomy):
        some = {name: trial for name, trial in config.trials.items() if name.endswith(": GRPO")}
        return config.model_copy(update={"at": (1,), "kept_states": 8, "kernel_states": 4, "trials": some})
    if isinstance(config, OwnShare):
        few = config.experiment.model_copy(update={"prompts": 16})
        return config.model_copy(update={"experiment": few, "problems": (4, 16), "states": 4})
    if isinstance(config, LanguageModelAnatomy):
        first = next(iter(config.trials))
        some = {"batches": (config.batches[0][:2],), "unseen": config.unseen[:1]}
        return config.model_copy(update=some | {"kept_states": 8, "trials": {first: config.trials[first]}})
    return None


def make_state(store: Store) -> None:
    """Store the state of plain GRPO after `LATE` batches, with which late replays begin; see `Trainer.state`."""
    run = _plain()
    trainer = Trainer(run.config, _kept(run.start.name, run.start.config, store).tensors)
    with reproducible():
        rows = [train_on_batch(trainer, ledger=False) for _ in range(LATE)]
    store.put(STATE, run.config, Record({"series": _columns(rows)}, trainer.state(), made_by()))


def _plain() -> Run:
    (run,) = comparisons.named(comparisons.methods(seeds=[0], arms=["GRPO"])).values()
    return run


def _kept(name: str, config: Any, store: Store) -> Record:
    """What a replay begins with; today's code must not remake it."""
    if (record := store.get(name, config)) is None:
        raise StoreError(f"{name} has no usable record, and a replay begins with it; take it from the repository")
    return record


def replay(run: Run, store: Store) -> Record:
    """Make a run again; `store` has its start, or the state for a late one.

    Raises:
        StoreError: the start or the state is missing or damaged.
    """
    if not run.name.startswith("late/"):
        start = _kept(run.start.name, run.start.config, store) if run.start else None
        with reproducible():
            record = compute(run.config, start)
        return Record(record.document, made_by=made_by())
    before = _kept(STATE, _plain().config, store).tensors
    with reproducible():
        trainer = Trainer(run.config, _kept(run.start.name, run.start.config, store).tensors)
        trainer.restore(before)
        rows = [train_on_batch(trainer, ledger=False) for _ in range(2)]
        evaluation = evaluate(trainer.policy, LATE + 2, 3, 1.0, SAMPLES, 10**6 + run.config.seed)
    return Record({"series": _columns(rows), "evaluations": [evaluation]}, made_by=made_by())


def _columns(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def unlike(now: Any, then: Any, path: str = "") -> Iterator[str]:
    """Where two documents differ: path, and both values."""
    if isinstance(now, dict) and isinstance(then, dict) and now.keys() == then.keys():
        for name in then:
            yield from unlike(now[name], then[name], f"{path}.{name}".lstrip("."))
    elif isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        for number, (a, b) in enumerate(zip(now, then)):
            yield from unlike(a, b, f"{path}[{number}]")
    elif now != then:
        yield f"{path}: {now!r}, was {then!r}"


def far(now: Any, then: Any, path: str = "") -> Iterator[str]:
    """Where two documents differ by more than `TOLERANCE`, column by column."""
    if isinstance(now, dict) and isinstance(then, dict) and now.keys() == then.keys():
        for name in then.keys() - EXTREMES:
            yield from far(now[name], then[name], f"{path}.{name}".lstrip("."))
    elif isinstance(then, list) and then and isinstance(then[0], dict | list) and len(now) == len(then):
        for number, (a, b) in enumerate(zip(now, then)):
            yield from far(a, b, f"{path}[{number}]")
    elif _is_far(*([x] if not isinstance(x, list) else x for x in (now, then)), ZEROS.get(path.split(".")[-1], ZERO)):
        yield f"{path}: {now!r}, was {then!r}"


def _is_far(now: list, then: list, zero: float) -> bool:
    if len(now) != len(then) or not all(isinstance(x, int | float) for x in [*now, *then] if x is not None):
        return now != then
    pairs = [(a or 0.0, b or 0.0) for a, b in zip(now, then)]
    allowed = sum(TOLERANCE * abs(b) + zero for _, b in pairs)
    return not sum(abs(a - b) for a, b in pairs) <= allowed  # NaN is far


def check(run: Run, store: Store) -> tuple[str, list[str], float]:
    """Replay one run.

    Returns:
        "same" or "DIFFERS" where it must be the same, else "near", "strays" or "far", or "left out"; where it differs;
        seconds.
    """
    start = time.perf_counter()
    try:
        then = store.get(run.name, run.config)
    except OtherConfig as error:
        return "DIFFERS", [f"{error}; or, if a default was meant to change: make replay RENEW=1"], 0.0
    if then is None:
        return "DIFFERS", ["no reference of this config; make one with: make replay RENEW=1"], 0.0
    exact = on_this_machine(then)
    if not exact and run.name.startswith("whole/"):
        return "left out", [], 0.0
    now = replay(run, store)
    where = list((unlike if exact else far)(now.document, then.document))
    if exact:
        word = "DIFFERS" if where else "same"
    elif first := list(far(_first_batch(now.document), _first_batch(then.document))):
        word, where = "far", first
    else:
        word = "strays" if where else "near"
    return word, where, time.perf_counter() - start


def _first_batch(document: dict[str, Any]) -> dict[str, Any]:
    """Of a training run's document what does not depend on draws after an update; of other documents everything."""
    if "series" not in document:
        return document
    before = [row for row in document["evaluations"] if row["step"] == 0]
    return {"series": {name: column[:1] for name, column in document["series"].items()}, "evaluations": before}


def turn(commit: str | None) -> str:
    """The whole run whose turn it is: another one at each commit."""
    whole = [name for name in references() if name.startswith("whole/") and name != ALWAYS]
    return whole[int(hashlib.sha256((commit or "").encode()).hexdigest(), 16) % len(whole)]


def renew(name: str, store: Store) -> None:
    """Write a reference from today's code."""
    run = references()[name]
    store.path(name).unlink(missing_ok=True)
    store.put(name, run.config, replay(run, store))


def _check(name: str, store: Store) -> tuple[str, list[str], float]:
    return check(references()[name], store)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m companion.runs.replay",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="references by the beginning of their name")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder that has replay/ and runs/")
    parser.add_argument("--jobs", type=int, default=2, help="replays at a time, one thread each")
    parser.add_argument("--renew", action="store_true", help="write the references anew: the code means to differ")
    options = parser.parse_args(arguments)
    store = Store(options.data / "replay", options.data / "runs")
    chosen = [ALWAYS, turn(made_by()["commit"]), *(n for n in references() if not n.startswith("whole/"))]
    if options.only:
        chosen = [name for name in references() if name.startswith(tuple(options.only))]
        if not chosen:
            parser.error(f"no reference begins with {', '.join(options.only)}; there are {', '.join(references())}")
    if options.renew and not options.only:
        make_state(store)
    begin, words = time.perf_counter(), Counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, initializer=end_with_parent) as pool:
        if options.renew:
            chosen = chosen if options.only else list(references())
            list(pool.map(renew, chosen, [store] * len(chosen)))
            print(f"{len(chosen)} references written to {store.root}")
            return 0
        for name, (word, where, seconds) in zip(chosen, pool.map(_check, chosen, [store] * len(chosen))):
            print(f"{name:60}{word:9}{seconds:6.1f} s", flush=True)
            for line in where[:5]:
                print(f"    {line}")
            words[word] += 1
    summary = ", ".join(f"{number} {word}" for word, number in words.items())
    print(f"{len(chosen)} replays: {summary}; {time.perf_counter() - begin:.0f} s")
    return 1 if words["DIFFERS"] or words["far"] or words["strays"] > STRAYS * len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
