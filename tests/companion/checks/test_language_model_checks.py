"""Checks on SmolLM2's runs: exact p-values by hand, data that pass and data that fail."""

import pandas as pd
import pytest

from companion.checks import language_model_checks as checks


def test_the_exact_test_by_hand():
    assert checks.sign_flip([1, 1, 1]) == 2 / 8
    assert checks.sign_flip([1, -1]) == 1
    assert checks.sign_flip([3, 1]) == 2 / 4  # +4 and -4 of +4, +2, -2, -4
    assert checks.sign_flip([0.1] * 6) == 2 / 64


def results(**changed):
    """Six pairs of task and seed; both methods end a little above their controls."""
    rows = [
        {"task": task, "seed": seed, "arm": arm, "entropy": 1.0 + changed.get(arm, more) + 0.1 * seed}
        for task in ("addition", "chain_sum")
        for seed in (0, 1, 2)
        for arm, more in (
            ("GRPO", 0),
            ("Clip_B", 0.2),
            ("random mask", 0),
            ("Clip_V", 0.4),
            ("random mask like Clip_V", 0),
        )
    ]
    return pd.DataFrame(rows)


def test_the_planned_test_over_both_tasks():
    holds, line = checks.keep_more_than_random(results())
    assert holds and "mean +0.30, exact p 0.031" in line and "Clip_B +0.20, +0.20" in line
    assert not checks.keep_more_than_random(results(**{"random mask like Clip_V": 0.9}))[0]
    one = results()
    one.loc[(one["task"] == "addition") & (one["seed"] == 0) & (one["arm"] == "Clip_B"), "entropy"] -= 1
    assert not checks.keep_more_than_random(one)[0]


def test_which_method_the_difference_comes_from():
    undecided = results()
    undecided.loc[(undecided["seed"] == 0) & (undecided["arm"] == "Clip_B"), "entropy"] -= 0.5
    holds, line = checks.most_is_clip_v_s(undecided)
    assert holds and "Clip_B above its random mask in 4 of 6 pairs, by 0.03 nats" in line
    assert "Clip_V above its random mask in 6 of 6 pairs, by 0.40 nats; Clip_B alone exact p 0.812" in line
    assert not checks.most_is_clip_v_s(results())[0]  # Clip_B alone is decided, too
    for arm, change in (("Clip_V", -0.5), ("Clip_B", 0.3)):  # not in every pair; not by more
        other = undecided.copy()
        other.loc[(other["seed"] == 1) & (other["arm"] == arm), "entropy"] += change
        assert not checks.most_is_clip_v_s(other)[0]


def test_no_gain_in_what_is_solved():
    noise = [0.02, -0.01, 0.0]

    def solved(**more):
        table = results()
        base = [0.5 - 0.04 * (arm != "GRPO") + more.get(arm, 0) for arm in table["arm"]]
        return table.assign(avg=base + table["seed"].map(noise.__getitem__) * (table["arm"] != "GRPO"), **{"pass": 0.8})

    holds, line = checks.no_gain_shows(checks.solved_table(solved()))
    assert holds and "Clip_V avg -0.037 [-0.051, -0.022]" in line and "Clip_B pass +0.000 [+0.000, +0.000]" in line
    assert line.endswith(
        "minus as many random tokens: Clip_B avg +0.000, Clip_V avg +0.000, Clip_B pass +0.000, Clip_V pass +0.000"
    )
    table = checks.solved_table(solved()).set_index(["arm", "reference", "column"])
    assert len(table) == 12 and table.loc[("random mask", "GRPO", "avg"), "p"] == 2 / 64
    for arm in ("Clip_B", "Clip_V"):
        assert not checks.no_gain_shows(checks.solved_table(solved(**{arm: 0.2})))[0]
        gain = solved().assign(**{"pass": lambda t, a=arm: 0.8 + 0.1 * (t["arm"] == a) + 0.01 * t["seed"]})
        assert not checks.no_gain_shows(checks.solved_table(gain))[0]
    assert not checks.no_gain_shows(checks.solved_table(solved(**{"random mask": 0.1})))[0]


def test_a_run_without_its_control_is_no_pair():
    with pytest.raises(KeyError, match="random mask like Clip_V"):
        checks.keep_more_than_random(results()[lambda t: t["arm"] != "random mask like Clip_V"])
