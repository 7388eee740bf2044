"""Write the generated parts of README, docs and notebooks anew, between their markers."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat

from companion.benches import bench
from companion.comparison import page
from companion.files import write_atomically
from companion.notebooks.claims import claims_page
from companion.pages import contents, findings, house, rules
from companion.runs.store import StoreError

OPEN = "*Open: the records that this is made of are not there yet.*"
PICTURES = """
![Pass@K against K: the start, GRPO, Clip_B and Clip_V](../notebooks/figures/pass_curves.png)

![Pass@32 against Avg@32 of methods and free ways](../notebooks/figures/frontier.png)

*Above: Pass@K of the arms (notebook 09). Below: each coloured line is a method over its strength or a free way over its
setting, relative to GRPO with the same seed (notebook 10).*"""


def generated(root: Path) -> dict[str, dict[str, Callable[[], str]]]:
    """By page, what makes each part, by the name in its markers."""
    records, notebooks = root / "data" / "runs", root / "notebooks"
    return {
        "notebooks/00_start_here.ipynb": {
            "findings": lambda: findings.table(root),
            "contents": lambda: contents.table(notebooks),
        },
        "notebooks/09_results.ipynb": {"answer": lambda: _or_open(lambda of: page.short_answers(of)[0], records)},
        "notebooks/10_fair_comparison.ipynb": {
            "answers": lambda: _or_open(lambda of: "- " + "\n- ".join(page.short_answers(of)[1:]), records)
        },
        "README.md": {
            "findings": lambda: findings.table(root, "notebooks/"),
            "contents": lambda: contents.line(notebooks, "notebooks/"),
        },
        "docs/claims.md": {"claims": lambda: claims_page(notebooks)},
        "docs/comparison.md": {
            "answers": lambda: _or_open(page.three_answers, records),
            "results": lambda: _or_open(lambda of: f"{page.results(of)}\n{PICTURES}", records),
        },
        "docs/house.md": {"library": lambda: house.library(root), "rooms": lambda: house.rooms(root)},
        "docs/rules.md": {"formulas": rules.formulas, "effects": lambda: rules.effects(records)},
        "docs/speed.md": {
            "bench": lambda: bench.page(json.loads((root / "data" / "bench.json").read_text(encoding="utf-8")))
        },
    }


def _or_open(part: Callable[[Path], str], records: Path) -> str:
    try:
        return part(records)
    except StoreError:
        return OPEN


def with_parts(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """`text` with each part between <!-- NAME --> and <!-- end NAME -->; a missing marker is a ValueError."""
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"expected {begin} and {end} once each")
        head, tail = text.partition(begin)[0], text.partition(end)[2]
        text = f"{head}{begin}\n{part()}\n{end}{tail}"
    return text


def renewed(path: Path, parts: Mapping[str, Callable[[], str]]) -> str:
    """The file with its parts; of a notebook the Markdown cells with their markers change, and no output."""
    if path.suffix != ".ipynb":
        return with_parts(path.read_text(encoding="utf-8"), parts)
    notebook = nbformat.read(path, as_version=4)
    for name, part in parts.items():
        cell = next((cell for cell in notebook.cells if f"<!-- {name} -->" in cell.source), None)
        if cell is None:
            raise ValueError(f"{path}: no cell has <!-- {name} -->")
        cell.source = with_parts(cell.source, {name: part})
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m companion.pages.readme", description=__doc__)
    parser.parse_args()
    for name, parts in generated(Path()).items():
        text = renewed(Path(name), parts)
        write_atomically(Path(name), text)
        if OPEN in text or findings.MISSING in text:
            print(f"{name} says that records are missing; run make retrain, then this again")


if __name__ == "__main__":
    main()
