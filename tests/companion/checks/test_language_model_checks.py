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


def test_a_run_without_its_control_is_no_pair():
    with pytest.raises(KeyError, match="random mask like Clip_V"):
        checks.keep_more_than_random(results()[lambda t: t["arm"] != "random mask like Clip_V"])
