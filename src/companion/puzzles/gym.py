"""Single tasks of reasoning-gym, without importing the whole package, which needs solvers that must be compiled."""

import importlib
import sys
import types
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType


def task_module(name: str) -> ModuleType:
    """The module reasoning_gym.NAME, such as "arithmetic.chain_sum"; its parent packages are not executed.

    Raises:
        ImportError: reasoning-gym is not installed.
    """
    spec = find_spec("reasoning_gym")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("reasoning-gym is not installed; run: pip install --no-deps reasoning-gym==0.1.25")
    folder = spec.submodule_search_locations[0]
    group = name.partition(".")[0]
    with _packages({"reasoning_gym": folder, f"reasoning_gym.{group}": f"{folder}/{group}"}):
        return importlib.import_module(f"reasoning_gym.{name}")


@contextmanager
def _packages(folders: dict[str, str]):
    """Empty packages in the place of the real ones, for as long as a module is imported."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "reasoning_gym"}
    for name, folder in folders.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [folder]
    try:
        yield
    finally:
        for name in folders:
            del sys.modules[name]
        sys.modules.update(before)
