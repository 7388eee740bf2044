"""Choose rates, strengths, free settings and targets on validation problems, by the plan's rules.

Stage by stage the runs of selection are made; what they decide is printed and at the end written to data/choices.json.
That file must be committed before anything is evaluated on test problems.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from companion.comparison.endpoints import TRAINED, endpoint, endpoints
from companion.record import Record
from companion.reports.tables import points
from companion.runs import comparisons, fair
from companion.runs.plan import Choices, checksum, plan
from companion.runs.store import Store

Records = Mapping[tuple[str, int], Record]


def rate_and_batches(records: Records) -> dict[str, Any]:
    """The learning rate, and how long all arms train."""
    section = plan()["learning_rate"]
    names = {f"GRPO {rate:g}": rate for rate in section["values"]}
    average = _trained(endpoints(records)).groupby("arm")["avg"].mean()
    best = average.idxmax()
    of_best = {key: record for key, record in records.items() if key[0] == best}
    early, late = (
        _trained(endpoints(of_best, until=until))[["avg", "entropy"]].mean()
        for until in (section["short"], section["batches"])
    )
    level = abs(late["avg"] - early["avg"]) <= section["level_average"]
    level &= abs(late["entropy"] - early["entropy"]) <= section["level_entropy"]
    return {"rate": names[best], "batches": section["short"] if level else section["batches"]}


def effects(records: Records) -> dict[str, float]:
    """Nats a batch that strength 1 of each actuator adds to entropy."""
    batches = plan()["equal_entropy"]["effect_batches"]
    half = batches // 2
    entropy = pd.Series(
        {key: pd.Series(record.document["series"]["entropy"][half:batches]).mean() for key, record in records.items()}
    ).unstack()
    gains = entropy.sub(entropy.loc["GRPO"], axis=1).drop("GRPO").mean(axis=1)
    action = (half + batches - 1) / 2  # updates before a batch of that half, mean
    largest = {name: fair.actuator(name)[2] for name in gains.index}
    return {name: float(f"{gain / (largest[name] / 2) / action:.3g}") for name, gain in gains.items()}


def within_margin(scores: pd.DataFrame, average: float) -> pd.DataFrame:
    """The settings whose average is not too far below GRPO's."""
    return scores[scores["avg"] >= average - plan()["strengths"]["margin"]]


def best_setting(scores: pd.DataFrame, average: float) -> Any:
    """The index of the best setting by the plan's rule; `scores` has avg and pass, `average` is GRPO's."""
    allowed = within_margin(scores, average)
    return scores["avg"].idxmax() if allowed.empty else allowed["pass"].idxmax()


def strengths(records: Records) -> dict[str, float]:
    """Of every arm that has one."""
    means, found = _means(records), {}
    for arm in (*fair.TUNED, "EntroPIC"):
        values = plan()["strengths"][arm]
        scores = means.loc[[f"{arm} {value:g}" for value in values]].set_axis(values)
        found[arm] = best_setting(scores, means.loc["GRPO", "avg"])
    return found


def free_settings(batches: int) -> dict[str, dict[float, Callable[[Record], pd.DataFrame]]]:
    """Of every free rival made of GRPO's own runs, the endpoint by setting."""
    free, every = plan()["free"], plan()["common"]["evaluate_every"]

    def until(share: float) -> Callable[[Record], pd.DataFrame]:
        return lambda record: endpoint(record, until=round(share * batches / every) * every)

    def variant(name: str, value: float) -> Callable[[Record], pd.DataFrame]:
        return lambda record: endpoint(record, **{name: value})

    return {
        "earlier checkpoint": {x: until(x) for x in free["earlier checkpoint"]},
        "temperature": {x: variant("temperature", x) for x in free["temperature"]},
        "average with the start": {x: variant("start_share", x) for x in free["average with the start"]},
        "average of the last": {x: variant("averaged", x) for x in free["average of the last"]},
    }


def free(records: Records, of_rates: Records, chosen: Choices) -> dict[str, float]:
    """Each free rival's best setting, the best rival first."""
    average = _means(records).loc["GRPO", "avg"]
    own = [record for (arm, _), record in records.items() if arm == "GRPO"]
    scores = {}
    for kind, settings in free_settings(chosen.batches).items():
        of_setting = {x: sum(of(record).loc[TRAINED] for record in own) / len(own) for x, of in settings.items()}
        scores[kind] = pd.DataFrame(of_setting).T
    lower = fair.lower_rates(chosen)
    if lower:
        means = _trained(endpoints(of_rates, until=chosen.batches)).groupby("arm")[["avg", "pass"]].mean()
        scores["lower rate"] = means.loc[[f"GRPO {rate:g}" for rate in lower]].set_axis(lower)
    best = {kind: best_setting(table, average) for kind, table in scores.items()}

    def rank(kind: str) -> tuple[bool, float]:
        return within_margin(scores[kind], average).empty, -scores[kind].loc[best[kind], "pass"]

    order = sorted(best, key=rank)
    return {kind: float(best[kind]) for kind in order}


def targets(records: Records) -> tuple[float, ...]:
    """Entropies between GRPO's end and the start's."""
    end = _means(records).loc["GRPO", "entropy"]
    own = pd.concat([points(record) for (arm, _), record in records.items() if arm == "GRPO"])
    start = own[(own["step"] == 0) & (own["size"] == TRAINED)]["entropy"].mean()
    return tuple(round(float(end + share * (start - end)), 2) for share in plan()["equal_entropy"]["targets"])


def shares(records: Records, chosen: Choices) -> tuple[float, ...]:
    """What D masks at each target, mean over the second half of the batches."""
    strength = {key: pd.Series(record.document["series"]["strength"]) for key, record in records.items()}
    halves = pd.Series({key: values[len(values) // 2 :].mean() for key, values in strength.items()})
    means = halves.unstack().mean(axis=1)
    return tuple(round(float(means[f"D at {target:g}"]), 3) for target in chosen.targets)


def choose(records: Callable[[comparisons.Runs], Records]) -> Iterator[Choices]:
    """The choices as they grow, each from the records of its stage."""
    of_rates = records(fair.rates())
    yield (chosen := replace(Choices(checksum()), **rate_and_batches(of_rates)))
    yield (chosen := replace(chosen, effects=effects(records(fair.effects(chosen)))))
    of_strengths = records(fair.strengths(chosen))
    yield (
        chosen := replace(
            chosen,
            strengths=strengths(of_strengths),
            free=free(of_strengths, of_rates, chosen),
            targets=targets(of_strengths),
        )
    )
    yield replace(chosen, shares=shares(records(fair.shares(chosen)), chosen))


def _trained(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["size"] == TRAINED]


def _means(records: Records) -> pd.DataFrame:
    """Endpoints on problems of the trained kind, means over seeds, by arm."""
    return _trained(endpoints(records)).groupby("arm")[["avg", "pass", "entropy"]].mean()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m companion.comparison.choosing",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--store", type=Path, default=Path("build/retrained"), help="folder where training goes on")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    options = parser.parse_args()
    store = Store(options.store, "data/runs")

    def made(runs: comparisons.Runs) -> Records:
        return comparisons.records_of(runs, store, jobs=options.jobs, minutes=float("inf"))

    for chosen in choose(made):
        print(chosen, flush=True)
    chosen.write()  # at the end: records of the stages shall come from a tree without changes
    print("commit data/choices.json; then make retrain makes the runs on test problems")


if __name__ == "__main__":
    main()
