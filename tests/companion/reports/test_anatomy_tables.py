"""Tables of notebook 04 on small inputs, by hand."""

import numpy as np
import pandas as pd
import pytest

from companion.record import Record
from companion.reports import anatomy_tables


def test_part_of_records_names_the_seed():
    records = {7: Record({"states": {"x": [1, 2]}}, {}), 8: Record({"states": {"x": [3]}}, {})}
    table = anatomy_tables.part_of_records(records, "states")
    assert table.values.tolist() == [[1, 7], [2, 7], [3, 8]]


def test_levels_by_hand():
    table = pd.DataFrame(
        {
            "theorem": [1.0, -1.0, 1.0],
            "first": [2.0, -1.0, -1.0],
            "second": [0.0, -1.0, 2.0],
            "measured": [2.0, -2.0, 1.0],
        }
    )
    levels = anatomy_tables.levels(table)
    # theorem: factor (2 + 2 + 1) / 3; misses 1/3, 1/3 and 2/3, so 1 - (6/9) / 9
    assert levels.loc["Theorem 3.3, one factor"].tolist() == pytest.approx([1 - 6 / 81, 1.0, 5 / 3])
    # first order: misses 0, 1, 2; slope (4 + 2 - 1) / 6
    assert levels.loc["first order"].tolist() == pytest.approx([1 - 5 / 9, 2 / 3, 5 / 6])
    assert levels.loc["first and second order"].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert levels.loc["a constant"].tolist() == pytest.approx([1 - (9 - 1 / 3) / 9, 2 / 3, 1.0])


def test_the_theorem_is_not_judged_where_it_says_nothing():
    table = pd.DataFrame({"theorem": [0.0, 0.0], "first": [1.0, 2.0], "second": [0.0, 0.0], "measured": [1.0, 2.0]})
    assert "Theorem 3.3, one factor" not in anatomy_tables.levels(table).index


def test_levels_of_groups_stand_in_rows_in_their_order():
    table = pd.DataFrame(
        {"kind": ["b", "b", "a"], "theorem": [1.0, 1.0, 0.0], "first": [1.0, -1.0, 2.0], "second": 0.0, "measured": 1.0}
    )
    levels = anatomy_tables.levels_by(table, ["kind"])
    assert list(levels.index) == ["b", "a"]
    assert levels.signs["first order"].tolist() == [0.5, 1.0]
    assert levels.explained["first order"].tolist() == [-1.0, 0.0]
    assert levels.signs["Theorem 3.3, one factor"].isna().tolist() == [False, True]


def test_every_kind_of_states_is_held_against_the_sum_over_the_updated_ones():
    batches = pd.DataFrame(
        {
            "seed": 0,
            "at": [1, 1, 2, 2],
            "trial": "a",
            "kind": ["updated", "unseen problems"] * 2,
            "theorem": [0.3, 0.0, -0.4, 0.0],
            "measured": [1.0, 2.0, 3.0, 4.0],
        }
    )
    joined = anatomy_tables.against_the_batch(batches)
    assert joined.theorem.tolist() == [0.3, 0.3, -0.4, -0.4] and joined.measured.tolist() == [1, 2, 3, 4]


def test_effective_steps_by_hand():
    states = pd.DataFrame({"trial": ["a", "a", "a", "b"], "alpha": [0.5, -2.0, 1.0, 3.0], "radius": [1, 1, 4, 2.0]})
    table = anatomy_tables.effective_steps(states)
    assert table.loc["a"].tolist() == pytest.approx([1.0, 1.8, 1.0, 1 / 3])
    assert table.loc["b"].tolist() == pytest.approx([3.0, 3.0, 2.0, 1.0])


def test_what_lies_along_the_token_by_hand():
    states = pd.DataFrame(
        {
            "trial": "a",
            "coefficient": [2.0, -1.0, 1.0],
            "theorem": [-4.0, 1.0, 1.0],  # D = 2, 1, -1
            "alpha": [0.5, 2.0, 3.0],  # -alpha D = -1, -2, 3
            "alignment": [0.1, -0.3, 0.2],
            "radius": [1.0, 1.0, 5.0],
            "measured": [-1.0, -2.0, -1.0],
        }
    )
    table = anatomy_tables.along_the_token(states)
    expected = [0.2, 0.28, 2 / 3, 1 / 2, 1 / 3, 1 - 16 / 6]
    assert table.loc["a"].tolist() == pytest.approx(expected)


def test_kernel_shares_by_hand():
    kernel = pd.DataFrame({"own": [1.0, 0.0], "response": [-1.0, 0.0], "group": [0.0, 1.0], "others": [2.0, -3.0]})
    shares = anatomy_tables.kernel_shares(kernel)
    assert shares.tolist() == pytest.approx([0.125, 0.125, 0.125, 0.625]) and shares.sum() == pytest.approx(1)


def runs():
    ledgers = {
        "ledger_measured": [-1.0, 1.0, -1.0],
        "ledger_parameters": [-1.1, 1.3, -1.0],
        "ledger_logits": [-2, 2, -2.0],
    }
    return pd.DataFrame({"arm": "x", "seed": 0, "step": [0, 1, 2]} | ledgers)


def test_ledgers_are_summed_up_by_hand():
    table = anatomy_tables.cumulated(runs())
    assert table.step.tolist() == [1, 2, 3]
    assert table.measured.tolist() == [-1, 0, -1]
    assert table.parameters.tolist() == pytest.approx([-1.1, 0.2, -0.8])
    assert table.logits.tolist() == pytest.approx([-1, 0, -1])  # the factor is one half


def test_steps_tracked_by_hand():
    table = anatomy_tables.cumulated(runs())
    for within, steps in ((0.05, 0), (0.15, 1), (0.25, 3)):
        (row,) = anatomy_tables.steps_tracked(table, within=within).to_dict("records")
        assert row["steps"] == steps and row["of"] == 3 and row["gap"] == pytest.approx(0.2)


def test_radii_are_binned_by_probability_and_entropy():
    tokens = pd.DataFrame({"probability": [0.2, 0.3, 0.9], "entropy": [0.5, 0.6, 1.5], "radius": [1.0, 3.0, np.inf]})
    cells = anatomy_tables.binned_radii(tokens, p_edges=[0.1, 0.4, 1.0], h_edges=[0.0, 1.0, 2.0])
    assert cells.p.tolist() == pytest.approx([0.2, np.sqrt(0.4)], rel=0.01)
    assert cells.entropy.tolist() == pytest.approx([0.5, 1.5], rel=0.01)
    assert cells.tokens.tolist() == [2, 1] and cells.radius.tolist() == [2.0, np.inf]
