import ast
import re
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], PROJECT["optional-dependencies"]["companion"])
    for text in texts
]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]


def locked():
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}


def test_the_lock_pins_plain_versions():
    for line in LOCK:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_lock_satisfies_what_the_project_declares(requirement):
    assert locked()[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_lock_is_what_is_installed():
    different = {
        name: (version, metadata.version(name))
        for name, version in locked().items()
        if metadata.version(name).split("+")[0] != version
    }
    assert not different


def test_environment_yml_is_python_pip_and_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert python.startswith("python=3.11") and pip == "pip"
    assert packages == {"pip": ["-r requirements.lock", "--editable ."]}
    assert PROJECT["requires-python"] == ">=3.11"


def imported(path):
    """The top-level modules that a file imports, but those of Python and of this project."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"entropy_dynamics"}


@pytest.mark.parametrize("path", sorted((ROOT / "src" / "entropy_dynamics").glob("*.py")), ids=lambda path: path.name)
def test_the_library_imports_torch_alone_but_for_its_two_extras(path):
    extra = {"trl.py": {"trl"}, "triton_backend.py": {"triton"}}.get(path.name, set())
    assert imported(path) <= {"torch"} | extra


def test_every_import_of_the_companion_is_declared():
    declared = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    distributions = metadata.packages_distributions()
    for path in (ROOT / "src" / "companion").rglob("*.py"):
        for name in imported(path) - {"companion"}:
            assert {canonicalize_name(d) for d in distributions[name]} & declared, f"{path.name} imports {name}"


def test_the_companion_runs_from_the_checkout():
    for name in ("entropy_dynamics", "companion"):
        assert Path(find_spec(name).origin) == ROOT / "src" / name / "__init__.py"


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets


def test_links_and_pictures_of_the_readme_exist():
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / "README.md").read_text())
    assert links and all((ROOT / link).exists() for link in links)
