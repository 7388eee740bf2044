"""Records that are there are used, missing ones are made in parallel, and both survive being killed."""

import json
import multiprocessing
import os
import platform
import signal
import time
from collections import Counter

import psutil
import pytest
import torch

from companion.laboratory.experiment import Experiment
from companion.laboratory.policies import WarmStart, build_policy
from companion.provenance import ROOT
from companion.record import Record, canonical, checksum
from companion.runs import comparisons, records
from companion.runs.records import (
    MissingRecords,
    Run,
    expected_seconds,
    load_or_run,
    on_this_machine,
    public,
    run_all,
)
from companion.runs.store import Store

START = WarmStart(sizes=(3,), width=16, layers=1, steps=3, prompts=4)
TINY = Experiment(start=START, steps=3, prompts=4, group_size=2, evaluation_samples=2, ledger_every=2)


def run_of(config):
    name = f"tests/{config.step.rule.name}/seed-{config.seed}"
    return Run(name, config, Run("tests/start/seed-0", config.start))


def with_versions(record, **versions):
    return Record(record.document, {}, record.made_by | {"versions": record.made_by["versions"] | versions})


def test_records_of_other_versions_are_used_and_a_line_says_so(tmp_path, capsys):
    runs, store = [run_of(TINY)], Store(tmp_path / "a")
    (record,) = run_all(runs, store, jobs=1)
    committed = Store(tmp_path / "b")
    committed.put(runs[0].name, TINY, with_versions(record, torch="1.0.0+cpu"))
    capsys.readouterr()
    layered = Store(tmp_path / "c", committed.root)
    assert run_all(runs, layered, minutes=0)[0].document == record.document
    printed = capsys.readouterr()
    assert printed.out.startswith("1 record, made with torch 1.0.0, transformers ")
    assert printed.err == f"here torch {public(torch.__version__)} is installed; the records are used as they are\n"
    run_all(runs, store)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "c").exists()


def test_a_record_says_what_made_it(tmp_path):
    (record,) = run_all([run_of(TINY)], Store(tmp_path), jobs=1)
    made_by = record.made_by
    assert {"commit", "uncommitted_changes", "machine", "versions", "seconds", "start_sha256"} == made_by.keys()
    assert {"system", "architecture", "cpu", "cores", "instructions"} == made_by["machine"].keys()
    assert {"python", "torch", "transformers", "numpy"} == made_by["versions"].keys()
    assert platform.release() not in json.dumps(made_by)  # no kernel
    assert on_this_machine(record) and not on_this_machine(with_versions(record, numpy="1.0"))
    other = Record({}, {}, record.made_by | {"machine": {"cpu": "another"}})
    assert not on_this_machine(other)


def test_every_committed_record_is_of_the_committed_start():
    store = Store(ROOT / "data" / "runs")
    released = comparisons.named_by_name()
    runs = [run for run in released.values() if run.start and run.start.name in released]
    starts = {run.start.name: checksum(store.get(run.start.name, run.start.config).tensors) for run in runs}
    assert len(runs) > 500 and len(set(starts.values())) == len(starts) == 23
    for run in runs:
        assert store.get(run.name, run.config).made_by["start_sha256"] == starts[run.start.name], run.name


def test_what_takes_long_is_not_trained_unasked(tmp_path):
    store = Store(tmp_path / "store")
    words = "2 of 2 runs have no record, .*about 0 minutes.*and 0 are allowed to each comparison.*Set minutes = 1 in"
    with pytest.raises(MissingRecords, match=words):
        run_all([run_of(TINY), run_of(TINY.model_copy(update={"seed": 1}))], store, jobs=1, minutes=0)
    assert not store.root.exists()


# Seconds are of the clock, and other work lengthens them: so the fastest run counts; of these none was undisturbed.
LOADED = {"effects", "shares"}


def test_the_guess_is_within_a_factor_of_two_of_what_each_comparison_took():
    store, took, guessed = Store(ROOT / "build" / "nothing", ROOT / "data" / "runs"), Counter(), Counter()
    best = Counter()
    for name, run in comparisons.named_by_name().items():
        comparison, seconds = name.partition("/")[0], store.get(name, run.config).made_by["seconds"]
        took[comparison] += seconds
        guessed[comparison] += expected_seconds(run.config)
        best[comparison] = max(best[comparison], expected_seconds(run.config) / seconds)
    assert all(guessed[name] / took[name] < 2 for name in took), (took, guessed)
    assert all(best[name] > 1 / 2 for name in took.keys() - LOADED), best
    assert expected_seconds(comparisons.base(0).model_copy(update={"steps": 9600})) > 3600


def test_parallel_runs_are_those_of_one_process_and_are_kept(tmp_path):
    store, serial = Store(tmp_path / "a"), Store(tmp_path / "b")
    configs = [run_of(TINY.model_copy(update={"seed": seed})) for seed in (0, 1)]
    records = run_all(configs, store, jobs=2)
    alone = [load_or_run(config, serial) for config in configs]
    assert [canonical(r.document) for r in records] == [canonical(r.document) for r in alone]
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    run_all(configs, store)
    assert before == {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}


def test_a_failing_run_is_named_and_the_finished_ones_stay(tmp_path):
    store = Store(tmp_path)
    bad = TINY.model_copy(update={"temperature": -1.0})  # not validated, so that it fails in the worker
    with pytest.raises(RuntimeError, match=r"temperature=-1.0.*expected above 0"):
        run_all([run_of(TINY), Run("tests/bad/seed-0", bad, run_of(TINY).start)], store, jobs=1)
    assert store.get(run_of(TINY).name, TINY) is not None and store.get("tests/bad/seed-0", bad) is None


def test_records_do_not_depend_on_what_the_caller_has_set(tmp_path, monkeypatch):
    seen = []

    def spy(config):
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        return Record({}, dict(build_policy(config).state_dict()))

    monkeypatch.setattr(records, "warm_start", spy)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load_or_run(Run("tests/start/seed-0", START), Store(tmp_path))
        assert seen == [(1, True)] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


LONG = [run_of(TINY.model_copy(update={"steps": 300, "seed": seed})) for seed in (0, 1)]


def train(root):
    run_all(LONG, Store(root), jobs=2)


def test_training_that_was_killed_goes_on_and_ends_as_if_undisturbed(tmp_path):
    disturbed, calm = Store(tmp_path / "disturbed"), Store(tmp_path / "calm")
    process = multiprocessing.get_context("spawn").Process(target=train, args=(disturbed.root,))
    process.start()
    lock = disturbed.path(LONG[0].name).with_suffix(".lock")
    deadline = time.monotonic() + 100
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lock.exists()  # the run is under way
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not psutil.wait_procs(children, timeout=20)[1]  # the workers do not outlive their parent
    start = LONG[0].start
    assert disturbed.get(LONG[0].name, LONG[0].config) is None and disturbed.get(start.name, start.config) is not None
    train(disturbed.root)
    train(calm.root)
    for run in [*LONG, start]:
        ours, theirs = (store.get(run.name, run.config) for store in (disturbed, calm))
        assert canonical(ours.document) == canonical(theirs.document)
        assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
    assert len([path for path in calm.root.rglob("*") if path.is_file()]) == 6
