"""The rules as two Markdown tables: what each is, from its docstring, and what it does to entropy, from records."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from companion.comparison.page import committed
from companion.laboratory.rule import Rule
from companion.reports import tables
from companion.runs import comparisons
from entropy_dynamics.methods import RULES

FIELDS = ("Coefficients", "Constants")


def described(rule: Callable) -> dict[str, str]:
    """A rule's Source, from the first parentheses of its docstring, and its `FIELDS`.

    Raises:
        ValueError: the docstring lacks one of them.
    """
    text = inspect.getdoc(rule) or ""
    found = {"Source": re.search(r"\A[^(]*\(([^)]*)\)", text.partition("\n\n")[0])}
    found |= {field: re.search(rf"^{field}: ((?:.+\n?)+?)(?=\n|^\w+: |\Z)", text, re.M) for field in FIELDS}
    if missing := [name for name, match in found.items() if match is None]:
        raise ValueError(f"the docstring of {rule.__name__} lacks {', '.join(missing)}; see the module's docstring")
    return {name: " ".join(match[1].split()).removesuffix(".") for name, match in found.items()}


def formulas() -> str:
    """One row a rule of the library: coefficients, source, whose constants."""
    rows = ["| rule | coefficients | source | constants |", "|---|---|---|---|"]
    for name, rule in RULES.items():
        about = described(rule)
        coefficients = about["Coefficients"].replace("|", "\\|")
        rows.append(f"| `{name}` | `{coefficients}` | {about['Source']} | {about['Constants']} |")
    return "\n".join(rows)


def effects(records: Path) -> str:
    """One row a rule of notebook 07: predicted and measured effect of one update, and that of a full run."""
    measured = tables.effects_table(committed(comparisons.probes(), records), list(comparisons.PROBED))
    one_update = tables.lens_table(measured[measured["update"] == 1]).set_index("method")
    final = tables.evaluation_table(committed(comparisons.methods(), records))
    ends = tables.paired(final[final["size"] == 3], "entropy")
    rows = ["| name | rule | SGD predicted | SGD measured | Adam predicted | Adam measured | full run |"]
    rows.append("|---" * 7 + "|")
    for name, row in one_update.iterrows():
        cells = [name, f"`{_called(comparisons.PROBED[name])}`"]
        for optimizer in ("sgd", "adam"):
            interval = (row[f"{optimizer}{end}"] for end in ("", "_low", "_high"))
            cells += [f"{1e3 * row[f'{optimizer}_predicted']:+.3f}", _text(*(1e3 * x for x in interval))]
        cells.append(_text(*ends.loc[name, ["mean", "low", "high"]]) if name in ends.index else "")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _called(rule: Rule) -> str:
    defaults = inspect.signature(RULES[rule.name]).parameters
    chosen = [f"{name}={value!r}" for name, value in rule.options.items() if value != defaults[name].default]
    return f"{rule.name}({', '.join(chosen)})"


def _text(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
