"""What the companion claims, and the verdicts that its notebooks reach.

claims.csv is the one list of claims: the closing table of `make figures`, the map in notebook 00 and the table in the
README are made from it. A notebook decides a claim with `assert_claim`; the verdict is stored in the notebook itself,
as an output of the cell that reached it.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from IPython.display import display
from nbformat import NotebookNode

VERDICT_MIME = "application/vnd.entropy-dynamics.verdict+json"


@dataclass(frozen=True)
class Claim:
    """One checkable statement, a row of claims.csv.

    `whose` is "Theorem 3.2" or the like of the paper, or "ours"; `notebook` is the stem of the notebook that decides
    it, `function` the dotted path of the code under test, and `test` the test of that code (file::name under tests/).
    """

    id: str
    statement: str
    whose: str
    notebook: str
    function: str
    test: str


def read_claims(path: Path) -> dict[str, Claim]:
    """The claims of a CSV file by id, in its order.

    Raises:
        ValueError: other columns than those of `Claim`, an empty field or a second row of the same id.
    """
    columns = [field.name for field in fields(Claim)]
    claims: dict[str, Claim] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if (header := next(rows, [])) != columns:
            raise ValueError(f"{path.name}, row 1: columns are {header}, expected {columns}")
        for number, row in enumerate(rows, 2):
            if len(row) != len(columns) or not all(map(str.strip, row)):
                raise ValueError(f"{path.name}, row {number} {row}: expected {len(columns)} fields, none empty")
            claim = Claim(*row)
            if claims.setdefault(claim.id, claim) is not claim:
                raise ValueError(f"{path.name}, row {number}: a second claim {claim.id!r}")
    return claims


CLAIMS = read_claims(Path(__file__).with_name("claims.csv"))


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
        raise KeyError(f"unknown claim {id!r}; add it to claims.csv ({', '.join(CLAIMS)})")
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
            statement = claim.statement.replace("|", "\\|")
            lines.append(f"| {statement} | {claim.whose} | {claim.notebook} | `{claim.function}` | `{claim.test}` |")
    return "\n".join(lines)
