"""Runs to records: those that are there are read; missing ones are made where that is little or asked for."""

import contextlib
import logging
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from tqdm import tqdm

from companion.instruments.anatomy import Anatomy, run_anatomy
from companion.instruments.own_share import OwnShare, run_own_share
from companion.instruments.probe import Probe, run_probe
from companion.laboratory.experiment import Experiment, run
from companion.laboratory.policies import WarmStart, warm_start
from companion.language_models.language_model_anatomy import LanguageModelAnatomy, run_language_model_anatomy
from companion.processes import end_with_parent
from companion.provenance import provenance
from companion.record import Record, checksum
from companion.runs.plan import require_committed
from companion.runs.store import Store

LIBRARIES = ("torch", "transformers", "numpy")  # whose versions can change a number
_log = logging.getLogger(__name__)
Config = WarmStart | Experiment | Probe | Anatomy | OwnShare | LanguageModelAnatomy


class MissingRecords(RuntimeError):
    """Runs have no record and would take longer to train than was allowed."""


@dataclass(frozen=True)
class Run:
    """A config, the name of its record, and the warm start that it trains from."""

    name: str
    config: Config
    start: "Run | None" = None


def load_or_run(run: Run, store: Store) -> Record:
    """The record of a run, computed and stored if the store has none; so is the warm start that it needs."""
    return store.compute(run.name, run.config, lambda: _make(run, store))


def _make(run_: Run, store: Store) -> Record:
    start = load_or_run(run_.start, store) if run_.start else None
    begin = time.process_time()  # of the processor: how busy the machine was says nothing about the run
    with reproducible():
        record = compute(run_.config, start)
    origin = made_by() | {"seconds": round(time.process_time() - begin, 2)}
    if start is not None:
        origin["start_sha256"] = checksum(start.tensors)
    return Record(record.document, record.tensors, origin)


def made_by() -> dict[str, Any]:
    """What makes a record in this process: commit, machine with the instructions that torch uses, versions."""
    origin = provenance()
    machine = origin["machine"] | {"instructions": torch.backends.cpu.get_cpu_capability()}
    return origin | {"machine": machine, "versions": {n: origin["versions"][n] for n in ("python", *LIBRARIES)}}


def on_this_machine(record: Record) -> bool:
    """Whether a record is from this kind of processor and these versions, so that all its numbers must come again."""
    here, there = made_by(), record.made_by
    same = all(public(here["versions"][name]) == public(there["versions"][name]) for name in LIBRARIES)
    parts = here["machine"].keys() & there["machine"].keys() - {"cores"}
    return same and all(here["machine"][part] == there["machine"][part] for part in parts)


def compute(config: Config, start: Record | None) -> Record:
    """What the config says, from the weights of its warm start."""
    if isinstance(config, WarmStart):
        return warm_start(config)
    if isinstance(config, LanguageModelAnatomy):
        return run_language_model_anatomy(config)
    if isinstance(config, Experiment) and config.problems == "test":
        require_committed()
    instruments = {Experiment: run, Probe: run_probe, Anatomy: run_anatomy, OwnShare: run_own_share}
    return instruments[type(config)](config, start.tensors)


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """One thread and deterministic algorithms, whatever the caller has set: a record must not depend on it."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def run_all(runs: Sequence[Run], store: Store, *, jobs: int = 2, minutes: float = 3.0) -> list[Record]:
    """The records of all runs, in order; the missing ones are computed `jobs` at a time, one thread each.

    A line says which versions made those that are there, and another, on stderr, where others are installed here: they
    are used all the same. What was finished before an interruption or an error is in the store and is not computed
    again.

    Args:
        minutes: how long training may take, in this call alone; see `expected_seconds`.

    Raises:
        MissingRecords: it would take longer; nothing was trained.
        RuntimeError: a run failed; names its config.
    """
    found = {run.name: record for run in runs if (record := store.get(run.name, run.config)) is not None}
    missing = {run.name: run for run in runs if run.name not in found}
    if found:
        print(made_with(list(found.values())))
        _say_what_is_here(list(found.values()))
    if missing:
        starts = {run.start.name: run.start for run in missing.values() if run.start}
        starts = [start for start in starts.values() if store.get(start.name, start.config) is None]
        expected = sum(expected_seconds(run.config) for run in [*starts, *missing.values()]) / 60
        expected /= max(1, min(jobs, len(missing)))
        words = f"{len(missing)} of {len({run.name for run in runs})} runs have no record, {min(missing)} among them"
        if expected > minutes:
            enough = math.ceil(expected * 1.5)
            raise MissingRecords(
                f"{words}; to train them takes about {expected:.0f} minutes with {jobs} at a time, and {minutes:g} are "
                f"allowed to each comparison of a notebook. Set minutes = {enough} in the parameters cell "
                f"(papermill: -p minutes {enough}), or name the folder that has the records"
            )
        _log.warning("%s; they are trained now, about %.1f minutes", words, expected)
        for stage, name in ((starts, "warm starts"), (list(missing.values()), "runs")):
            if stage:
                _compute(stage, store, jobs, name)
    return [found.get(run.name) or load_or_run(run, store) for run in runs]


def expected_seconds(config: Config) -> float:
    """About how long a run takes on one core of the machines that the records come from."""
    if isinstance(config, WarmStart):
        return 0.0225 * config.steps * (1 + config.layers * config.width / 96)
    if isinstance(config, LanguageModelAnatomy):
        return 90.0 * len(config.batches)
    if isinstance(config, OwnShare):
        start = config.experiment.start
        return 1e-3 * config.states * config.experiment.prompts * start.layers * start.width / 96
    if isinstance(config, Experiment):
        evaluations = len(config.evaluation_sizes) * len(config.evaluation_temperatures)
        responses = config.steps * config.prompts * config.group_size
        return 0.04 * config.evaluation_samples * evaluations + 2e-4 * responses * (1 + config.step.updates)
    return {Probe: 240.0, Anatomy: 100.0}[type(config)]


def made_with(records: Sequence[Record]) -> str:
    """One line on the libraries that made the records."""
    by_library = {name: sorted({public(record.made_by["versions"][name]) for record in records}) for name in LIBRARIES}
    versions = ", ".join(f"{name} {' or '.join(found)}" for name, found in by_library.items())
    return f"{len(records)} record{'s' * (len(records) != 1)}, made with {versions}"


def _say_what_is_here(records: Sequence[Record]) -> None:
    here = {name: public(metadata.version(name)) for name in LIBRARIES}
    made = {name: {public(record.made_by["versions"][name]) for record in records} for name in LIBRARIES}
    if other := [f"{name} {version}" for name, version in here.items() if made[name] != {version}]:
        print(f"here {', '.join(other)} is installed; the records are used as they are", file=sys.stderr)


def public(version: str) -> str:
    """A version without the mark of a local build: 2.0+cpu and 2.0 are the same code."""
    return version.partition("+")[0]


def _compute(runs: list[Run], store: Store, jobs: int, name: str) -> None:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(runs)), context, initializer=end_with_parent)
    try:
        futures = {pool.submit(_store_one, run, store): run for run in runs}
        for future in tqdm(as_completed(futures), total=len(futures), desc=name, unit="run"):
            try:
                future.result()
            except Exception as error:
                run = futures[future]
                raise RuntimeError(
                    f"the run {run.name} of {run.config!r} failed: {type(error).__name__}: {error}"
                ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _store_one(run: Run, store: Store) -> None:
    load_or_run(run, store)
