"""The arrows between the rooms: as they are they pass, and a wrong one fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from companion.provenance import ROOT


def lint(root, tmp_path):
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--cache-dir", tmp_path / "cache"]
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("entropy_dynamics/lens.py", "", None),
        ("entropy_dynamics/lens.py", "from companion.puzzles import tasks", "Data flows one way"),
        ("companion/puzzles/tasks.py", "from companion.runs import names", "Data flows one way"),
        ("companion/reports/tables.py", "from companion.figures import style", "Data flows one way"),
        ("entropy_dynamics/theory.py", "from entropy_dynamics import lens", "There is no circle"),
    ],
)
def test_a_wrong_import_fails(tmp_path, file, line, broken):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "src" / file
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = lint(tmp_path, tmp_path)
    assert (done.returncode == 0) == (broken is None), done.stdout + done.stderr
    assert broken is None or any(broken in row and "BROKEN" in row for row in done.stdout.splitlines())


def test_every_room_says_what_it_is_for_and_is_small():
    rooms = [path for path in (ROOT / "src" / "companion").iterdir() if (path / "__init__.py").is_file()]
    assert len(rooms) == 15
    for room in rooms:
        assert len((room / "__init__.py").read_text(encoding="utf-8").split()) > 15
        assert len(list(room.glob("*.py"))) - 1 <= 8, room
