"""Where something cannot work it says so at once; the systems themselves are not here, their names are."""

import importlib
import subprocess
import sys

import pytest

import companion
from companion.benches import bench
from companion.benches.peak_memory import peak_memory

LIBRARY_ON_WINDOWS = """
import logging, sys, torch
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
sys.platform = "win32"
from entropy_dynamics import clipping, global_clipping, grpo, lens, linear_statistics, methods, theory
from entropy_dynamics.token_statistics import token_statistics
logits, tokens = torch.randn(8, 300), torch.arange(8)
for backend in ("eager", "compiled"):
    actual = token_statistics(logits, tokens, backend=backend)
    torch.testing.assert_close(actual.entropy, theory.entropy(logits))
"""


def test_on_windows_the_companion_says_what_to_use(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ImportError, match=r"Windows.*WSL"):
        importlib.reload(companion)


def test_on_windows_the_library_works():
    command = [sys.executable, "-c", LIBRARY_ON_WINDOWS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("platform", ["darwin", "freebsd14"])
def test_peak_memory_is_refused_before_anything_is_measured(monkeypatch, capsys, platform):
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(OSError, match=f"/proc, which only Linux has; this is {platform}"):
        peak_memory(lambda: pytest.fail("was run"))
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(bench, "measure", lambda *_, **__: pytest.fail("was measured"))
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 2 and f"this is {platform}" in capsys.readouterr().err
