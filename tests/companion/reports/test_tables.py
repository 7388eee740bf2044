"""Tables say what the records hold."""

import numpy as np
import pandas as pd
import pytest

from companion.record import Record
from companion.reports import tables


def evaluated(correct, *, step=10, size=3, temperature=1.0, samples=4):
    evaluation = {"step": step, "size": size, "temperature": temperature, "samples": samples, "entropy": 0.5}
    return evaluation | {"correct": correct, "distinct": [min(c, 2) for c in correct]}


def record(entropy, correct):
    series = {"entropy": entropy, "ledger_measured": [-0.2, None, -0.1], "ledger_parameters": [-0.1, None, -0.1]}
    series["ledger_logits"] = [-0.002, None, -0.001]
    evaluation = evaluated(correct) | {"distinct": [1, 0]}
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


def test_every_evaluation_has_a_row():
    document = {"evaluations": [evaluated([0, 4]), evaluated([2, 2], size=4)]}
    table = tables.evaluation_table({("a", 0): Record(document, {})})
    assert table["size"].tolist() == [3, 4] and table.avg.tolist() == [0.5, 0.5]
    assert table["pass"].tolist() == [0.5, 1.0] and table.distinct.tolist() == [1, 2]


def test_paired_differences_by_hand():
    rows = [("GRPO", 0, 1.0), ("GRPO", 1, 3.0), ("x", 0, 2.0), ("x", 1, 3.0)]
    table = tables.paired(pd.DataFrame(rows, columns=["arm", "seed", "score"]), "score")
    row = table.loc["x"]
    assert row["mean"] == 0.5 and row["better"] == 0.5
    assert row["high"] - row["mean"] == pytest.approx(12.7062 * 0.5, rel=1e-4)
    assert row["improvement"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)  # 2 > 1, 3 > 1, 2 < 3, 3 = 3


def probe_record(shift):
    effects = {
        "at": [4] * 3 + [4] * 3,
        "batch": [0] * 6,
        "update": [0] * 3 + [1] * 3,
        "rule": [0, 1, 2] * 2,
        "predicted": [-1.0, -1.0, 1.0, -2.0, -1.0, -4.0],
        "adam": [-0.1, -0.1, 0.1, -0.2, -0.1 + shift, -0.4],
        "sgd": [0.0, 0.0, 0.0, 0.0, 0.0, -0.01],
    }
    return Record({"effects": effects}, {})


def test_effects_are_differences_from_the_first_rule_on_the_same_batch():
    effects = tables.effects_table({0: probe_record(0.0)}, ["GRPO", "up", "down"])
    assert effects.method.tolist() == ["up", "down"] * 2
    assert effects.predicted.tolist() == [0.0, 2.0, 1.0, -2.0]
    assert effects.adam.tolist() == pytest.approx([0.0, 0.2, 0.1, -0.2])
    with pytest.raises(ValueError, match="3 rules, expected 2 names"):
        tables.effects_table({0: probe_record(0.0)}, ["GRPO", "up"])


def test_the_lens_table_fits_one_factor_and_compares_signs():
    records = {seed: probe_record(shift) for seed, shift in enumerate((0.0, 0.001, 0.002))}
    effects = tables.effects_table(records, ["GRPO", "up", "down"])
    table = tables.lens_table(effects[effects["update"] == 1]).set_index("method")
    assert table.adam_predicted["up"] == pytest.approx(-table.adam_predicted["down"] / 2)
    assert table.adam_predicted["down"] == pytest.approx(-0.2, rel=0.01)
    assert table.adam_agrees.tolist() == [True, True] and table.adam["up"] == pytest.approx(0.101)
    # five times as far the other way, so that the fit cannot serve both
    backwards = effects.assign(adam=effects.adam.where(effects.method == "down", -effects.adam))
    table = tables.lens_table(backwards[backwards["update"] == 1]).set_index("method")
    assert table.adam_agrees.tolist() == [False, True]


def test_predictions_that_all_point_the_wrong_way_are_no_success():
    effects = tables.effects_table({seed: probe_record(0.0) for seed in (0, 1)}, ["GRPO", "up", "down"])
    with pytest.raises(ValueError, match="expected a positive one"):
        tables.lens_table(effects.assign(adam=-effects.adam))


TOKENS = pd.DataFrame(
    {
        "seed": 0,
        "step": 4,
        "update": 0,
        "probability": [0.9, 0.1, 0.1, 0.5, 0.5, 0.5],
        "entropy": 1.0,
        "discriminator": [3.0, -3.0, -3.0, 0.0, 0.0, 3.0],
        "centred": [2.0, -2.0, -2.0, 0.0, -1.0, 1.0],
        "advantage": [1.0, 1.0, -1.0, 1.0, -1.0, -1.0],
        "ratio": 1.0,
    }
)


def test_masks_of_a_table_of_tokens():
    masks = tables.clipping_masks(TOKENS, mu={"clip_b": 1.0, "clip_v": 1.2})
    assert masks["Clip_B, released"].tolist() == [False, False, True, False, False, False]
    assert masks["Clip_B, two-sided"].tolist() == [True, True, True, False, False, True]
    assert masks["Clip_V, released"].tolist() == [False, False, True, False, False, False]  # sigma 1.49, D -2
    table = tables.masked_summary(TOKENS, masks)
    assert table.loc["Clip_B, released"].to_dict() == pytest.approx(
        {"share": 1 / 6, "negative": 1, "probability": 0.1, "entropy": 1, "lowers": 1, "effect": -25}
    )
    parts = tables.masked_parts(TOKENS, masks["Clip_B, two-sided"])
    assert parts.effect.to_dict() == {
        ("A < 0", "high"): pytest.approx(12.5),
        ("A < 0", "low"): pytest.approx(-25),
        ("A > 0", "high"): pytest.approx(-25),
        ("A > 0", "low"): pytest.approx(25),
    }
    assert parts.lowers.tolist() == [0, 1, 1, 0] and parts.tokens.tolist() == [1, 1, 1, 1]


def test_two_batches_are_masked_apart():
    other = TOKENS.assign(step=40, discriminator=TOKENS.discriminator + 100)
    both = pd.concat([TOKENS, other], ignore_index=True)
    masks = tables.clipping_masks(both, mu={"clip_b": 1.0, "clip_v": 1.2})
    assert masks["Clip_B, two-sided"].tolist() == [True, True, True, False, False, True] * 2


def test_bands_of_runs_by_hand():
    series = pd.DataFrame(
        {
            "arm": ["a"] * 4 + ["b"] * 2,
            "seed": [0, 0, 1, 1, 0, 0],
            "step": [0, 1] * 3,
            "entropy": [1.0, 3.0, 2.0, 6.0, 5.0, 5.0],
            "reward": [np.nan, 0.5, np.nan, 0.5, 0.0, 0.0],
        }
    )
    bands = tables.run_bands(series, ["entropy", "reward"], smoothed=1).set_index(["quantity", "arm", "step"])
    mean, low, high = bands.loc[("entropy", "a", 1)]
    assert mean == 4.5
    assert [low, high] == pytest.approx(
        [4.5 - 12.7062 * 1.5, 4.5 + 12.7062 * 1.5], rel=1e-4
    )  # t with 1 degree, sem 1.5
    assert bands.loc[("entropy", "b", 0), "mean"] == 5.0
    assert bands.loc[("entropy", "b", 0), ["low", "high"]].isna().all()
    assert ("reward", "a", 0) not in bands.index
    smooth = tables.run_bands(series, ["entropy"], smoothed=3).set_index(["arm", "step"])
    assert smooth.loc[("a", 0), "mean"] == pytest.approx((2.0 + 4.0) / 2)  # both values of each seed
