"""The README shows what the records say."""

import pytest

from companion.comparison import page
from companion.notebooks import readme
from companion.provenance import ROOT
from companion.runs.store import StoreError


@pytest.mark.parametrize("part", [page.results, page.three_answers])
def test_the_page_never_trains(tmp_path, part):
    with pytest.raises(StoreError, match=r"no record fair/grpo/seed-10.*run make retrain"):
        part(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["README.md", "docs/speed.md"])
def test_a_page_shows_its_generated_parts(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert readme.with_parts(text, readme.generated(ROOT)[name]) == text


def test_every_question_is_answered():
    answered = page.three_answers(ROOT / "data" / "runs").splitlines()
    assert len(answered) == 3 and all("Pass@32" in line and "after Holm" in line for line in answered)


def test_a_missing_marker_is_named():
    with pytest.raises(ValueError, match="<!-- results -->"):
        readme.with_parts("nothing here", {"results": "x"})
    text = "a <!-- x -->old<!-- end x --> b"
    assert readme.with_parts(text, {"x": "new"}) == "a <!-- x -->\nnew\n<!-- end x --> b"
