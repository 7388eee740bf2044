"""Tables say what the records hold."""

import pandas as pd
import pytest

from entropy_dynamics import tables
from entropy_dynamics.store import Record


def record(entropy, correct):
    series = {"entropy": entropy, "ledger_measured": [-0.2, None, -0.1], "ledger_parameters": [-0.1, None, -0.1]}
    series["ledger_logits"] = [-0.002, None, -0.001]
    evaluation = {"samples": 4, "correct": correct, "distinct": [1, 0], "entropy": 0.5}
    return Record({"series": series, "evaluations": [evaluation]}, {})


RECORDS = {("a", 0): record([1.0, 0.8, 0.6], [1, 0]), ("a", 1): record([2.0, 1.0, 1.0], [4, 2])}


def test_tables_by_hand():
    series = tables.series_table(RECORDS)
    assert len(series) == 6 and series.entropy.tolist() == [1.0, 0.8, 0.6, 2.0, 1.0, 1.0]
    assert series.step.tolist() == [0, 1, 2, 0, 1, 2] and series.ledger_measured.isna().sum() == 2
    changes = tables.entropy_changes(series, last=2)
    assert changes.loc["a"].tolist() == pytest.approx([-0.3, -1.0])
    table = tables.evaluation_table(RECORDS)
    assert table.avg.tolist() == [0.125, 0.75] and table["pass"].tolist() == [0.5, 1.0]
    assert table.distinct.tolist() == [0.5, 0.5]


def test_the_ledger_fits_one_factor():
    table = tables.ledger_table(tables.series_table(RECORDS))
    assert table.step.tolist() == [0, 2, 0, 2]
    assert table.factor.tolist() == pytest.approx([100.0] * 4)
    assert table.logits.tolist() == pytest.approx([-0.2, -0.1] * 2)
    assert tables.explained(table.logits, table.measured) == pytest.approx(1)
    assert tables.explained(table.parameters, table.measured) == pytest.approx(1 - 0.01 / 0.05)
    assert tables.explained(pd.Series([0.0, 0.0]), pd.Series([1.0, 2.0])) == 0


def test_centred_table_by_hand():
    columns = ["step", "tokens", "mean_d", "mean_s", "mean_d_standard_error"]
    series = pd.DataFrame([(0, 10, 0.2, 1.0, 0.1), (1, 30, -0.1, 2.0, 0.05)], columns=columns)
    table = tables.centred_table(series)
    assert table.deviations.tolist() == pytest.approx([2, -2])
    assert table.ratio.tolist() == pytest.approx([0.2, 0.05])
    assert table.expected.tolist() == pytest.approx([0.1, 0.025])
    # pooled: sum of D is 2 - 3, of S 10 + 60, variance of the sum (10 * 0.1)^2 + (30 * 0.05)^2
    assert table.running.tolist() == pytest.approx([0.2, 1 / 70])
    assert table.running_deviations.tolist() == pytest.approx([2, -1 / 3.25**0.5])


def test_condition_bands_by_hand():
    arm = "keep S, positive above"
    rows = [(arm, 0, 0, 1.0), (arm, 1, 0, 2.0), ("GRPO", 0, 0, 1.0), ("GRPO", 1, 0, 1.0)]
    series = pd.DataFrame(rows, columns=["arm", "seed", "step", "entropy"])
    bands = tables.condition_bands(series, {("positive", "above"): "title"})
    assert bands.family.tolist() == ["keep S", "GRPO"] and bands["mean"].tolist() == [1.5, 1.0]
    assert bands.low[0] == pytest.approx(1.5 - 12.7062 * 0.5) and bands.high[1] == 1.0
