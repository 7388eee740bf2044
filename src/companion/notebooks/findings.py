"""What was found, as a table of claim, paper, here and notebook, whose numbers come from verdicts and records."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from companion.comparison import page
from companion.notebooks.claims import committed_verdicts
from companion.runs.store import StoreError

FINDINGS = Path(__file__).with_name("findings.toml")
MISSING = "*open: the records of this comparison are not made yet*"


def read_out(line: str, pattern: str) -> dict[str, str]:
    """What stands in `line` where `pattern` has names in braces; {} stands for anything.

    Raises:
        ValueError: the line does not read like the pattern.
    """
    parts = re.split(r"\{(\w*)\}", pattern)
    holes = [f"(?P<{name}>.+?)" if name else ".*?" for name in parts[1::2]]
    found = re.fullmatch("".join(re.escape(text) + hole for text, hole in zip(parts[::2], [*holes, ""])), line)
    if found is None:
        raise ValueError(f"a verdict says {line!r}, expected {pattern!r}; mend findings.toml")
    return found.groupdict()


def table(root: Path, links: str = "") -> str:
    """The findings in Markdown; `links` leads to the folder of the notebooks.

    Raises:
        ValueError: a verdict's line does not read as findings.toml says.
        KeyError: a committed notebook has no verdict that is asked for.
    """
    lines = {verdict.claim: verdict.line for verdict in committed_verdicts(root / "notebooks")}
    try:
        answers = page.short_answers(root / "data" / "runs")
    except StoreError:
        answers = [MISSING] * 3
    rows = ["| claim | the paper | here | notebook |", "|---|---|---|---|"]
    for finding in tomllib.loads(FINDINGS.read_text(encoding="utf-8"))["finding"]:
        here = answers[finding["answer"]] if "answer" in finding else _filled(finding, lines)
        notebook = finding["notebook"]
        rows.append(f"| {finding['claim']} | {finding['paper']} | {here} | [{notebook[:2]}]({links}{notebook}.ipynb) |")
    return "\n".join(rows)


def _filled(finding: Mapping, lines: Mapping[str, str]) -> str:
    numbers: dict[str, str] = {}
    for claim, pattern in finding["lines"].items():
        numbers |= read_out(lines[claim], pattern)
    return finding["here"].format_map(numbers)
