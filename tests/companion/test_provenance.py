"""A result names the commit of this project, or says that there is none."""

import subprocess

from companion import provenance


def test_the_commit_is_not_that_of_a_repository_around_the_project(tmp_path, monkeypatch):
    inner = tmp_path / "unpacked"
    inner.mkdir()
    identity = ("-c", "user.name=a", "-c", "user.email=a")
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "other things"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)

    def seen_from(root):
        monkeypatch.setattr(provenance, "ROOT", root)
        found = provenance.provenance.__wrapped__()
        return found["commit"], found["uncommitted_changes"]

    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, encoding="utf-8").strip()
    assert seen_from(tmp_path) == (commit, False)
    assert seen_from(inner) == ("none: git knows no repository at the project's root", None)
    (tmp_path / "new.txt").touch()
    assert seen_from(tmp_path) == (commit, True)
