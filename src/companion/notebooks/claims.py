"""Verdicts: how a notebook decides a claim, and how the decisions are read back.

What is claimed stands in claims.csv, of which the closing table of `make figures` and docs/claims.md are made. A
notebook decides a claim with `assert_claim`; the verdict is stored in the notebook itself, as an output of the cell
that reached it.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.display import display
from nbformat import NotebookNode

VERDICT_MIME = "application/vnd.entropy-dynamics.verdict+json"


@dataclass(frozen=True)
class Claim:
    """One checkable statement.

    `whose` says whose it is ("Theorem 3.2" of the paper, or "ours"); `notebook` is the stem of the notebook that
    decides it, `function` the code under test and `test` the unit test of that code (file::name under tests/).
    """

    id: str
    statement: str
    whose: str
    notebook: str
    function: str
    test: str


def read_claims(path: Path) -> dict[str, Claim]:
    """The claims of a CSV file by id, in its order; ValueError where a row lacks a field or repeats an id."""
    claims: dict[str, Claim] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            if row.keys() != Claim.__annotations__.keys() or not all(row.values()) or row["id"] in claims:
                expected = ", ".join(Claim.__annotations__)
                raise ValueError(
                    f"{path.name}, line {number}: expected {expected}, none empty, and a new id; got {row}"
                )
            claims[row["id"]] = Claim(**row)
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


def committed_verdicts(notebooks: Path) -> Iterator[Verdict]:
    """The verdicts in the outputs of the notebooks of a folder."""
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        yield from verdicts(nbformat.read(path, as_version=4))


def claims_page(notebooks: Path) -> str:
    """Every claim in Markdown, for a page in docs/: statement, source, code, test, and the line that decided it."""
    lines = {verdict.claim: verdict.line for verdict in committed_verdicts(notebooks)}
    parts, notebook = [], None
    for claim in CLAIMS.values():
        if claim.notebook != notebook:
            notebook = claim.notebook
            parts.append(f"## Notebook {notebook[:2]}\n\n[{notebook}](../notebooks/{notebook}.ipynb)")
        module, _, function = claim.function.rpartition(".")
        file, _, test = claim.test.partition("::")
        measured = f"`{lines[claim.id]}`" if claim.id in lines else "*not decided yet*"
        parts.append(
            f"### {claim.id}\n\n{_escaped(claim.statement)} ({_escaped(claim.whose)})\n\n{measured}\n\n"
            f"Code [`{function}`](../src/{module.replace('.', '/')}.py), test [`{test}`](../tests/{file})"
        )
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", text)
