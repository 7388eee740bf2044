"""The runner against notebooks that go right and wrong in every way that papermill would overlook."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from companion.notebooks.claims import VERDICT_MIME, Claim
from companion.runner import checks, execute, receipts, reproduce, runner

PARAMETERS = 'output_dir: str = "../build/scratch"  # figures\nx: int = 1  # a number\npath: str = ""  # a file'
WRITE_FIGURE = """
import json, pathlib
folder = pathlib.Path(output_dir)
for suffix in ("png", "pdf", "csv"):
    (folder / f"dot.{suffix}").write_text(f"x is {x}")
(folder / "dot.json").write_text(json.dumps({"name": "dot", "title": "t", "alt": "a", "caption": "t a"}))
"""
CLAIM = Claim("demo", "A demonstration", "ours", "00_demo", "reproduce.main", "test_reproduce.py::test_x")


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def verdict(holds, claim="demo"):
    bundle = {VERDICT_MIME: {"claim": claim, "holds": holds, "line": "1 < 2"}, "text/plain": "verdict"}
    return f"from IPython.display import display\ndisplay({bundle!r}, raw=True)"


KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
GOOD = (code(WRITE_FIGURE, "figure:dot"), code(verdict(True)), code("x + 1"))


class Project:
    """A folder with notebooks, data and a build folder, and the command line on it."""

    def __init__(self, root):
        self.root, self.build = root, root / "build"
        for name in ("notebooks", "data"):
            (root / name).mkdir()

    def write(self, *cells, stem="00_demo"):
        cells = [new_markdown_cell("# A demonstration"), code(PARAMETERS, "parameters"), *cells]
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), self.root / "notebooks" / f"{stem}.ipynb")

    def arguments(self, *extra):
        folders = [(f"--{name}", str(self.root / name)) for name in ("notebooks", "build", "data")]
        return [word for pair in folders for word in pair] + list(extra)

    def run(self, *extra):
        return reproduce.main(self.arguments(*extra))

    def files(self):
        return {
            str(path.relative_to(self.build)): path.read_bytes()
            for path in self.build.rglob("*")
            if path.is_file() and path.parent != self.build and ".error." not in path.name
        }

    def receipt(self):
        return json.loads((self.build / "receipts" / "00_demo.json").read_text(encoding="utf-8"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    use_demonstration_claim(monkeypatch)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield Project(tmp_path)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
    """A project whose notebook has run well once; a fixture because a kernel takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        use_demonstration_claim(patch)
        project = Project(tmp_path_factory.mktemp("good"))
        project.write(*GOOD)
        assert project.run() == 0
        yield project


@pytest.fixture
def done(project, good_run):
    """A copy of the good run: receipts hold no absolute paths."""
    shutil.copytree(good_run.root, project.root, dirs_exist_ok=True)
    return project


def use_demonstration_claim(patch):
    patch.setattr(reproduce, "CLAIMS", {"demo": CLAIM})
    patch.setattr(checks, "CLAIMS", {"demo": CLAIM})


def is_alive(pid):
    """Whether the process runs; one that has ended but was not waited for does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_good_run_leaves_everything_in_place(done, capsys):
    assert sorted(done.files()) == [
        *(f"figures/dot.{suffix}" for suffix in ("csv", "json", "pdf", "png")),
        "notebooks/00_demo.ipynb",
        "receipts/00_demo.json",
    ]
    manifest = json.loads((done.build / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["notebooks"]["00_demo"]["status"] == "ok"
    assert manifest["notebooks"]["00_demo"]["config"]["x"] == "1"
    assert set(manifest["artifacts"]) == set(done.files()) - {"receipts/00_demo.json"}
    assert str(done.root) not in (done.build / "manifest.json").read_text(encoding="utf-8")
    (figure,) = json.loads((done.build / "figures.json").read_text(encoding="utf-8"))
    assert (figure["notebook"], figure["alt"]) == ("00_demo", "a")


def test_nothing_is_run_again_unless_something_changed(done, capsys):
    def status():
        before = (done.build / "receipts" / "00_demo.json").stat().st_mtime_ns
        assert done.run() == 0
        out = capsys.readouterr().out
        assert "1 of 1 claims hold" in out
        ran = (done.build / "receipts" / "00_demo.json").stat().st_mtime_ns != before
        assert ran == ("unchanged" not in out)
        return "ran" if ran else "unchanged"

    assert status() == "unchanged"
    assert done.run("--force") == 0
    (done.root / "data" / "new.txt").write_text("1")
    assert status() == "ran"
    assert status() == "unchanged"
    done.write(*GOOD[:2], code("x + 2"))
    assert status() == "ran"
    (done.build / "figures" / "dot.csv").write_text("tampered")
    assert status() == "ran"
    assert done.run("-p", "x", "5") == 0
    assert (done.build / "figures" / "dot.csv").read_text(encoding="utf-8") == "x is 5"
    assert done.receipt()["config"]["x"] == "5"


FAILURES = {
    "raises": (code("raise RuntimeError('no luck')"), "cell 2 (raise RuntimeError('no luck')): RuntimeError: no luck"),
    "kernel dies": (code("import os\nos._exit(1)"), "cell 2 (import os): DeadKernelError"),
    "missing artifact": (code("print(1)", "artifact:table.csv"), "cell 2 (print(1)): did not write table.csv"),
    "claim fails": (code(verdict(False)), "claim demo fails: 1 < 2"),
    "exits early": (code("import sys\nsys.exit()"), "cell 2 (import sys): SystemExit"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_and_leaves_earlier_results_untouched(done, capsys, name):
    cell, message = FAILURES[name]
    before = done.files()
    done.write(cell, *(GOOD[:1] if name == "claim fails" else GOOD))
    assert done.run() == 1
    out = capsys.readouterr().out
    assert f"FAILED 00_demo, {message}" in out or (message.startswith("claim") and message in out), out
    assert done.files() == before
    assert (done.build / "notebooks" / "00_demo.error.ipynb").is_file()
    assert (
        json.loads((done.build / "manifest.json").read_text(encoding="utf-8"))["notebooks"]["00_demo"]["status"]
        == "failed"
    )
    done.write(*GOOD)
    assert done.run() == 0
    assert not (done.build / "notebooks" / "00_demo.error.ipynb").exists()


def test_the_time_limit_is_one_for_the_whole_notebook_and_ends_the_kernel(done, capsys):
    before = done.files()
    pid_file = done.root / "pid"
    # No single cell is long; papermill's own limit, which is per cell, would not stop this.
    naps = [code("time.sleep(3)") for _ in range(20)]
    done.write(code(f"import os, time, pathlib\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))"), *naps)
    start = time.monotonic()
    assert done.run("--timeout", "8") == 1
    assert time.monotonic() - start < 20
    out = capsys.readouterr().out
    assert "(time.sleep(3)): exceeded the time limit of 8 s" in out
    assert done.files() == before
    assert (done.build / "notebooks" / "00_demo.error.ipynb").is_file()
    assert not is_alive(int(pid_file.read_text(encoding="utf-8")))


# A process of its own session whose parent has ended, as the workers of a killed torchrun are.
ORPHAN = """
import os, pathlib, subprocess
orphan = subprocess.check_output(["sh", "-c", "setsid sleep 100 > /dev/null & echo $!"], text=True).strip()
"""


@pytest.mark.parametrize("end", ["os._exit(1)", "print('done')"])
def test_nothing_that_a_notebook_started_survives_its_end(project, end):
    pid_file = project.root / "pid"
    project.write(code(f"{ORPHAN}pathlib.Path({str(pid_file)!r}).write_text(orphan)\n{end}"))
    project.run()
    assert not is_alive(int(pid_file.read_text(encoding="utf-8")))


def test_the_most_memory_is_told_with_that_of_children(project, capsys):
    hog = "import time; x = b'x' * 400_000_000; time.sleep(1)"
    project.write(code(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {hog!r}])"), code(verdict(True)))
    assert project.run() == 0
    assert 0.4e9 < project.receipt()["peak"] < 0.8e9
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "at the peak" in line]
    assert f"{project.receipt()['peak'] / 1e9:.2f} GB" in line


def test_the_kernel_is_that_of_this_python(project, monkeypatch):
    spec = project.root / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text('{"argv": ["false"], "display_name": "another", "language": "python"}', encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(project.root))
    project.write(code(verdict(True)))
    assert project.run() == 0


def test_a_user_without_a_home_has_one_during_the_run(project, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(execute.Path, "home", nobody)
    there = f"import os; assert os.environ['HOME'].startswith({str(project.build.resolve())!r})\n"
    project.write(code(there + verdict(True)))
    assert project.run() == 0


def test_a_disk_that_takes_no_more_fails_one_notebook_and_says_why(project):
    project.write(code("print('x' * 40_000)"), stem="01_large")
    project.write(code("print('x')"), stem="02_small")
    command = [sys.executable, "-m", "companion.runner.reproduce", *project.arguments("--only", "01", "02")]
    limited = ["bash", "-c", 'ulimit -f 32; exec "$@"', "bash", *command]  # no file above 32 kB
    run = subprocess.run(limited, capture_output=True, encoding="utf-8")
    assert "Traceback" not in run.stderr and run.returncode == 1
    assert re.search("FAILED 01_large.*OSError: .*File too large", run.stdout), run.stdout
    assert re.search("02_small +ok", run.stdout)
    assert json.loads((project.build / "manifest.json").read_text(encoding="utf-8"))["notebooks"]["02_small"]


def test_any_exception_fails_its_notebook_alone(project, capsys, monkeypatch):
    def run_notebook(path, *_):
        if path.stem == "00_demo":
            raise RuntimeError("no luck")
        return asyncio.sleep(0, receipts.Result(path.stem, "failed", problem="as it should"))

    monkeypatch.setattr(runner, "run_notebook", run_notebook)
    for stem in ("00_demo", "01_demo"):
        project.write(stem=stem)
    assert project.run() == 1
    out = capsys.readouterr().out
    assert "FAILED 00_demo: RuntimeError: no luck" in out and "FAILED as it should" in out


def test_a_notebook_of_the_readers_own_is_left_out_with_a_line(done, capsys):
    done.write(code("1 / 0"), stem="Untitled")
    assert done.run() == 0
    out = capsys.readouterr().out
    assert "left out: Untitled.ipynb" in out and "1 notebooks, 0 failed" in out


@pytest.mark.parametrize("build", ["file", "file/build"])
def test_a_build_folder_that_cannot_be_written_is_named_in_full(project, capsys, build):
    project.write(*GOOD)
    (project.root / "file").touch()
    with pytest.raises(SystemExit) as stop:
        project.run("--build", str(project.root / build))
    assert stop.value.code == 2
    assert f"--build: cannot write to {project.root / build} (" in capsys.readouterr().err


def test_a_manifest_that_cannot_be_written_does_not_hide_the_results(project, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(receipts, "write_manifest", full)
    (project.root / "notebooks" / "00_demo.ipynb").touch()
    assert project.run() == 1
    out = capsys.readouterr().out
    assert "FAILED 00_demo: is not a readable notebook" in out and "FAILED no manifest could be written: " in out


def test_a_screen_that_lacks_a_character_does_not_end_the_run(project):
    (project.root / "notebooks" / "00_demo.ipynb").touch()
    command = [sys.executable, "-m", "companion.runner.reproduce", *project.arguments()]
    run = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True)
    assert run.returncode == 1 and b"UnicodeEncodeError" not in run.stderr
    assert b"? " in run.stdout and b"FAILED 00_demo: is not a readable notebook" in run.stdout


def test_a_claim_without_a_verdict_is_a_failure(project, capsys):
    project.write(GOOD[0])
    assert project.run() == 1
    out = capsys.readouterr().out
    assert "FAILED 00_demo: reached no verdict on claim demo" in out and "not reached" in out
    assert "0 of 1 claims hold" in out


def test_unknown_parameters_and_unusable_notebooks_are_refused_before_they_run(done, capsys):
    before = done.files()
    assert done.run("-p", "y", "3") == 1
    assert "cell 1 (output_dir: str" in (out := capsys.readouterr().out)
    assert "unknown parameter 'y'; this notebook knows output_dir, x, path" in out
    path = done.root / "notebooks" / "00_demo.ipynb"
    path.write_text("{}")
    assert done.run() == 1
    assert "00_demo: is not a readable notebook" in capsys.readouterr().out
    nbformat.write(new_notebook(cells=[code("1 + 1")]), path)
    assert done.run() == 1
    assert "names the kernel None, expected 'python3'" in capsys.readouterr().out
    nbformat.write(new_notebook(cells=[code("1 + 1")], metadata=KERNEL), path)
    assert done.run() == 1
    assert "has 0 cells tagged 'parameters'" in capsys.readouterr().out
    assert done.files() == before


def test_bad_usage_exits_with_2(project, capsys):
    for arguments, message in [
        ([], "no notebooks in"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--timeout", "nan"], "--timeout nan"),
        (["--refresh", "-p", "x", "1"], "leave out -p"),
    ]:
        with pytest.raises(SystemExit) as stop:
            project.run(*arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    project.write(*GOOD)
    with pytest.raises(SystemExit):
        project.run("--only", "07")
    assert "no notebook is called 07; there are 00_demo" in capsys.readouterr().err
    for arguments, message in [
        (["-p", "output_dir", "/x"], "choose the folder with --build"),
        (["-p", "x", "[1, 2"], "not YAML"),
    ]:
        with pytest.raises(SystemExit):
            project.run(*arguments)
        assert message in capsys.readouterr().err
    project.write(code("1", "figure:dot"), stem="01_demo")
    with pytest.raises(SystemExit):
        project.run()
    assert "00_demo and 01_demo both declare dot.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["notebooks", "data"])
def test_a_folder_that_does_not_exist_is_named_in_full(project, capsys, monkeypatch, name):
    monkeypatch.chdir(project.root)
    with pytest.raises(SystemExit) as stop:
        project.run(f"--{name}", "nowhere")
    assert stop.value.code == 2
    assert f"--{name}: there is no folder {project.root / 'nowhere'}" in capsys.readouterr().err


def test_two_runs_do_not_share_a_build_folder(done, capsys):
    with FileLock(done.build / ".lock"), pytest.raises(SystemExit):
        done.run("--force")
    assert "another run is at work" in capsys.readouterr().err


def test_check_notices_a_flipped_byte_and_a_missing_file(done, capsys):
    assert done.run("--check") == 0
    figure = done.build / "figures" / "dot.png"
    figure.write_bytes(b"y" + figure.read_bytes()[1:])
    (done.build / "figures" / "dot.pdf").unlink()
    assert done.run("--check") == 1
    out = capsys.readouterr().out
    assert "differs from the manifest: figures/dot.png" in out and "figures/dot.pdf" in out


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "no readable manifest"),
        ("{", "no readable manifest"),
        ('{"artifacts": {}, "notebooks": {}}', "lists no artifacts"),
        ('{"artifacts": {}, "notebooks": {"00_demo": {"status": "failed"}}}', "failed: 00_demo"),
    ],
)
def test_check_is_not_content_with_nothing(project, capsys, manifest, message):
    project.build.mkdir()
    if manifest:
        (project.build / "manifest.json").write_text(manifest)
    assert project.run("--check") == 1
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", '{"key":', "[]", "null", '{"key": 1}'])
def test_a_damaged_receipt_is_as_good_as_none(done, text):
    (done.build / "receipts" / "00_demo.json").write_text(text)
    settings = receipts.Settings(done.root / "notebooks", done.build, done.root / "data", {}, 60, False)
    assert receipts.read_receipt("00_demo", settings) is None
    receipts.write_manifest([], settings)
    assert json.loads((done.build / "manifest.json").read_text(encoding="utf-8"))["artifacts"] == {}


def test_the_key_of_a_run_covers_everything_that_it_depends_on(done, monkeypatch, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "file.txt"
    outside.write_text("1")
    package = tmp_path_factory.mktemp("package")
    (package / "a.py").write_text("x = 1")
    monkeypatch.setattr(receipts, "PACKAGES", package)
    monkeypatch.setattr(receipts, "library_versions", lambda: versions)
    versions = {"torch": "1"}
    (done.root / "data" / "a.txt").write_text("1")
    notebook = nbformat.read(done.root / "notebooks" / "00_demo.ipynb", 4)

    def key():
        parameters = {"path": str(outside)}
        settings = receipts.Settings(done.root / "notebooks", done.build, done.root / "data", parameters, 60, False)
        return receipts.run_key(notebook, settings)

    keys = [key()]
    for change in (
        lambda: (package / "a.py").write_text("x = 2"),
        lambda: (package / "claims.csv").write_text("1"),
        lambda: (done.root / "data" / "a.txt").rename(done.root / "data" / "b.txt"),
        lambda: outside.write_text("2"),
        lambda: versions.update(torch="2"),
        lambda: notebook.cells[0].update(attachments={"a.png": {}}),
        lambda: notebook.cells[1].update(source="x: int = 3"),
    ):
        change()
        keys.append(key())
    assert len(set(keys)) == len(keys)
    notebook.cells[-1].outputs = []
    assert key() == keys[-1]


def test_a_notebook_that_is_gone_leaves_nothing_behind(done, capsys):
    (done.root / "notebooks" / "00_demo.ipynb").rename(done.root / "notebooks" / "01_demo.ipynb")
    assert done.run() == 1  # its claim belongs to 00_demo
    assert "another notebook's claim: demo" in (out := capsys.readouterr().out) and "0 of 1 claims hold" in out
    assert not done.files()
    assert list(json.loads((done.build / "manifest.json").read_text(encoding="utf-8"))["notebooks"]) == ["01_demo"]


def executed(*cells):
    for number, cell in enumerate(cells, 1):
        cell.execution_count = number
    return new_notebook(cells=list(cells))


def shows(holds, claim="demo"):
    output = nbformat.v4.new_output("display_data", {VERDICT_MIME: {"claim": claim, "holds": holds, "line": "1 < 2"}})
    return new_code_cell("assert_claim(...)", outputs=[output])


def test_what_papermill_lets_through_is_a_problem(project, tmp_path):
    def problem(notebook):
        with pytest.raises(checks.NotebookProblem) as found:
            checks.check_run(notebook, "00_demo", tmp_path, ended_by=None)
        return str(found.value)

    checks.check_run(executed(shows(True)), "00_demo", tmp_path, ended_by=None)
    not_executed = executed(shows(True), code("x"))
    not_executed.cells[1].execution_count = None
    assert "cell 1 (x): was not executed" in problem(not_executed)
    assert "claim demo fails" in problem(executed(shows(False), shows(True)))
    assert "second verdict" in problem(executed(shows(True), shows(True)))
    assert "another notebook's claim: other" in problem(executed(shows(True), shows(True, "other")))
    (tmp_path / "table.csv").touch()
    assert "did not write table.csv" in problem(executed(shows(True), code("x", "artifact:table.csv")))
    (tmp_path / "table.json").write_text("{")
    assert "unreadable table.json" in problem(executed(shows(True), code("x", "artifact:table.json")))


def test_a_notebook_cut_off_in_the_middle_of_a_write_is_a_problem(tmp_path):
    (tmp_path / "00_demo.ipynb").write_text('{"cells": [')
    with pytest.raises(checks.NotebookProblem, match="00_demo: left no readable notebook"):
        checks.read_executed(tmp_path / "00_demo.ipynb")
    with pytest.raises(checks.NotebookProblem, match="00_demo: exceeded"):
        checks.read_executed(tmp_path / "00_demo.ipynb", ended_by="exceeded")


def test_refresh_never_overwrites_what_was_edited_meanwhile(done, capsys, monkeypatch):
    path = done.root / "notebooks" / "00_demo.ipynb"
    run_all = reproduce.run_all

    def edit_after(*arguments):
        results = run_all(*arguments)
        done.write(*GOOD, code("# an afterthought"))
        return results

    monkeypatch.setattr(reproduce, "run_all", edit_after)
    assert done.run("--refresh") == 1
    assert "was edited while it ran" in capsys.readouterr().out
    assert "an afterthought" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "folder"), [("README.md", "notebooks/figures"), ("docs/page.md", "../notebooks/figures")]
)
def test_refresh_wants_the_pictures_of_the_pages(done, capsys, page, folder):
    (done.root / "docs").mkdir()
    (done.root / page).write_text(f"![dot]({folder}/spot.png)")
    before = (done.root / "notebooks" / "00_demo.ipynb").read_bytes()
    assert done.run("--refresh") == 1
    assert "shows spot.png, which no notebook has made" in capsys.readouterr().out
    assert (done.root / "notebooks" / "00_demo.ipynb").read_bytes() == before


def test_refresh_of_one_notebook_keeps_the_pictures_of_the_others(done, capsys):
    (done.root / "README.md").write_text("![dot](notebooks/figures/dot.png) ![spot](notebooks/figures/spot.png)")
    pictures = done.root / "notebooks" / "figures"
    assert done.run("--refresh", "--only", "00") == 1
    assert "shows spot.png, which no notebook has made" in capsys.readouterr().out
    pictures.mkdir()
    (pictures / "spot.png").write_text("of another notebook")
    assert done.run("--refresh") == 1
    assert done.run("--refresh", "--only", "00") == 0
    assert (pictures / "dot.png").read_text() == "x is 1" and (
        pictures / "spot.png"
    ).read_text() == "of another notebook"


def test_refresh_commits_outputs_without_traces_of_the_run(done):
    (done.root / "README.md").write_text("![dot](notebooks/figures/dot.png)")
    assert done.run("--refresh") == 0
    notebook = nbformat.read(done.root / "notebooks" / "00_demo.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert [cell.metadata for cell in cells] == [{"tags": ["parameters"]}, {"tags": ["figure:dot"]}, {}, {}]
    assert cells[-1].outputs[0].execution_count == 4 and cells[-1].outputs[0].data["text/plain"] == "2"
    assert "papermill" not in notebook.metadata
    assert (done.root / "notebooks" / "figures" / "dot.png").read_text(encoding="utf-8") == "x is 1"
    assert done.run() == 0 and done.receipt()["key"]  # refreshed outputs change nothing
    assert (
        json.loads((done.build / "manifest.json").read_text(encoding="utf-8"))["notebooks"]["00_demo"]["status"]
        == "unchanged"
    )


def test_results_do_not_depend_on_the_number_of_jobs(project):
    count = "import os\nfrom pathlib import Path\nthreads = os.environ['OMP_NUM_THREADS']\n"
    write = count + "(Path(output_dir) / f'{name}.csv').write_text(threads)"
    for stem in ("01_demo", "02_demo"):
        project.write(code(f"name = {stem!r}\n{write}", f"artifact:{stem}.csv"), stem=stem)
    project.run("--jobs", "2")  # no claim is decided here
    parallel = {name: data for name, data in project.files().items() if name.startswith("figures")}
    project.run("--jobs", "1", "--force")
    assert parallel == {name: data for name, data in project.files().items() if name.startswith("figures")}
    assert parallel == {f"figures/{stem}.csv": b"1" for stem in ("01_demo", "02_demo")}


def test_artifacts_that_are_no_longer_made_are_removed(done):
    done.write(code(verdict(True)))
    assert done.run() == 0
    assert not list((done.build / "figures").iterdir())


def start(project, source):
    """Start the runner on a notebook that is never done; returns it and, once there, the pids that `source` leaves."""
    pid_file = project.root / "pids"
    project.write(code(f"import os, pathlib\npids = pathlib.Path({str(pid_file)!r})\n{source}"))
    command = [sys.executable, "-m", "companion.runner.reproduce", *project.arguments()]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (pid_file.is_file() and pid_file.read_text(encoding="utf-8")) and time.monotonic() < deadline:
        time.sleep(0.2)
    return run, [int(pid) for pid in pid_file.read_text(encoding="utf-8").split()]


def test_termination_ends_the_kernel_and_keeps_earlier_results(done):
    before = done.files()
    run, (kernel,) = start(done, "import time\npids.write_text(str(os.getpid()))\ntime.sleep(100)")
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(30) == 143
    assert not is_alive(kernel)
    assert done.files() == before


def test_nothing_survives_a_runner_that_is_killed_and_the_next_run_is_good(done):
    # The regular expression takes ages and never lets go of the interpreter: the kernel cannot end itself.
    source = f"""
import re
{ORPHAN}
sleeper = subprocess.Popen(["sleep", "100"])
pids.write_text(f"{{os.getpid()}} {{sleeper.pid}} {{orphan}}")
re.match("(a|a)*b", "a" * 60)
"""
    before = done.files()
    run, pids = start(done, source)
    started = [process.pid for process in psutil.Process(run.pid).children(recursive=True)]
    assert set(pids) < set(started)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 20
    while any(map(is_alive, started)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(is_alive, started))
    left = list((done.build / "staging").iterdir())
    assert len(left) == 1 and {name for name in done.files() if not name.startswith("staging")} == set(before)
    done.write(*GOOD)
    assert done.run("--force") == 0
    assert not list((done.build / "staging").iterdir())


def test_a_run_stages_in_a_folder_that_no_other_run_has(project):
    folders = []
    for _ in range(2):
        project.write(code("print(output_dir)"), code(verdict(True)))
        assert project.run("--force") == 0
        notebook = nbformat.read(project.build / "notebooks" / "00_demo.ipynb", 4)
        folders.append(next(o.text for c in notebook.cells for o in c.get("outputs", []) if "text" in o))
    assert folders[0] != folders[1] and all("/staging/" in folder for folder in folders)


@pytest.mark.skipif(not sys.executable.isascii(), reason="Python cannot start from such a folder under such a locale")
def test_text_is_utf_8_whatever_the_locale(project):
    figure = WRITE_FIGURE.replace('"title": "t"', '"title": "Ĥ"').replace(
        "json.dumps(", "json.dumps(ensure_ascii=False, obj="
    )
    project.write(code(figure, "figure:dot"), code("print('∂H/∂z')"))
    (project.root / "README.md").write_text("Ĥ ![dot](notebooks/figures/dot.png)", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "companion.runner.reproduce", *project.arguments("--refresh", "--only", "00")]
    run = subprocess.run(command, env={**os.environ, **plain}, capture_output=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "∂H/∂z" in (project.root / "notebooks" / "00_demo.ipynb").read_text(encoding="utf-8")
    assert project.receipt()["figures"][0]["title"] == "Ĥ"
