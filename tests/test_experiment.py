"""Runs are determined by their configs, resume after being killed, and refuse bad configs before they start."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from pydantic import ValidationError

from entropy_dynamics import experiment
from entropy_dynamics.experiment import Experiment, load_or_run, record_key, run, run_all
from entropy_dynamics.grpo import StepConfig
from entropy_dynamics.methods import Rule
from entropy_dynamics.policies import WarmStart, build_policy
from entropy_dynamics.store import Store, canonical

START = WarmStart(width=16, layers=1, steps=3, prompts=4)
TINY = Experiment(start=START, steps=3, prompts=4, group_size=2, evaluation_samples=2, ledger_every=2)


@pytest.fixture(scope="module")
def weights():
    return dict(build_policy(START).state_dict())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(weights):
    first, again = run(TINY, weights), run(TINY, weights)
    assert canonical(first.document) == canonical(again.document)
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    other = run(TINY.model_copy(update={"seed": 1}), weights)
    assert other.document["series"] != first.document["series"]


def test_a_record_holds_every_step_and_the_evaluation(weights):
    document = run(TINY, weights).document
    assert {len(values) for values in document["series"].values()} == {3}
    measured = document["series"]["ledger_measured"]
    assert [value is None for value in measured] == [False, True, False]
    assert set(document["series"]["masked_positive"]) <= {0.0, None}
    evaluation = document["evaluation"]
    assert len(evaluation["correct"]) == len(evaluation["distinct"]) == 128
    assert all(0 <= d <= c <= 2 for d, c in zip(evaluation["distinct"], evaluation["correct"]))
    assert Experiment(**document["config"]) == TINY


def test_the_ledger_does_not_touch_the_training(weights):
    with_ledger = run(TINY, weights)
    without = run(TINY.model_copy(update={"ledger_every": 0}), weights)
    assert all(torch.equal(with_ledger.tensors[name], without.tensors[name]) for name in without.tensors)


def test_steps_only_cut_a_run_short(weights):
    long, short = (run(TINY.model_copy(update={"steps": steps}), weights).document["series"] for steps in (3, 2))
    assert long["entropy"][:2] == short["entropy"] and long["reward"][:2] == short["reward"]


def test_a_group_of_one_and_rewards_all_alike_are_defined(weights, monkeypatch):
    canonical(run(TINY.model_copy(update={"group_size": 1}), weights).document)  # refuses NaN
    for verdict in (True, False):
        monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids, verdict=verdict: verdict)
        record = run(TINY, weights)
        assert record.document["series"]["reward"] == [float(verdict)] * 3
        assert all(torch.equal(record.tensors[name], weights[name]) for name in weights)  # no variance, no gradient


def test_masked_fractions_follow_the_rule(weights, monkeypatch):
    monkeypatch.setattr(experiment.tasks, "is_correct", lambda problem, ids: sum(ids) % 2 == 0)
    options = {"action": "keep", "advantage": "positive", "statistic": "S", "sign": "above"}
    config = TINY.model_copy(update={"step": StepConfig(rule=Rule(name="intervention", options=options))})
    series = run(config, weights).document["series"]
    negative = [value for value in series["masked_negative"] if value is not None]
    assert negative and set(negative) == {1.0}
    assert all(value is None or value < 1 for value in series["masked_positive"])


@pytest.mark.parametrize(
    "settings",
    [
        *({"steps": 0}, {"group_size": 0}, {"learning_rate": -1.0}, {"optimizer": "lion"}, {"mu": 2}, {"seed": -1}),
        {"prompts": 100_000},
    ],
)
def test_bad_configs_name_the_field(settings):
    with pytest.raises(ValidationError, match=next(iter(settings))):
        Experiment(**settings)


def test_keys_depend_on_config_sources_and_versions(monkeypatch):
    keys = {record_key(TINY), record_key(TINY.model_copy(update={"seed": 1})), record_key(START)}
    monkeypatch.setattr(experiment, "origin", lambda: {"torch": "0"})
    keys.add(record_key(TINY))
    assert len(keys) == 4


def test_every_source_that_a_run_imports_is_part_of_its_key():
    local = {f"{name.removeprefix('entropy_dynamics.')}.py" for name in experiment_imports()}
    assert local - {"store.py", "files.py"} <= set(experiment.SOURCES)


def experiment_imports():
    """The modules of the package that a fresh process has loaded after importing `experiment`."""
    code = "import sys, entropy_dynamics.experiment; print(*(m for m in sys.modules if 'entropy_dynamics.' in m))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_parallel_runs_are_those_of_one_process_and_are_kept(tmp_path):
    store, serial = Store(tmp_path / "a"), Store(tmp_path / "b")
    configs = [TINY.model_copy(update={"seed": seed}) for seed in (0, 1)]
    records = run_all(configs, store, jobs=2)
    alone = [load_or_run(config, serial) for config in configs]
    assert [canonical(r.document) for r in records] == [canonical(r.document) for r in alone]
    before = {path: path.stat().st_mtime_ns for path in store.root.iterdir()}
    run_all(configs, store)
    assert before == {path: path.stat().st_mtime_ns for path in store.root.iterdir()}


def test_a_failing_run_is_named_and_the_finished_ones_stay(tmp_path):
    store = Store(tmp_path)
    bad = TINY.model_copy(update={"temperature": -1.0})  # not validated, so that it fails in the worker
    with pytest.raises(RuntimeError, match=r"temperature=-1.0.*expected above 0"):
        run_all([TINY, bad], store, jobs=1)
    assert store.get(record_key(TINY)) is not None and store.get(record_key(bad)) is None


def test_records_do_not_depend_on_what_the_caller_has_set(tmp_path, monkeypatch):
    seen = []

    def spy(config):
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        return dict(build_policy(config).state_dict())

    monkeypatch.setattr(experiment, "warm_start", spy)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load_or_run(START, Store(tmp_path))
        assert seen == [(1, True)] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_process_with_outdated_code_makes_no_records(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "_read_origin", lambda: {"grpo.py": "edited"})
    with pytest.raises(RuntimeError, match="files changed since this process started"):
        load_or_run(START, Store(tmp_path))
    assert not list(tmp_path.iterdir())


CAMPAIGN = [TINY.model_copy(update={"steps": 300, "seed": seed}) for seed in (0, 1)]


def campaign(root):
    run_all(CAMPAIGN, Store(root), jobs=2)


def test_a_campaign_that_was_killed_goes_on_and_ends_as_if_undisturbed(tmp_path):
    disturbed, calm = Store(tmp_path / "disturbed"), Store(tmp_path / "calm")
    process = multiprocessing.get_context("spawn").Process(target=campaign, args=(disturbed.root,))
    process.start()
    key = record_key(CAMPAIGN[0])
    lock = disturbed.root / f"{key}.lock"
    deadline = time.monotonic() + 100
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lock.exists()  # the run is under way
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not psutil.wait_procs(children, timeout=20)[1]  # the workers do not outlive their parent
    assert disturbed.get(key) is None and disturbed.get(record_key(START)) is not None
    campaign(disturbed.root)
    campaign(calm.root)
    names = sorted(path.name for path in calm.root.iterdir() if path.suffix in (".json", ".safetensors"))
    assert len(names) == 6
    for name in names:
        assert (disturbed.root / name).read_bytes() == (calm.root / name).read_bytes()
