"""The generated parts of README and docs: python -m companion.notebooks.readme rewrites them between their markers."""

import json
from collections.abc import Mapping
from pathlib import Path

from companion.benches import bench
from companion.comparison import page
from companion.files import write_atomically
from companion.notebooks.claims import claims_table


def generated(root: Path) -> dict[str, dict[str, str]]:
    """By page, the text of each part by the name in its markers."""
    measured = json.loads((root / "data" / "bench.json").read_text(encoding="utf-8"))
    records = root / "data" / "runs"
    return {
        "README.md": {
            "answers": page.three_answers(records),
            "results": page.results(records),
            "claims": claims_table(),
        },
        "docs/speed.md": {"bench": bench.page(measured)},
    }


def with_parts(text: str, parts: Mapping[str, str]) -> str:
    """`text` with each part between <!-- NAME --> and <!-- end NAME -->; a missing marker is a ValueError."""
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"expected {begin} and {end} once each")
        head, tail = text.partition(begin)[0], text.partition(end)[2]
        text = f"{head}{begin}\n{part}\n{end}{tail}"
    return text


def main() -> None:
    for name, parts in generated(Path()).items():
        page = Path(name)
        write_atomically(page, with_parts(page.read_text(encoding="utf-8"), parts))


if __name__ == "__main__":
    main()
