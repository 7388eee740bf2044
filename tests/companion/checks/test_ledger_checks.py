"""The ledger's scores by hand, and ledgers that fail the check."""

import pandas as pd
import pytest

from companion.checks import ledger_checks

# Two arms of two steps: one whose entropy falls, one whose entropy rises.
STEERED = pd.DataFrame(
    {
        "arm": ["a", "a", "b", "b"],
        "seed": 0,
        "entropy": [0.5, 0.4, 0.5, 0.6],
        "measured": [-0.2, -0.1, 0.1, 0.1],
        "parameters": [-0.2, -0.1, 0.1, 0.1],
        "logits": [-0.1, -0.1, 0.2, -0.1],
    }
)
PLAIN = STEERED.iloc[:2]


def test_scores_by_hand():
    scores = ledger_checks.scores(STEERED)
    assert scores.loc["parameters"].tolist() == pytest.approx([1, 1, 1, -0.1])
    assert scores.loc["Theorem 3.3", ["signs", "arms", "sum"]].tolist() == pytest.approx([0.75, 1, -0.1])
    assert scores.loc["a constant", "arms"] == 0.5 and scores.loc["a constant", "sum"] == pytest.approx(-0.1)
    assert scores.loc["a constant", "explained"] == pytest.approx(1 - (0.07 - 4 * 0.025**2) / 0.07)


def test_theory_must_beat_both_baselines():
    holds, line = ledger_checks.theory_explains_more(PLAIN, STEERED)
    assert holds and "100% of the squared changes" in line and "100% of 2 arms, baselines 50% at most" in line
    worse = PLAIN.assign(parameters=0.0)
    assert not ledger_checks.theory_explains_more(worse, STEERED)[0]
    assert not ledger_checks.theory_explains_more(PLAIN, STEERED.assign(parameters=0.0))[0]
    assert not ledger_checks.theory_explains_more(PLAIN, STEERED.assign(logits=-0.1))[0]
