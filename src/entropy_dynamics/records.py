"""Records of training: one for each config and each state of the code that makes it, computed if it is not there yet.

A record's key is the hash of its config and its origin: the code that the computation runs through (without comments,
docstrings and the rules that it does not use) and the versions of the libraries. So a key says what a record is, on
whatever machine it was made.
"""

import ast
import contextlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from tqdm import tqdm

from entropy_dynamics.experiment import Experiment, run
from entropy_dynamics.methods import RULES
from entropy_dynamics.policies import WarmStart, warm_start
from entropy_dynamics.probe import Probe, run_probe
from entropy_dynamics.store import Record, Store, digest

PACKAGE = Path(__file__).parent
LIBRARIES = ("torch", "transformers", "numpy")
_log = logging.getLogger(__name__)
Config = WarmStart | Experiment | Probe
_ENTRY = {WarmStart: "policies", Experiment: "experiment", Probe: "probe"}  # the module that a computation starts in
_KEEPS_FILES = {"store", "files"}  # no result depends on them


def _read_sources() -> dict[str, ast.Module]:
    """The package's modules that any computation runs through, parsed."""
    trees: dict[str, ast.Module] = {}
    waiting = set(_ENTRY.values())
    while waiting:
        name = waiting.pop()
        trees[name] = ast.parse((PACKAGE / f"{name}.py").read_text())
        waiting |= _imports(trees[name]) - trees.keys() - _KEEPS_FILES
    return trees


@cache
def _imports(tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports, always as `from entropy_dynamics... import`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name.startswith(PACKAGE.name) for alias in node.names):
            raise ImportError(f"import {PACKAGE.name}... hides what a record depends on; write from ... import")
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == PACKAGE.name:
            below = node.module.partition(".")[2]
            found |= {below} if below else {alias.name for alias in node.names}
    return found


_SOURCES = _read_sources()  # the code that this process has loaded, whatever happens to the files later


def origin(config: Config) -> dict[str, str]:
    """What the record of a config depends on besides the config: hashes of code, versions of libraries."""
    trees, waiting = {}, {_ENTRY[type(config)]}
    while waiting:
        name = waiting.pop()
        trees[name] = _SOURCES[name]
        waiting |= _imports(trees[name]) - trees.keys() - _KEEPS_FILES
    rules = frozenset(_rules_of(config))
    code = {f"{name}.py": _code_digest(tree, rules if name == "methods" else None) for name, tree in trees.items()}
    return code | {name: metadata.version(name).partition("+")[0] for name in LIBRARIES}


def _rules_of(config: Config) -> set[str]:
    if isinstance(config, WarmStart):
        return set()
    if isinstance(config, Experiment):
        return {config.step.rule.name}
    return {rule.name for rule in config.rules} | _rules_of(config.experiment)


@cache
def _code_digest(tree: ast.Module, rules: frozenset[str] | None) -> str:
    """The hash of a module without comments and docstrings; of `methods`, without the rules other than `rules`."""
    return digest(_shape(_without_other_rules(tree, rules) if rules is not None else tree))


def _shape(node: object) -> object:
    """A syntax tree as plain lists, the same for every version of Python: no positions, docstrings or empty fields."""
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    names = sorted(name for name, value in fields.items() if value not in (None, []) and name not in ("ctx", "kind"))
    return [type(node).__name__, *([name, _shape(fields[name])] for name in names)]


def _without_other_rules(tree: ast.Module, rules: frozenset[str]) -> ast.Module:
    """Adding or mending a rule leaves the records of the others as they are."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in RULES}
    table = [n for n in tree.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "RULES"]
    rest = [node for node in tree.body if node not in table and node not in functions.values()]
    needed, waiting = set(), (rules | _names(rest)) & functions.keys()
    while waiting:
        needed |= waiting
        waiting = (_names([functions[rule] for rule in waiting]) & functions.keys()) - needed
    return ast.Module(rest + [functions[rule] for rule in sorted(needed)], [])


def _names(nodes: Sequence[ast.AST]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def record_key(config: Config) -> str:
    """The key of a config's record in a store."""
    return digest({"kind": type(config).__name__, "config": config.model_dump(mode="json"), "origin": origin(config)})


def load_or_run(config: Config, store: Store) -> Record:
    """The record of a config, computed and stored if the store has none; so is the warm start that a run needs.

    Raises:
        RuntimeError: the source files changed since this process loaded them, so that a new record would not be theirs.
    """

    def make() -> tuple[Record, float]:
        if {name: ast.dump(t) for name, t in _read_sources().items()} != {n: ast.dump(t) for n, t in _SOURCES.items()}:
            raise RuntimeError("the package's files changed since this process started; start it anew")
        start = time.perf_counter()
        with _reproducible():
            if isinstance(config, WarmStart):
                record = Record({"config": config.model_dump(mode="json")}, warm_start(config))
            else:
                record = (run if isinstance(config, Experiment) else run_probe)(config, start_weights)
        record.document["origin"] = origin(config)
        return record, time.perf_counter() - start

    key = record_key(config)
    if (record := store.get(key)) is not None:
        return record
    start_weights = {} if isinstance(config, WarmStart) else load_or_run(_start(config), store.working()).tensors
    return store.compute(key, make)


def _start(config: Experiment | Probe) -> WarmStart:
    return config.start if isinstance(config, Experiment) else config.experiment.start


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """One thread and deterministic algorithms, whatever the caller has set: a record must not depend on it."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def run_all(configs: Sequence[Experiment | Probe], store: Store, *, jobs: int = 2) -> list[Record]:
    """The records of all configs, in order; the missing ones are computed `jobs` at a time, one thread each.

    What was finished before an interruption or an error is in the store and is not computed again.

    Raises:
        RuntimeError: a run failed; names its config.
    """
    keys = [record_key(config) for config in configs]
    missing = {key: config for key, config in zip(keys, configs) if store.get(key) is None}
    if missing:
        _log.warning(
            "%d of %d runs have no record for this code and these libraries; they are trained now, at about half a "
            "minute each on two cores",
            len(missing),
            len(set(keys)),
        )
    needed = {record_key(_start(config)): _start(config) for config in missing.values()}
    starts = [start for key, start in needed.items() if store.working().get(key) is None]
    for stage, name in ((starts, "warm starts"), (list(missing.values()), "runs")):
        if stage:
            _compute(stage, store.working(), jobs, name)
    return [load_or_run(config, store) for config in configs]


def _compute(configs: list, store: Store, jobs: int, name: str) -> None:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(configs)), context, initializer=_start_worker)
    try:
        futures = {pool.submit(_store_one, config, store.root): config for config in configs}
        for future in tqdm(as_completed(futures), total=len(futures), desc=name, unit="run"):
            try:
                future.result()
            except Exception as error:
                raise RuntimeError(f"the run of {futures[future]!r} failed: {type(error).__name__}: {error}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _store_one(config: Config, root: Path) -> None:
    load_or_run(config, Store(root))


def _start_worker() -> None:
    """No life without the parent, which may be killed at any moment."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
