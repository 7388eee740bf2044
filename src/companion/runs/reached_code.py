"""The code that a computation runs through: every definition of the package that its entry point reaches by name.

Names are followed through the syntax trees, so a definition that nothing on the way mentions does not count, and one
that is mentioned counts even if it happens not to be called. So do imports from elsewhere. Comments and docstrings
never count.
"""

import ast
from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
Place = tuple[str, str]  # module and name


@dataclass(frozen=True)
class Module:
    """A module's top level without its docstring."""

    definitions: dict[str, list[ast.stmt]]  # by name, imports of other packages too; "" for statements without one
    imported: dict[str, Place | str]  # local name -> (module, name), or a module


def read_sources(entries: Iterable[str]) -> dict[str, ast.Module]:
    """The syntax trees of the modules of the package that `entries` import, directly or not, and their own.

    Raises:
        ImportError: a module imports the package in a form that names cannot be followed through.
    """
    trees: dict[str, ast.Module] = {}
    waiting = set(entries)
    while waiting:
        name = waiting.pop()
        trees[name] = ast.parse((PACKAGE / f"{name}.py").read_text())
        places = _imports(trees[name]).values()
        waiting |= {place if isinstance(place, str) else place[0] for place in places} - trees.keys()
    return trees


def reached(
    trees: dict[str, ast.Module], entries: Iterable[Place], *, tables: Set[Place] = frozenset(), without: Set[str]
) -> dict[str, list]:
    """For each module, what the entries reach of it, as plain lists that are the same for every version of Python.

    Args:
        tables: definitions that list others by name; what they list does not count by that alone.
        without: modules that are left out, with all that only they reach.
    """
    found: dict[str, dict[str, list[ast.stmt]]] = {}  # by module and name; "" for what has no name
    waiting = list(entries)
    while waiting:
        name, definition = waiting.pop()
        if name in without or definition in found.get(name, {}) or (name, definition) in tables:
            continue
        module = _module(trees[name])
        found.setdefault(name, {})[definition] = module.definitions.get(definition, [])
        waiting += [(name, "")] + [place for node in found[name][definition] for place in _mentions(node, name, module)]
        if isinstance(elsewhere := module.imported.get(definition), tuple):
            waiting.append(elsewhere)
    return {name: [_shape(found[name][key]) for key in sorted(found[name])] for name in sorted(found)}


@cache
def _module(tree: ast.Module) -> Module:
    definitions: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        if _is_docstring(node, tree) or (isinstance(node, ast.ImportFrom) and _is_of_the_package(node)):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                alone = ast.Import([alias])
                if isinstance(node, ast.ImportFrom):
                    alone = ast.ImportFrom(node.module, [alias], node.level)
                definitions.setdefault(bound, []).append(alone)
            continue
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        else:
            names = []
        for name in names or [""]:
            definitions.setdefault(name, []).append(node)
    return Module(definitions, _imports(tree))


@cache
def _imports(tree: ast.Module) -> dict[str, Place | str]:
    """What a module imports from the package, anywhere in it, always as `from entropy_dynamics... import`."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.startswith(PACKAGE.name) for alias in node.names):
            raise ImportError(f"import {PACKAGE.name}... hides what a record depends on; write from ... import")
        if isinstance(node, ast.ImportFrom) and _is_of_the_package(node):
            below = node.module.partition(".")[2]
            for alias in node.names:
                place = (below, alias.name) if below else alias.name
                if found.setdefault(alias.asname or alias.name, place) != place:
                    raise ImportError(f"{alias.name} is imported from two places of one module; give one another name")
    return found


def _mentions(node: ast.stmt, name: str, module: Module) -> Iterable[Place]:
    """The definitions of the package that a statement mentions.

    Raises:
        ImportError: a module of the package is used other than as `module.name`.
    """
    attributes = {id(part.value): part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    for part in ast.walk(node):
        if not isinstance(part, ast.Name):
            continue
        if part.id in module.definitions:
            yield name, part.id
        place = module.imported.get(part.id)
        if isinstance(place, str):
            if id(part) not in attributes:
                raise ImportError(f"{name}.py uses the module {place} in a way that hides what of it is used")
            yield place, attributes[id(part)]
        elif place:
            yield place


def _is_of_the_package(node: ast.ImportFrom) -> bool:
    return (node.module or "").partition(".")[0] == PACKAGE.name


def _is_docstring(node: ast.stmt, tree: ast.Module) -> bool:
    return node is tree.body[0] and ast.get_docstring(tree) is not None


def _shape(node: object) -> object:
    """A syntax tree as plain lists, the same for every version of Python: no positions, docstrings or empty fields."""
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    names = sorted(name for name, value in fields.items() if value not in (None, []) and name not in ("ctx", "kind"))
    return [type(node).__name__, *([name, _shape(fields[name])] for name in names)]
