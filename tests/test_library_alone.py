"""The library needs torch and nothing else: no other package to be imported, none in its wheel's requirements."""

import re
import shutil
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
assert "torch" in loaded or module == "__init__", "nothing was tried"
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The library's wheel, from a copy of what it is built from: what was built in the checkout is not to get in."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    done = subprocess.run([*pip, str(source)], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = folder.glob("*.whl")
    return next(iter(metadata.distributions(path=[str(found)])))


def test_the_wheel_is_the_library_alone(wheel):
    modules = {str(file) for file in wheel.files if ".dist-info/" not in str(file)}
    assert modules == {f"entropy_dynamics/{name}.py" for name in MODULES}
    assert wheel.name == "entropy-dynamics"


def test_the_wheel_requires_torch_alone(wheel):
    required = [Requirement(text) for text in wheel.requires]
    assert [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})] == ["torch"]
    assert set(wheel.metadata.get_all("Provides-Extra")) == {"trl", "verl", "triton", "companion"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_adds_to_torch_and_has_lower_bounds_alone(extra):
    needed = [Requirement(text) for text in PROJECT["dependencies"]]
    assert not {r.name for r in EXTRAS[extra]} & {r.name for r in needed}
    for requirement in EXTRAS[extra] + needed:
        assert re.fullmatch(r">=\d+(\.\d+)*", str(requirement.specifier)) and requirement.marker is None, requirement
