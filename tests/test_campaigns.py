"""Comparisons change one thing, and tables say what the records hold."""

import pandas as pd
import pytest

from entropy_dynamics import campaigns
from entropy_dynamics.methods import Rule
from entropy_dynamics.store import Record


def flatten(value, prefix=""):
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, child in value.items() for key, leaf in flatten(child, f"{prefix}.{name}").items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_every_intervention_differs_from_its_base_in_its_rule_alone(seed):
    runs = campaigns.interventions(seeds=(0, 1))
    base = campaigns.plain(steps=30, seeds=(0, 1))["GRPO", seed].model_copy(
        update={"ledger_every": 5 * (seed == 0), "evaluation_samples": 4}
    )
    arms = [run for (_, s), run in runs.items() if s == seed]
    assert len(arms) == 18 and len({arm.model_dump_json() for arm in arms}) == 18
    for arm in arms:
        assert arm.step.rule != Rule()
        assert campaigns.with_rule(arm, Rule()) == base


def record(entropy, correct):
    series = {"entropy": entropy, "ledger_measured": [-0.2, None, -0.1], "ledger_parameters": [-0.1, None, -0.1]}
    series["ledger_logits"] = [-0.002, None, -0.001]
    evaluation = {"samples": 4, "correct": correct, "distinct": [1, 0], "entropy": 0.5}
    return Record({"series": series, "evaluation": evaluation}, {})


RECORDS = {("a", 0): record([1.0, 0.8, 0.6], [1, 0]), ("a", 1): record([2.0, 1.0, 1.0], [4, 2])}


def test_tables_by_hand():
    series = campaigns.series_table(RECORDS)
    assert len(series) == 6 and series.entropy.tolist() == [1.0, 0.8, 0.6, 2.0, 1.0, 1.0]
    assert series.step.tolist() == [0, 1, 2, 0, 1, 2] and series.ledger_measured.isna().sum() == 2
    changes = campaigns.entropy_changes(series, last=2)
    assert changes.loc["a"].tolist() == pytest.approx([-0.3, -1.0])
    table = campaigns.evaluation_table(RECORDS)
    assert table.avg.tolist() == [0.125, 0.75] and table["pass"].tolist() == [0.5, 1.0]
    assert table.distinct.tolist() == [0.5, 0.5]


def test_the_ledger_fits_one_factor():
    table = campaigns.ledger_table(campaigns.series_table(RECORDS))
    assert table.step.tolist() == [0, 2, 0, 2]
    assert table.factor.tolist() == pytest.approx([100.0] * 4)
    assert table.logits.tolist() == pytest.approx([-0.2, -0.1] * 2)
    assert campaigns.explained(table.logits, table.measured) == pytest.approx(1)
    assert campaigns.explained(table.parameters, table.measured) == pytest.approx(1 - 0.01 / 0.05)
    assert campaigns.explained(pd.Series([0.0, 0.0]), pd.Series([1.0, 2.0])) == 0


def test_centred_table_by_hand():
    columns = ["step", "tokens", "mean_d", "mean_s", "mean_d_standard_error"]
    series = pd.DataFrame([(0, 10, 0.2, 1.0, 0.1), (1, 30, -0.1, 2.0, 0.05)], columns=columns)
    table = campaigns.centred_table(series)
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
    bands = campaigns.condition_bands(series, {("positive", "above"): "title"})
    assert bands.family.tolist() == ["keep S", "GRPO"] and bands["mean"].tolist() == [1.5, 1.0]
    assert bands.low[0] == pytest.approx(1.5 - 12.7062 * 0.5) and bands.high[1] == 1.0
