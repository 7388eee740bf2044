import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(text)
    for text in PROJECT["dependencies"]
    + [text for extra in ("dev", "trl") for text in PROJECT["optional-dependencies"][extra]]
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


def test_every_import_of_the_package_is_declared():
    extras = PROJECT["optional-dependencies"]
    names = {
        "": PROJECT["dependencies"],
        **dict.fromkeys(("trl.py", "math_data.py", "paper_scale.py", "real_training.py"), extras["trl"]),
        "step_bench.py": extras["trl"],
        "statistics_bench.py": extras["trl"],
        "triton_backend.py": extras["triton"],
    }
    names = {file: {canonicalize_name(Requirement(text).name) for text in texts} for file, texts in names.items()}
    distributions = metadata.packages_distributions()
    for path in (ROOT / "src").rglob("*.py"):
        for name in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.M):
            if name in distributions and name != "entropy_dynamics":
                declared = names[""] | names.get(path.name, set())
                assert {canonicalize_name(d) for d in distributions[name]} & declared, f"{path.name} imports {name}"


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets


def test_links_and_pictures_of_the_readme_exist():
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / "README.md").read_text())
    assert links and all((ROOT / link).exists() for link in links)
