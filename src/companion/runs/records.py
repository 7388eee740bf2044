"""Records of training: one for each config and each state of the code that makes it, computed if it is not there yet.

A record's key is the hash of its config and its origin: the definitions that the computation reaches (see
`reached_code`) and the versions of the libraries. So a key says what a record is, on whatever machine it was made.
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

from companion.instruments.anatomy import Anatomy, run_anatomy
from companion.instruments.probe import Probe, run_probe
from companion.laboratory.experiment import Experiment, run
from companion.laboratory.policies import WarmStart, warm_start
from companion.language_models.language_model_anatomy import LanguageModelAnatomy, run_language_model_anatomy
from companion.record import Record
from companion.runs.reached_code import reached, read_sources
from companion.runs.store import Store, digest

LIBRARIES = ("torch", "transformers", "numpy")
_log = logging.getLogger(__name__)
Config = WarmStart | Experiment | Probe | Anatomy | LanguageModelAnatomy
_WARM_START = ("policies", "warm_start")  # every run of the small policy starts from one
_ENTRY = {
    WarmStart: _WARM_START,
    Experiment: ("experiment", "run"),
    Probe: ("probe", "run_probe"),
    Anatomy: ("anatomy", "run_anatomy"),
    LanguageModelAnatomy: ("language_model_anatomy", "run_language_model_anatomy"),
}
# No result depends on them: they keep files, or serve vocabularies far larger than the one that is trained on.
_WITHOUT = {"store", "files", "compiled_backend", "triton_backend"}


def _read_sources() -> dict[str, ast.Module]:
    return read_sources(module for module, _ in _ENTRY.values())


_SOURCES = _read_sources()  # the code that this process has loaded, whatever happens to the files later


def origin(config: Config) -> dict[str, str]:
    """What the record of a config depends on besides the config: hashes of code, versions of libraries."""
    entries = {_ENTRY[type(config)]} | {("methods", rule) for rule in _rules_of(config)}
    if _start(config) is not None or isinstance(config, WarmStart):
        entries.add(_WARM_START)
    code = _code_digests(frozenset(entries), tuple(_SOURCES.items()))
    return code | {name: metadata.version(name).partition("+")[0] for name in LIBRARIES}


@cache
def _code_digests(entries: frozenset, sources: tuple[tuple[str, ast.Module], ...]) -> dict[str, str]:
    """By file, the hash of what the entries reach. The table of rules counts only for the rules that are entries."""
    code = reached(dict(sources), entries, tables={("methods", "RULES")}, without=_WITHOUT)
    return {f"{name}.py": digest(definitions) for name, definitions in code.items()}


def _rules_of(config: Config) -> set[str]:
    if isinstance(config, WarmStart | LanguageModelAnatomy):
        return set()
    if isinstance(config, Experiment):
        return {config.step.rule.name}
    own = config.rules if isinstance(config, Probe) else [trial.rule for trial in config.trials.values()]
    return {rule.name for rule in own} | _rules_of(config.experiment)


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
            record = _make(config, store)
        record.document["origin"] = origin(config)
        return record, time.perf_counter() - start

    key = record_key(config)
    if (record := store.get(key)) is not None:
        return record
    if (start := _start(config)) is not None:
        load_or_run(start, store.working())
    return store.compute(key, make)


def _start(config: Config) -> WarmStart | None:
    """The warm start that a run trains from."""
    if isinstance(config, WarmStart | LanguageModelAnatomy):
        return None
    return config.start if isinstance(config, Experiment) else config.experiment.start


def _make(config: Config, store: Store) -> Record:
    if isinstance(config, WarmStart):
        return Record({"config": config.model_dump(mode="json")}, warm_start(config))
    if isinstance(config, LanguageModelAnatomy):
        return run_language_model_anatomy(config)
    compute = {Experiment: run, Probe: run_probe, Anatomy: run_anatomy}[type(config)]
    return compute(config, load_or_run(_start(config), store.working()).tensors)


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


def run_all(configs: Sequence[Config], store: Store, *, jobs: int = 2) -> list[Record]:
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
    needed = {record_key(start): start for config in missing.values() if (start := _start(config)) is not None}
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
