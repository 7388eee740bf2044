"""The library needs torch and nothing else: no other package to be imported, none that its metadata asks for."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {extra: [Requirement(text) for text in texts] for extra, texts in PROJECT["optional-dependencies"].items()}
MODULES = sorted(path.stem for path in (ROOT / "src" / "entropy_dynamics").glob("*.py"))
NEED_AN_EXTRA = {"trl", "verl", "triton_backend"}

CHILD = """
import sys
from importlib.machinery import PathFinder

module, *missing = sys.argv[1:]
find_spec = PathFinder.find_spec

@staticmethod
def find_others(name, *more):
    return None if name.partition(".")[0] in missing else find_spec(name, *more)

PathFinder.find_spec = find_others
__import__(f"entropy_dynamics.{module}")
loaded = {name.partition(".")[0] for name in sys.modules}
assert "torch" in loaded or module in ("__init__", "control"), "nothing was tried"
assert not loaded & set(missing), loaded & set(missing)
"""


@cache
def names_of_extras():
    """The modules of all packages in extras, but those that torch itself needs."""
    of_torch = {canonicalize_name(Requirement(text).name) for text in metadata.requires("torch")}
    packages = {canonicalize_name(requirement.name) for texts in EXTRAS.values() for requirement in texts} - of_torch
    distributions = metadata.packages_distributions()
    return [name for name, of in distributions.items() if {canonicalize_name(d) for d in of} & packages]


def test_the_packages_that_are_kept_out_are_those_one_would_think_of():
    assert {"numpy", "pandas", "pydantic", "transformers", "accelerate", "scipy", "trl"} <= set(names_of_extras())


@pytest.mark.parametrize("module", [name for name in MODULES if name not in NEED_AN_EXTRA])
def test_a_module_imports_with_torch_alone(module):
    command = [sys.executable, "-c", CHILD, module, "companion", *names_of_extras()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]


FRAMEWORKS = {"trl", "verl", "transformers", "accelerate", "datasets", "ray", "tensordict", "transfer_queue"}
IMPORTED = "import sys, entropy_dynamics.{}; print(*{{name.partition('.')[0] for name in sys.modules}})"


def imported_with(modules):
    """The top-level modules of a process that has imported these of the library, with nothing kept out."""
    command = [sys.executable, "-c", IMPORTED.format(", entropy_dynamics.".join(modules))]
    return set(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.split())


def test_no_framework_is_imported_unless_it_is_used():
    assert not imported_with([name for name in MODULES if name not in {"__init__", "trl", "verl"}]) & FRAMEWORKS
    assert {"trl", "transformers"} <= imported_with(["trl"])


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_adds_to_torch_and_has_lower_bounds_alone(extra):
    needed = [Requirement(text) for text in PROJECT["dependencies"]]
    assert not {r.name for r in EXTRAS[extra]} & {r.name for r in needed}
    for requirement in EXTRAS[extra] + needed:
        assert re.fullmatch(r">=\d+(\.\d+)*", str(requirement.specifier)) and requirement.marker is None, requirement
