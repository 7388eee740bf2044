"""Checks on sweeps over mu, with data that pass and data that fail."""

import pandas as pd

from companion.checks import clipping_checks


def final():
    """Two strengths of a family, the other reading of one, and GRPO; three seeds."""
    values = {"X 1": 0.5, "X 2": 0.4, "X two-sided 2": 0.3, "GRPO": 0.2}
    rows = [
        {"arm": arm, "family": arm.rpartition(" ")[0], "strength": float(arm[-1]) if arm[-1].isdigit() else 0.0}
        | {
            "seed": seed,
            "entropy": x + 0.01 * seed * (arm != "GRPO"),
            "avg": 0.5,
            "pass": 0.8,
        }
        for arm, x in values.items()
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def changed(place, value):
    table = final()
    table.loc[(table["arm"] == place[0]) & (table["seed"] == place[1]), "entropy"] = value
    return table


def test_a_dial_turns_with_every_seed():
    holds, line = clipping_checks.is_a_dial(final(), ["X"])
    assert holds and line == "X: final entropy 0.510, 0.410 nats for mu from 1 to 2"
    assert not clipping_checks.is_a_dial(changed(("X 2", 1), 0.52), ["X"])[0]


def test_more_entropy_needs_an_interval():
    pairs = [("X 2", "X two-sided 2"), ("X 1", "GRPO")]
    holds, line = clipping_checks.keeps_more_entropy(final(), pairs)
    assert holds and line.startswith("X 2 minus X two-sided 2 +0.100 (+0.100 to +0.100) nats")
    assert not clipping_checks.keeps_more_entropy(changed(("X two-sided 2", 0), 0.5), pairs)[0]


def test_a_rule_that_never_acts_gives_grpo():
    same = pd.concat([final(), final()[lambda t: t["arm"] == "GRPO"].assign(arm="idle")])
    assert clipping_checks.is_grpo(same, "idle")[0]
    assert not clipping_checks.is_grpo(final(), "X 1")[0]
