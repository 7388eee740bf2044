"""How much memory a computation needs at its peak, beyond what the process held before. Linux with glibc only."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path


def peak_memory(computation: Callable[[], object]) -> int:
    """Bytes of resident memory at the highest point of `computation()`, minus those before; what it returns counts.

    Better than the peak in getrusage, which a child process inherits from its parent.

    Raises:
        OSError: no /proc as on Linux.
    """
    ctypes.CDLL(None).malloc_trim(0)  # free memory that the process keeps would hide what is allocated from it
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest point so far is forgotten
    before = _status("VmRSS")
    result = computation()
    peak = _status("VmHWM")
    del result
    return peak - before


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024
