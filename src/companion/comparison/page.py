"""What the README says of the planned comparison, from committed records alone: its table, and its three answers."""

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
    """The table of the arms in the paper's regime and of the best free rival, in Markdown."""
    chosen = choices()
    trained = committed(fair.finals(chosen), records)
    finals = fair_tables.final_endpoints(trained, chosen)
    arms = [*fair.final_arms(chosen), fair_tables.best_free_arm(chosen)]
    table = fair_tables.main_table(pd.concat([start_endpoints(trained), *(finals[finals["arm"] == a] for a in arms)]))
    lines = ["| arm | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    return "\n".join(lines + [f"| {arm} | " + " | ".join(row) + " |" for arm, row in table.iterrows()])


def three_answers(records: Path) -> str:
    """The plan's three questions, each with its verdicts, as a Markdown list."""
    questions = (
        "Does Clip_B or Clip_V beat GRPO in the paper's own regime?",
        "Does it beat what is free?",
        "At the same entropy, does it matter which tokens are masked?",
    )
    return "\n".join(
        f"- **{question}** " + "; ".join(families.sentence(*compared) for compared in some) + "."
        for question, some in zip(questions, _compared(records))
    )


def short_answers(records: Path) -> list[str]:
    """The same verdicts in a few words each, one text a question."""
    where = {TRAINED: "", HARDER: ", on harder problems"}
    return [
        "; ".join(families.in_short(*compared) + where[compared[-1]] for compared in some)
        for some in _compared(records)
    ]


def _compared(records: Path) -> list[list[tuple[pd.DataFrame, str, str, int]]]:
    """By question: family of tests, arm, reference and kind of problems of each comparison that answers it."""
    chosen = choices()
    finals = fair_tables.final_endpoints(committed(fair.finals(chosen), records), chosen)
    held = committed(fair.equal_entropy(chosen), records)
    first, second = answers.in_the_papers_regime(finals), answers.against_what_is_free(finals, chosen)
    third = answers.which_tokens(endpoints(held), fair_tables.held(held), chosen, fair_tables.FIRST_PAIRS)
    best = fair_tables.best_free_arm(chosen)
    pairs = dict.fromkeys(zip(third["arm"], third["reference"]))
    return [
        [(first, arm, "GRPO", size) for arm in answers.METHODS for size in (TRAINED, HARDER)],
        [(second, arm, best, size) for arm in answers.METHODS for size in (TRAINED, HARDER)],
        [(third, *pair, TRAINED) for pair in pairs if pair[0].startswith("D ")],
    ]
