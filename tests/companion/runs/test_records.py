"""Records are addressed by config and origin, made in parallel, and survive being killed."""

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from companion.instruments.probe import Probe
from companion.laboratory.experiment import Experiment
from companion.laboratory.policies import WarmStart, build_policy
from companion.runs import reached_code, records
from companion.runs.records import load_or_run, origin, record_key, run_all
from companion.runs.store import Store, canonical
from entropy_dynamics.grpo import StepConfig
from entropy_dynamics.methods import Rule

START = WarmStart(sizes=(3,), width=16, layers=1, steps=3, prompts=4)
TINY = Experiment(start=START, steps=3, prompts=4, group_size=2, evaluation_samples=2, ledger_every=2)


def with_rule(name, **options):
    return TINY.model_copy(update={"step": StepConfig(rule=Rule(name=name, options=options))})


def test_keys_depend_on_config_code_and_versions(monkeypatch):
    probe = Probe(experiment=TINY, rules=(Rule(),))
    keys = {record_key(TINY), record_key(TINY.model_copy(update={"seed": 1})), record_key(START), record_key(probe)}
    monkeypatch.setattr(records.metadata, "version", lambda name: "0")
    keys.add(record_key(TINY))
    assert len(keys) == 5


def test_a_local_build_of_a_library_is_the_same_version(monkeypatch):
    keys = set()
    for version in ("2.0", "2.0+cpu"):
        monkeypatch.setattr(records.metadata, "version", lambda name, version=version: version)
        keys.add(record_key(TINY))
    assert len(keys) == 1


def edited(monkeypatch, name, old, new):
    text = (reached_code.PACKAGE / f"{name}.py").read_text()
    assert text.count(old) >= 1
    monkeypatch.setitem(records._SOURCES, name, ast.parse(text.replace(old, new, 1)))


def test_code_counts_comments_and_docstrings_do_not(monkeypatch):
    key = record_key(TINY)
    edited(monkeypatch, "grpo", '"""One optimizer step', '"""A single optimizer step')
    assert record_key(TINY) == key
    edited(monkeypatch, "grpo", "first = reports[0].batch", "first = reports[-1].batch")
    assert record_key(TINY) != key


def test_a_rule_counts_only_for_the_runs_that_use_it(monkeypatch):
    plain, bonus, clip = TINY, with_rule("entropy_bonus"), with_rule("clip_b", mu=2.0)
    probe = Probe(experiment=TINY, rules=(Rule(), bonus.step.rule))
    before = [record_key(config) for config in (plain, bonus, clip, probe)]
    edited(monkeypatch, "methods", "entropy=coefficient * batch.mask)", "entropy=2 * coefficient * batch.mask)")
    assert [record_key(c) == key for c, key in zip((plain, bonus, clip, probe), before)] == [True, False, True, False]
    monkeypatch.undo()
    # clip_b calls grpo, so a change of grpo changes all
    edited(
        monkeypatch,
        "methods",
        "return batch.mask & ~is_clipped(batch.ratio",
        "return batch.mask & is_clipped(batch.ratio",
    )
    assert not any(record_key(c) == key for c, key in zip((plain, bonus, clip, probe), before))
    monkeypatch.undo()
    # another module counts for the rules that call it
    edited(monkeypatch, "clipping", "values < -threshold", "values > threshold")
    assert [record_key(c) == key for c, key in zip((plain, bonus, clip, probe), before)] == [True, True, False, True]


def test_every_run_depends_on_how_its_policy_was_pretrained(monkeypatch):
    before = record_key(TINY)
    edited(monkeypatch, "policies", "def warm_start(config: WarmStart)", "def warm_start(config: WarmStart, extra=0)")
    assert record_key(TINY) != before


def test_origins_name_the_code_that_a_computation_runs_through():
    assert {"experiment.py", "grpo.py", "methods.py", "backends.py", "ledger.py", "torch"} <= origin(TINY).keys()
    assert "clipping.py" not in origin(TINY) and "clipping.py" in origin(with_rule("clip_b", mu=2.0))
    assert "probe.py" not in origin(TINY) and "grpo.py" not in origin(START)
    assert "probe.py" in origin(Probe(experiment=TINY, rules=(Rule(),)))
    assert not {"store.py", "files.py", "figures.py", "compiled_backend.py"} & origin(TINY).keys()


def test_no_run_uses_the_backends_that_its_key_leaves_out():
    program = (
        "import sys; sys.modules.update(dict.fromkeys("
        "['entropy_dynamics.compiled_backend', 'entropy_dynamics.triton_backend'])); "
        "from entropy_dynamics import comparisons; from companion.laboratory.experiment import run; "
        "from companion.laboratory.policies import build_policy; config = comparisons.base(0); "
        "run(config.model_copy(update={'steps': 1, 'evaluation_samples': 2}), build_policy(config.start).state_dict())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


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

    monkeypatch.setattr(records, "warm_start", spy)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load_or_run(START, Store(tmp_path))
        assert seen == [(1, True)] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_a_process_with_outdated_code_makes_no_records(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_read_sources", lambda: {"grpo": ast.parse("edited")})
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
