"""The README shows what the records say."""

import pytest

from companion.comparison import page
from companion.provenance import ROOT
from companion.runs.store import StoreError


@pytest.mark.parametrize("part", [page.results, page.three_answers, page.short_answers])
def test_the_page_never_trains(tmp_path, part):
    with pytest.raises(StoreError, match=r"no record fair/grpo/seed-10.*run make retrain"):
        part(tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_question_is_answered():
    answered = page.three_answers(ROOT / "data" / "runs").splitlines()
    assert len(answered) == 3 and all("Pass@32" in line and "after Holm" in line for line in answered)


def test_random_tokens_at_an_entropy_are_never_named_without_the_bonus_that_holds_it():
    for said in (page.three_answers(ROOT / "data" / "runs"), "; ".join(page.short_answers(ROOT / "data" / "runs"))):
        assert "random + bonus" in said and "random at" not in said and "random (" not in said
