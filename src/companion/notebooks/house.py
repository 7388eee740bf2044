"""The files of the library and the rooms of the companion as Markdown lists, from their docstrings."""

import ast
import tomllib
from pathlib import Path


def library(root: Path) -> str:
    """One line a file of the library: its name and the first sentence of its docstring."""
    paths = sorted((root / "src" / "entropy_dynamics").glob("[!_]*.py"))
    return "\n".join(f"- [`{path.name}`](../{path.relative_to(root)}): {_sentence(path)}" for path in paths)


def rooms(root: Path) -> str:
    """One paragraph a room, its docstring; the uppermost first, in the order that import-linter holds them in.

    Raises:
        ValueError: a room has no place in that order.
    """
    contract = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [name.strip() for layer in contract["contracts"][0]["layers"] for name in layer.split("|")]
    order = [name.removeprefix("companion.") for name in layers]
    found = {path.parent.name: path for path in (root / "src" / "companion").glob("*/__init__.py")}
    if strangers := found.keys() - set(order):
        raise ValueError(f"pyproject.toml's layers do not name {', '.join(sorted(strangers))}")
    return "\n".join(
        f"- [`{name}`](../{found[name].parent.relative_to(root)}): {' '.join(_docstring(found[name]).split())}"
        for name in order
        if name in found
    )


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _sentence(path: Path) -> str:
    return " ".join(_docstring(path).partition("\n\n")[0].split())
