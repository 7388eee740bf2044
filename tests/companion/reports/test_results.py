"""The checks of the main comparison pass what they should and fail what they should; the README shows their table."""

import pandas as pd
import pytest

from companion.notebooks import readme
from companion.provenance import ROOT
from companion.reports import results
from companion.runs.store import StoreError


def table(**changed):
    """Three seeds of four arms; GRPO learns and collapses, Clip_B keeps diversity."""
    typical = {
        "start": {"avg": 0.2, "pass": 0.9, "entropy": 0.6},
        "GRPO": {"avg": 0.45, "pass": 0.7, "entropy": 0.2},
        "Clip_B": {"avg": 0.44, "pass": 0.8, "entropy": 0.3},
        "random mask": {"avg": 0.45, "pass": 0.7, "entropy": 0.2},
    }
    rows = [
        {"arm": arm, "seed": seed, "size": size}
        | {name: x + 0.01 * seed * (arm != "GRPO") for name, x in values.items()}
        for arm, values in (typical | changed).items()
        for seed in range(3)
        for size in (3, 4)
    ]
    return pd.DataFrame(rows)


def test_the_checks_hold_for_what_they_describe():
    assert results.grpo_collapses(table())[0]
    holds, line = results.keeps_diversity(table(), "Clip_B")
    assert holds and "Pass@32 +0.110" in line and "entropy +0.110" in line
    assert results.beats_random_mask(table(), "Clip_B")[0]


@pytest.mark.parametrize("change", [{"avg": 0.39}, {"entropy": 0.27}, {"pass": 0.95}])
def test_no_collapse_no_comparison(change):
    grpo = {"avg": 0.45, "pass": 0.7, "entropy": 0.2} | change
    assert not results.grpo_collapses(table(GRPO=grpo))[0]


@pytest.mark.parametrize("change", [{"pass": 0.7}, {"entropy": 0.2}, {"pass": 0.69}])
def test_no_gain_no_claim(change):
    clip = {"avg": 0.44, "pass": 0.8, "entropy": 0.3} | change
    assert not results.keeps_diversity(table(Clip_B=clip), "Clip_B")[0]
    assert not results.beats_random_mask(table(**{"random mask": clip}, Clip_B=clip), "Clip_B")[0]


def test_the_main_table_by_hand():
    shown = results.main_table(table())
    # three seeds 0.44, 0.45, 0.46: half width 4.3027 * 0.01 / sqrt(3)
    assert shown.loc["Clip_B", "Avg@32, 3 numbers"] == "0.450 ± 0.025"
    assert shown.loc["Clip_B", "entropy, 3 numbers"] == "0.310"


def test_improvements_are_paired_by_seed():
    row = results.improvements(table(), "pass", 3).loc["Clip_B"]
    assert row["mean"] == pytest.approx(0.11) and row["better"] == row["improvement"] == 1
    assert results.improvements(table(), "pass", 3).loc["random mask", "improvement"] == pytest.approx(5 / 6)


def test_the_table_of_the_readme_never_trains(tmp_path):
    with pytest.raises(StoreError, match=r"no record results/start/seed-0.*run make retrain"):
        results.markdown(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("page", ["README.md", "docs/speed.md"])
def test_a_page_shows_its_generated_parts(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert readme.with_parts(text, readme.generated(ROOT)[page]) == text


def test_a_missing_marker_is_named():
    with pytest.raises(ValueError, match="<!-- results -->"):
        readme.with_parts("nothing here", {"results": "x"})
    text = "a <!-- x -->old<!-- end x --> b"
    assert readme.with_parts(text, {"x": "new"}) == "a <!-- x -->\nnew\n<!-- end x --> b"


def test_the_readme_says_how_much_entropy_is_left_as_its_table_has_it():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = text.partition("<!-- results -->")[2].partition("<!-- end results -->")[0].splitlines()[3:]
    entropies = {cells[1].strip(): float(cells[4]) for cells in (row.split("|") for row in rows)}
    left = {arm: entropies[arm] / entropies["start"] for arm in entropies}
    assert "about half of the start's entropy is left, with GRPO and the random mask about a quarter" in text
    assert all(0.45 < left[arm] < 0.55 for arm in ("Clip_B", "Clip_V"))
    assert all(0.2 < left[arm] < 0.3 for arm in ("GRPO", "random mask"))
