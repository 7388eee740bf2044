"""Names of records in words."""

import pytest
from pydantic import BaseModel

from companion.laboratory.policies import WarmStart
from companion.record import place, slug
from companion.runs.names import ABSENT, Catalogue, Runs, differences


def test_slugs_by_hand():
    assert slug("Clip_B, two-sided") == "clip-b-two-sided"
    assert slug("keep S, positive above") == "keep-s-positive-above"
    assert slug("Clip_V 8.5") == "clip-v-8.5" and slug("4 x 0.0003") == "4-x-0.0003"
    assert place("results", ("Clip_B", 3)) == "results/clip-b/seed-3" and place("probes", 0) == "probes/seed-0"


def test_differences_by_hand():
    ours = {"steps": 3, "start": {"seed": 1, "sizes": [3, 4]}, "new": 1}
    theirs = {"steps": 4, "start": {"seed": 1, "sizes": [3]}}
    assert differences(ours, theirs) == {"steps": (3, 4), "start.sizes": ([3, 4], [3]), "new": (1, ABSENT)}
    assert differences({"new": None}, {}) == {"new": (None, ABSENT)}
    assert differences(ours, ours) == {}


def test_the_first_comparison_names_a_run():
    a, b = WarmStart(seed=0), WarmStart(seed=1)
    catalogue = Catalogue(iter([Runs("first", {("A", 0): a}), Runs("second", {("B", 0): a, ("B", 1): b})]))
    assert list(catalogue.configs) == ["first/a/seed-0", "second/b/seed-1"]
    assert catalogue.name(a, "second", ("B", 0)) == "first/a/seed-0"
    assert catalogue.name(WarmStart(seed=1, steps=5), "second", ("B", 1)) == "second/b/seed-1-with-steps-5"
    assert catalogue.name(WarmStart(seed=7), "second", ("B", 7)) == "second/b/seed-7"
    assert catalogue.name(WarmStart(seed=7, steps=5), "second", ("B", 7)) == "second/b/seed-7-with-steps-5"
    assert catalogue.name(WarmStart(seed=7), "third", 7) == "third/seed-7"


def test_a_sign_is_part_of_a_name():
    class Settings(BaseModel):
        coefficient: float = 0.0

    catalogue = Catalogue(iter([Runs("c", {("A", 0): Settings()})]))
    names = [catalogue.name(Settings(coefficient=value), "c", ("A", 0)) for value in (0.5, -0.5)]
    assert names == ["c/a/seed-0-with-coefficient-0.5", "c/a/seed-0-with-coefficient-minus-0.5"]


def test_two_runs_of_one_name_are_refused():
    with pytest.raises(ValueError, match="c/clip-b/seed-0 would name two different runs"):
        Catalogue(iter([Runs("c", {("Clip_B", 0): WarmStart(seed=0), ("Clip B", 0): WarmStart(seed=1)})]))
