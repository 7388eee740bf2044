"""A release: one version everywhere, an sdist that builds and tests itself, a wheel that is the library alone."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import entropy_dynamics

ROOT = Path(__file__).parents[1]
VERSION = entropy_dynamics.__version__
NAME = f"entropy_dynamics-{VERSION}"
MODULES = {f"entropy_dynamics/{path.name}" for path in (ROOT / "src" / "entropy_dynamics").glob("*.py")}


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def run(*command, **settings):
    done = subprocess.run(command, capture_output=True, encoding="utf-8", **settings)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The sdist unpacked, made from a copy of what it is made from: what was built in the checkout is not to get in."""
    folder = tmp_path_factory.mktemp("release")
    for name in ("src", "tests", "docs", "examples"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules")
        shutil.copytree(ROOT / name, folder / "checkout" / name, ignore=unwanted)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, folder / "checkout")
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    run(sys.executable, "-c", build, cwd=folder / "checkout")
    run("tar", "-xzf", f"{NAME}.tar.gz", cwd=folder)  # tarfile warns or knows no filter, by Python's version
    return folder / NAME


@pytest.fixture(scope="module")
def wheel(source):
    """The wheel, built from the sdist."""
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(source.parent)]
    run(*pip, str(source))
    return source.parent / f"{NAME}-py3-none-any.whl"


def test_the_version_is_the_same_everywhere(wheel):
    assert yaml.safe_load(text("CITATION.cff"))["version"] == VERSION
    assert re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.M)[0] == VERSION
    assert next(iter(metadata.distributions(path=[str(wheel)]))).version == VERSION


def test_the_changelog_keeps_changed_results_apart():
    latest = text("CHANGELOG.md").split("\n## ")[1]
    assert re.findall(r"^### (.*)", latest, re.M) == ["Changed results", "Added", "Changed", "Removed"]


def test_the_wheel_is_the_library_alone(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if not name.startswith(f"{NAME}.dist-info/")} == MODULES


def test_the_wheel_requires_torch_alone(wheel):
    (found,) = metadata.distributions(path=[str(wheel)])
    required = [Requirement(line) for line in found.requires]
    assert [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})] == ["torch"]
    assert set(found.metadata.get_all("Provides-Extra")) == {"trl", "verl", "triton", "companion"}


USE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import entropy_dynamics
from entropy_dynamics.clipping import clip_b
assert entropy_dynamics.__file__.startswith(sys.argv[1]), entropy_dynamics.__file__
s = torch.tensor([[0.1, 0.1, 0.1, 0.1, -0.2]])
keep = clip_b(s, -torch.ones(1, 1), torch.ones(1, 5, dtype=torch.bool), mu=1.5)
print(entropy_dynamics.__version__, *keep[0].tolist())
"""


def test_the_wheel_is_imported_where_it_is_installed(wheel, tmp_path):
    """Mean 0.04 and deviation 0.12: the last token is two deviations below."""
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(wheel))
    printed = run(sys.executable, "-I", "-c", USE, str(tmp_path), cwd=tmp_path)
    assert printed.split() == [VERSION, "True", "True", "True", "True", "False"]


def test_the_sdist_has_the_library_and_its_tests_and_nothing_of_the_companion(source):
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert {f"src/{name}" for name in MODULES} <= files
    own = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "entropy_dynamics").glob("*.py")}
    assert {name for name in files if name.startswith("tests/")} == own | {"tests/conftest.py"}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "docs/verl.md", "examples/own_loop.py"} <= files
    assert not any("companion" in name for name in files)


def test_the_tests_in_the_sdist_run_there(source, tmp_path):
    shutil.copytree(source, tmp_path / NAME)  # what the run leaves is not in the sdist
    settings = os.environ | {"PYTHONPATH": str(tmp_path / NAME / "src")}
    tests = ["-m", "pytest", "-q", "tests/entropy_dynamics/test_clipping.py"]
    assert re.search(r"^\d+ passed", run(sys.executable, *tests, cwd=tmp_path / NAME, env=settings), re.M)


# A folder of somebody's machine; paths of the kernel's files, such as /proc, are the same everywhere.
OF_A_MACHINE = re.compile(r"(?<![\w.:/-])/(?:home|root|work|Users|mnt)/\w+")


@pytest.mark.parametrize("folder", ["home", "root", "work", "Users", "mnt"])
def test_a_path_of_a_machine_is_noticed(folder):
    for line in ("File /{}/me/x.py", "'/{}/a'", "/{}/b"):
        assert OF_A_MACHINE.search(line.format(folder))
    assert not OF_A_MACHINE.search(f"https://example.com/{folder}/a and proc/{folder}")


def test_nothing_in_a_release_names_a_machine(source, wheel):
    contents = {str(path): path.read_text(encoding="utf-8") for path in source.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        contents |= {name: archive.read(name).decode() for name in archive.namelist()}
    for name, content in contents.items():
        found = OF_A_MACHINE.search(content)
        assert str(ROOT) not in content and str(source.parent) not in content and not found, (name, found)


PROJECT = tomllib.loads(text("pyproject.toml"))["project"]


def test_the_install_lines_name_this_version_and_extras_that_exist():
    page = text("docs/install.md")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()]
    named = {extra for line in lines for extra in re.findall(r"(?:entropy.dynamics|whl|\.)\[(\w+)\]", line)}
    assert {"trl", "verl"} <= named <= set(PROJECT["optional-dependencies"])
    assert set(re.findall(r"entropy_dynamics-[\d.]+\d", page)) == {NAME} and set(re.findall(r"@v([\d.]+\d)", page)) == {
        VERSION
    }


def test_what_publishes_a_tag_checks_it_against_the_version():
    """The step's own command, with a right and a wrong tag."""
    jobs = yaml.safe_load(text(".github/workflows/release.yml"))["jobs"]
    (check,) = [step["run"] for step in jobs["build"]["steps"] if step.get("name") == "The tag is the version"]
    for tag, good in {f"v{VERSION}": True, "v9.9.9": False}.items():
        done = subprocess.run(["bash", "-ec", check], cwd=ROOT, env=os.environ | {"GITHUB_REF_NAME": tag})
        assert (done.returncode == 0) == good, tag
    assert jobs["publish"]["permissions"] == {"id-token": "write"} and jobs["publish"]["needs"] == "build"
