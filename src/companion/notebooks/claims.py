"""Verdicts: how a notebook decides a claim, and how the decisions are read back.

A notebook decides a claim of `claim_list.CLAIMS` with `assert_claim`; the verdict is stored in the notebook itself, as
an output of the cell that reached it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from IPython.display import display
from nbformat import NotebookNode

from companion.notebooks.claim_list import CLAIMS

VERDICT_MIME = "application/vnd.entropy-dynamics.verdict+json"


@dataclass(frozen=True)
class Verdict:
    """What one cell of an executed notebook said of one claim."""

    claim: str
    holds: bool
    line: str
    cell: int
    seconds: float | None


def assert_claim(id: str, holds: bool, line: str) -> None:
    """Record the verdict on claim `id` in the notebook, then raise if it does not hold.

    Args:
        id: a key of `CLAIMS`; an unknown one raises KeyError.
        holds: the outcome of the check (bool, numpy bool or one-element tensor).
        line: the evidence in one line, with rounded numbers.

    Raises:
        AssertionError: the claim does not hold.
    """
    if id not in CLAIMS:
        raise KeyError(f"unknown claim {id!r}; add it to companion.notebooks.claim_list.CLAIMS ({', '.join(CLAIMS)})")
    holds = bool(holds)
    text = f"{'HOLDS' if holds else 'FAILS'}  {id}: {line}"
    verdict = {"claim": id, "holds": holds, "line": line}
    display({VERDICT_MIME: verdict, "text/plain": text}, raw=True)
    if not holds:
        raise AssertionError(text)


def verdicts(notebook: NotebookNode) -> Iterator[Verdict]:
    """The verdicts in an executed notebook, in order; `seconds` is papermill's duration of the cell."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if VERDICT_MIME in output.get("data", {}):
                seconds = cell.metadata.get("papermill", {}).get("duration")
                yield Verdict(**output.data[VERDICT_MIME], cell=index, seconds=seconds)


def claims_table(notebook: str | None = None) -> str:
    """The map claim -> notebook -> function -> test as a Markdown table, of one notebook or of all."""
    lines = ["| claim | whose | notebook | function | test |", "|---|---|---|---|---|"]
    for claim in CLAIMS.values():
        if notebook in (None, claim.notebook):
            cells = (
                claim.statement.replace("|", "\\|"),
                claim.source,
                claim.notebook,
                f"`{claim.function}`",
                f"`{claim.test}`",
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
