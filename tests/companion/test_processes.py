"""Processes end with those that started them, and memory that several share counts once."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from companion import processes
from companion.processes import memory

WORKER = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from companion.processes import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent)
    for _ in range(2):
        pool.submit(time.sleep, 100)
    time.sleep(100)
"""
LAUNCHER = """
import subprocess, sys
follow = "import time; from companion.processes import end_with_launcher; end_with_launcher(); time.sleep(100)"
launch = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
subprocess.run([sys.executable, "-c", launch, follow])
"""


def descendants_of(run, number):
    deadline = time.monotonic() + 30
    while len(found := psutil.Process(run.pid).children(recursive=True)) < number and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)  # for the last one to begin to follow
    return found


@pytest.mark.parametrize(("script", "number", "killed"), [(WORKER, 2, 0), (LAUNCHER, 2, 0), (LAUNCHER, 2, 1)])
def test_a_process_ends_with_those_above_it(tmp_path, script, number, killed):
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    run = subprocess.Popen([sys.executable, tmp_path / "script.py"])
    tree = [psutil.Process(run.pid), *descendants_of(run, number)]
    try:
        os.kill(tree[killed].pid, signal.SIGKILL)
        run.wait(timeout=10 if killed else None)
        assert not psutil.wait_procs([tree[-1]], timeout=10)[1]
    finally:
        processes.kill_tree(run.pid)
        for process in tree:
            if process.is_running():
                process.kill()


def test_a_process_that_goes_on_starting_others_is_killed_with_all_of_them():
    starter = "import subprocess, time\nwhile True: subprocess.Popen(['sleep', '100']); time.sleep(0.001)"
    run = subprocess.Popen([sys.executable, "-c", starter])
    started = descendants_of(run, 20)
    processes.kill_tree(run.pid)
    run.wait()
    assert len(started) >= 20 and not psutil.wait_procs(started, timeout=5)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere shared pages are not counted")
def test_shared_memory_counts_once():
    fork = "import os, time; x = b'x' * 200_000_000; print(flush=True); [os.fork() for _ in range(2)]; time.sleep(100)"
    run = subprocess.Popen([sys.executable, "-c", fork], stdout=subprocess.PIPE)
    try:
        run.stdout.read(1)
        assert len(descendants_of(run, 3)) == 3
        assert 200e6 < memory(run.pid) < 260e6
    finally:
        processes.kill_tree(run.pid)
        run.communicate()
    assert memory(run.pid) == 0
