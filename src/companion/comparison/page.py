"""What the README says of the planned comparison, from committed records alone: its table, and its three answers."""

from functools import cache
from pathlib import Path

import pandas as pd

from companion.comparison import answers, fair_tables, families
from companion.comparison.endpoints import HARDER, TRAINED, endpoints, start_endpoints
from companion.record import Record
from companion.runs import comparisons, fair
from companion.runs.plan import choices
from companion.runs.store import Store, StoreError


def committed(runs: comparisons.Runs, records: Path) -> dict[tuple[str, int], Record]:
    """The records of runs, by the same keys.

    Raises:
        StoreError: one is missing; `make retrain` makes it.
    """
    store, found = Store("build/runs", records), {}
    for key, run in comparisons.named(runs).items():
        if (record := store.get(run.name, run.config)) is None:
            raise StoreError(f"{records} has no record {run.name} of its config; run make retrain")
        found[key] = record
    return found


def results(records: Path) -> str:
    """The table of the arms in the paper's regime, the best free rival and D at both targets, in Markdown.

    All over the seeds that all have, and below those with more seeds over all of theirs.
    """
    chosen = choices()
    trained, finals, controlled = _runs(records)
    held = endpoints(controlled)
    arms = [*fair.final_arms(chosen), fair_tables.best_free_arm(chosen)]
    parts = [start_endpoints(trained), *(finals[finals["arm"] == arm] for arm in arms)]
    parts += [held[held["arm"] == f"D at {target}"] for target in chosen.targets]
    shared = set.intersection(*(set(part["seed"]) for part in parts))
    more = [part.assign(arm=part["arm"] + ", all seeds") for part in parts if set(part["seed"]) > shared]
    table = fair_tables.main_table(pd.concat([part[part["seed"].isin(shared)] for part in parts] + more))
    lines = ["| arm | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    return "\n".join(lines + [f"| {arm} | " + " | ".join(row) + " |" for arm, row in table.iterrows()])


def three_answers(records: Path) -> str:
    """The plan's three questions, each with its verdicts, as a Markdown list."""
    questions = (
        "Does Clip_B or Clip_V beat GRPO in the paper's own regime?",
        "Does it beat what is free?",
        "At the same entropy, does it matter which tokens are masked?",
    )
    lines = []
    for question, (tests, pairs, kinds) in zip(questions, _compared(records)):
        said = [families.sentence(tests, *pair, kind) for pair in pairs for kind in kinds]
        lines.append(f"- **{question}** {'; '.join(said)}.")
    return "\n".join(lines)


def short_answers(records: Path) -> list[str]:
    """The same verdicts in a few words each, one text a question, with what else the second and the third need."""
    chosen, words = choices(), {TRAINED: "", HARDER: "harder:"}
    _, finals, controlled = _runs(records)
    held = endpoints(controlled)
    first, second, third = (
        "; ".join(families.in_short(tests, *pair, {kind: words[kind] for kind in kinds}) for pair in pairs)
        for tests, pairs, kinds in _compared(records)
    )
    clear = answers.clear_without(finals, chosen)
    costs = families.family(
        pd.concat([finals, held]), [(f"D at {target}", "GRPO") for target in chosen.targets], sizes=[TRAINED]
    ).pivot(index="arm", columns="column", values="mean")
    against = ", ".join(
        f"Avg@32 {row.avg:+.2f} and Pass@32 {row['pass']:+.2f} ({arm})" for arm, row in costs.iterrows()
    )
    cases = finals.loc[finals["arm"] == "GRPO", "seed"].nunique()
    second = second.replace(fair_tables.best_free_arm(chosen), "the averaged weights")
    return [
        first,
        f"{second}; with one seed left out these are clear in {', '.join(map(str, clear))} of {cases} cases",
        f"{third}; against GRPO {against}",
    ]


@cache  # each page has several parts of them
def _runs(records: Path) -> tuple[fair_tables.Records, pd.DataFrame, fair_tables.Records]:
    """The final runs, their endpoints with those of the free rivals, and the runs whose entropy is held."""
    chosen = choices()
    trained, held = committed(fair.finals(chosen), records), committed(fair.equal_entropy(chosen), records)
    return trained, fair_tables.final_endpoints(trained, chosen), held


def _compared(records: Path) -> list[tuple[pd.DataFrame, list[families.Pair], tuple[int, ...]]]:
    """By question: the family of tests, the pairs whose comparison answers it, and on which kinds of problems."""
    chosen = choices()
    _, finals, held = _runs(records)
    first, second = answers.in_the_papers_regime(finals), answers.against_what_is_free(finals, chosen)
    third = answers.which_tokens(endpoints(held), fair_tables.held(held), chosen, fair_tables.FIRST_PAIRS)
    best = fair_tables.best_free_arm(chosen)
    third = third.replace(
        {"arm": r"^random ", "reference": r"^random "}, "random + bonus ", regex=True
    )  # which holds H
    pairs = dict.fromkeys(zip(third["arm"], third["reference"]))
    return [
        (first, [(arm, "GRPO") for arm in answers.METHODS], (TRAINED, HARDER)),
        (second, [(arm, best) for arm in answers.METHODS], (TRAINED, HARDER)),
        (third, [pair for pair in pairs if pair[0].startswith("D ")], (TRAINED,)),
    ]
