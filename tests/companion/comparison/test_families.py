"""Families of tests on made-up endpoints, and data that fail each check."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from companion.comparison.families import alike, beats, family, holm, in_short, sentence, verdict


def table(gain=0.06, average=0.0, noise=0.01, seeds=10, size=3):
    """GRPO and an arm that differs from it by so much, with the same noise whatever the seed of the test."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        level, one, other = rng.normal(0, 0.05), *rng.normal(0, noise, 2)
        rows.append({"arm": "GRPO", "seed": seed, "size": size, "avg": 0.5 + level, "pass": 0.8 - level})
        rows.append(
            {
                "arm": "X",
                "seed": seed,
                "size": size,
                "avg": 0.5 + level + average + one,
                "pass": 0.8 - level + gain + other,
            }
        )
    return pd.DataFrame(rows)


def compared(**changes):
    return family(table(**changes), [("X", "GRPO")], sizes=[3])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([0.03]).tolist() == [0.03]


def test_a_family_is_paired_by_seed_and_corrected_as_a_whole():
    data = pd.concat([table(), table(gain=0.0, size=4)])
    found = family(data, [("X", "GRPO")], sizes=[3, 4])
    assert list(found["column"]) == ["avg", "pass"] * 2 and set(found["seeds"]) == {10}
    for _, row in found.iterrows():
        some = data[data["size"] == row["size"]].pivot(index="seed", columns="arm", values=row["column"])
        assert row["p"] == pytest.approx(stats.ttest_rel(some["X"], some["GRPO"]).pvalue)
        assert row["mean"] == pytest.approx((some["X"] - some["GRPO"]).mean())
        assert (row["low"] > 0) == (row["p"] < 0.05 and row["mean"] > 0)
    assert found["holm"].tolist() == holm(found["p"]).tolist()
    some = data[~((data["arm"] == "X") & (data["seed"] > 4))]  # five seeds against ten
    assert set(family(some, [("X", "GRPO")], sizes=[3])["seeds"]) == {5}
    with pytest.raises(ValueError, match="1 seeds in common"):
        family(data[data["seed"] == 0], [("X", "GRPO")], sizes=[3])


def test_an_arm_beats_another_only_with_a_clear_pass_and_no_lower_average():
    assert verdict(compared(), "X", "GRPO", 3) == "beats"
    assert sentence(compared(), "X", "GRPO", 3).startswith("with 3 numbers (10 seeds) X beats GRPO: Pass@32 +0.0")
    row = compared().set_index("column").loc["pass"]
    short = f"X beats GRPO ({row['mean']:+.3f}, {row['low']:+.3f} to {row['high']:+.3f})"
    assert in_short(compared(), "X", "GRPO", {3: ""}) == short
    assert in_short(compared(gain=-0.06), "X", "GRPO", {3: ""}).startswith("X loses to GRPO (-0.0")
    for change, answer, words in (
        ({"gain": 0.0}, "alike", "alike within the margins"),
        ({"gain": -0.02}, "loses", "lower Pass@32 than GRPO"),  # clear, although within the margin
        ({"gain": 0.03, "noise": 0.08}, "undecided", "undecided between X and GRPO: a difference in Pass@32 below -0."),
        ({"gain": -0.06}, "loses", "lower Pass@32 than GRPO"),
        ({"average": -0.04}, "trades", "its average may be lower by more than the margin"),
        ({"noise": 0.03, "gain": 0.12, "average": -0.01}, "trades", "may be lower"),  # the average is not resolved
    ):
        found = compared(**change)
        assert not beats(found, "X", "GRPO", 3) and verdict(found, "X", "GRPO", 3) == answer, change
        assert words in sentence(found, "X", "GRPO", 3), sentence(found, "X", "GRPO", 3)


def test_a_difference_that_only_holm_makes_unclear_says_so():
    rows = compared().assign(holm=0.051)
    row = rows.set_index("column").loc["pass"]
    assert row["low"] > 0 and verdict(rows, "X", "GRPO", 3) == "undecided"
    assert in_short(rows, "X", "GRPO", {3: ""}).endswith(f"{row['high']:+.3f}, p 0.051 after Holm)")


def test_a_clearly_lower_average_is_said_beside_the_verdict():
    row = compared(average=-0.04).set_index("column").loc["avg"]
    assert in_short(compared(average=-0.04), "X", "GRPO", {3: ""}).endswith(f"; Avg@32 {row['mean']:+.3f})")
    assert "Avg@32" not in in_short(compared(), "X", "GRPO", {3: ""})


def test_kinds_of_problems_and_a_common_target_are_said_once():
    unlike = family(pd.concat([table(), table(gain=-0.06, size=4)]), [("X", "GRPO")], sizes=[3, 4])
    said = in_short(unlike, "X", "GRPO", {3: "", 4: "harder"})
    assert said.startswith("X beats GRPO (+0.0") and " and loses to it (harder -0.0" in said and said.count("X") == 1
    alike = family(pd.concat([table(), table(size=4)]), [("X", "GRPO")], sizes=[3, 4])
    said = in_short(alike, "X", "GRPO", {3: "", 4: "harder"})
    assert said.startswith("X beats GRPO (+0.0") and "; harder +0.0" in said and said.count("beats") == 1
    held = table().replace({"X": "D at 0.3", "GRPO": "p at 0.3"})
    said = in_short(family(held, [("D at 0.3", "p at 0.3")], sizes=[3]), "D at 0.3", "p at 0.3", {3: ""})
    assert said.startswith("D at 0.3 beats p (+0.0")


def test_more_seeds_make_it_harder_to_be_alike_by_chance_and_easier_when_it_is_so():
    assert alike(compared(gain=0.0, noise=0.02, seeds=40), "X", "GRPO", 3)
    assert not alike(compared(gain=0.0, noise=0.02, seeds=3), "X", "GRPO", 3)
    assert not alike(compared(gain=0.035, seeds=40), "X", "GRPO", 3)


def test_a_clear_gain_in_a_large_family_needs_more_than_one_alone():
    assert family(table(), [("X", "GRPO")], sizes=[3], left_out=6)["holm"].min() == pytest.approx(
        8 * family(table(), [("X", "GRPO")], sizes=[3])["p"].min()
    )
    weak = table(gain=0.012, noise=0.01)
    alone = family(weak, [("X", "GRPO")], sizes=[3], columns=["pass"])
    assert alone["p"].item() < 0.05 and alone["holm"].item() < 0.05
    others = [
        weak.assign(arm=weak["arm"].map({"X": f"Y{i}", "GRPO": f"G{i}"}), **{"pass": 0.5 + 0.01 * (weak["seed"] % 3)})
        for i in range(9)
    ]
    pairs = [("X", "GRPO"), *((f"Y{i}", f"G{i}") for i in range(9))]
    large = family(pd.concat([weak, *others]), pairs, sizes=[3], columns=["pass"])
    assert large["holm"].iloc[0] == pytest.approx(10 * alone["p"].item()) and set(large["p"].iloc[1:]) == {1.0}
