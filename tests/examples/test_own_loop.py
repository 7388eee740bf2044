"""The example of a loop of one's own: how its batch is cut makes no difference, and it learns."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from companion.provenance import ROOT

FILE = ROOT / "examples" / "own_loop.py"


@pytest.fixture(scope="module")
def example():
    specification = importlib.util.spec_from_file_location("own_loop", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("micro_batch", [8, 50])
def test_micro_batches_train_as_the_whole_batch(example, micro_batch):
    whole, series = example.train(steps=12, micro_batch=128, mu=0.5)
    cut, other = example.train(steps=12, micro_batch=micro_batch, mu=0.5)
    assert [row["masked"] for row in series] == [row["masked"] for row in other] and series[-1]["masked"] > 0
    for ours, theirs in zip(cut.parameters(), whole.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_any_number_of_processes_has_whole_groups(example, processes, monkeypatch):
    sizes = []
    monkeypatch.setattr(example, "group_advantages", lambda rewards: sizes.append(rewards.shape) or rewards)
    for rank in range(processes):
        example.train(steps=1, micro_batch=16, mu=1.0, rank=rank, processes=processes)
    assert {size[1] for size in sizes} == {example.GROUP} and sum(size[0] for size in sizes) == example.PROMPTS


def lines(*command):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("step")]


def test_two_processes_train_as_one():
    options = ["--steps", "11", "--mu", "0.5"]
    one = lines(sys.executable, str(FILE), *options)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # On a loaded machine torch now and then aborts while gloo ends, behind the last line; then all is run again.
    assert lines(*launcher, "--max-restarts", "1", str(FILE), *options)[-11:] == one and len(one) == 11


def test_it_learns_and_clip_b_keeps_entropy(example):
    (_, plain), (_, clipped) = (example.train(steps=120, micro_batch=128, mu=mu) for mu in (1e9, 1.0))
    assert plain[-1]["reward"] > 0.3 > 0.1 > plain[0]["reward"]
    assert clipped[-1]["entropy"] > plain[-1]["entropy"] + 0.1
