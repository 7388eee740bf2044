"""The tables and checks of the lens by hand, each check with data that pass and data that fail it."""

import pandas as pd
import pytest

from companion.checks import lens_checks

RULES = {"a": 4.0, "b": 3.0, "c": 1.0, "d": -2.0, "e": -3.0}  # what each does to entropy
SHUFFLED = dict(zip(RULES, (1.0, -1.0, -2.0, 3.0, 2.0)))


def effects(**columns):
    """Three seeds with two trials each; every column is as measured unless it is given by rule."""
    names = [*lens_checks.PREDICTORS, *lens_checks.OPTIMIZERS]
    usual = {"dropped": SHUFFLED, "smaller": SHUFFLED}
    rows = [
        {"seed": seed, "at": at, "batch": 0, "update": 1, "method": rule}
        | {name: (usual | columns).get(name, RULES)[rule] * (1 + 0.01 * seed) for name in names}
        for seed in range(3)
        for at in (4, 40)
        for rule in RULES
    ]
    return pd.DataFrame(rows)


def test_ranks_and_shares_by_hand():
    halves = {rule: 0.5 * value for rule, value in RULES.items()} | {"b": 0.0}  # b falls from second to third place
    table = lens_checks.rank_table(effects(covariance=halves), "adam")
    assert table["rank"]["predicted"] == pytest.approx(1) and table["explained"]["predicted"] == pytest.approx(1)
    # ranks 1, 3, 2, 4, 5 against 1, 2, 3, 4, 5
    assert table["rank"]["covariance"] == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert table["explained"]["covariance"] == pytest.approx(1 - 9 / 39)
    assert table["seed"]["covariance"] == pytest.approx(0.9) and table["lead"]["covariance"] == pytest.approx(0.1)
    assert table["lead_low"]["covariance"] == pytest.approx(0.1)


def test_signs_of_single_trials_by_hand():
    table = lens_checks.sign_table(effects(adam=RULES | {"e": 0.0}, covariance=RULES | {"a": 0.0}), "adam")
    assert table["trials"].tolist() == [12, 12, 24] and table.index.tolist() == [4, 40, "all"]
    assert table["always"].tolist() == [0.75] * 3 and table["predicted"].tolist() == [1.0] * 3
    assert table["covariance"].tolist() == [0.75] * 3  # no prediction is no right one
    assert table["lead"].tolist() == [0.25] * 3


def test_rules_that_move_together_are_one_group():
    trials = pd.DataFrame({"a": [1.0, 2, 3, 5], "b": [2.0, 4, 6, 10], "c": [3.0, 1, 2, 0], "none": [0.0] * 4})
    long = trials.rename_axis("seed").reset_index().melt("seed", var_name="method", value_name="adam")
    long = long.assign(sgd=long["adam"], at=4, batch=0, update=1, predicted=long["adam"] + 1)
    groups = lens_checks.alike(lens_checks.correlations(long))
    assert groups == [["a", "b"], ["c"]]
    merged = lens_checks.one_a_group(long, groups)
    assert merged[merged["method"] == "a"]["adam"].tolist() == [1.5, 3, 4.5, 7.5]
    assert merged["method"].unique().tolist() == ["a", "c"] and len(merged) == 8
    # with one optimizer alone they are not alike
    apart = long.assign(sgd=long["adam"].where(long["method"] != "b", -long["adam"]))
    assert lens_checks.alike(lens_checks.correlations(apart)) == [["a"], ["b"], ["c"]]


def test_clear_signs_by_hand():
    unclear = effects(adam=RULES | {"d": -2.0})
    unclear.loc[(unclear["method"] == "d") & (unclear["seed"] == 0), "adam"] = 5.0
    unclear.loc[unclear["method"] == "b", "adam"] *= -1
    table = lens_checks.clear_signs(unclear, "adam")
    assert table["clear"].tolist() == [4, 4] and table["lens"].tolist() == [3, 3]
    assert table["always"].tolist() == [2, 2]
    assert table["falls"].tolist() == [["b", "e"]] * 2 and table["wrong"].tolist() == [["b"]] * 2


def test_ranking_passes_and_fails():
    holds, line = lens_checks.ranks_the_rules(effects(), "sgd")
    assert holds and "of 5 rules 1.00" in line
    assert not lens_checks.ranks_the_rules(effects(predicted=SHUFFLED), "sgd")[0]
    uneven = effects()  # one seed the other way round: a good order of the means, and nothing within a seed
    uneven.loc[uneven["seed"] == 0, "sgd"] *= -0.1
    assert lens_checks.rank_table(uneven, "sgd")["rank"]["predicted"] > 0.8
    assert not lens_checks.ranks_the_rules(uneven, "sgd")[0]
    wide = effects()  # the same in weaker form: clear of zero, not of a half
    wide.loc[(wide["seed"] == 0) & (wide["method"] == "c"), "sgd"] = 4.5
    assert lens_checks.ranks_the_rules(wide, "sgd")[0] and not lens_checks.ranks_the_rules(wide, "sgd", above=0.5)[0]


def test_being_ahead_passes_and_fails():
    holds, line = lens_checks.is_ahead(effects(), ["dropped", "smaller"], ["adam"])
    assert holds and "share of tokens dropped with Adam +1" in line
    assert not lens_checks.is_ahead(effects(smaller=RULES), ["dropped", "smaller"], ["adam"])[0]
    assert not lens_checks.is_ahead(effects(sgd=SHUFFLED), ["dropped"], ["sgd", "adam"])[0]


def test_being_near_passes_and_fails():
    holds, line = lens_checks.is_near(effects(), "covariance")
    assert holds and "covariance with log p with SGD +0.000 (+0.000 to +0.000)" in line
    assert not lens_checks.is_near(effects(), "dropped")[0]


def test_clear_signs_pass_and_fail():
    rises = {rule: abs(value) for rule, value in RULES.items()}
    up = {"sgd": rises, "adam": rises, "predicted": rises}
    holds, line = lens_checks.no_clear_sign_is_wrong(effects(**up), least=10)
    assert holds and "Adam: lens 10 of 10, always '+' 10" in line
    assert not lens_checks.no_clear_sign_is_wrong(effects(**up), least=11)[0]
    assert not lens_checks.no_clear_sign_is_wrong(effects(**up | {"predicted": rises | {"c": -0.1}}), least=10)[0]
    assert not lens_checks.no_clear_sign_is_wrong(effects(), least=10)[0]  # all right, but four in ten are falls


def with_ends(values):
    """The effects above joined with full runs that end `values` from GRPO."""
    rows = [
        {"arm": arm, "seed": seed, "entropy": 0.2 + value + 0.001 * seed * (arm != "GRPO")}
        for arm, value in ({"GRPO": 0.0} | values).items()
        for seed in range(3)
    ]
    return lens_checks.with_final_entropy(effects(), pd.DataFrame(rows))


def test_final_entropies_are_minus_grpos_of_the_same_seed():
    joined = with_ends({"a": 0.3, "d": -0.1})
    assert set(joined["method"]) == {"a", "d"} and len(joined) == 12
    assert joined.groupby(["method", "seed"])["final"].first().tolist() == pytest.approx(
        [0.3, 0.301, 0.302, -0.1, -0.099, -0.098]
    )


def test_full_runs_pass_and_fail():
    fine = {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.01, "e": 0.0}
    holds, line = lens_checks.ranks_full_runs(with_ends(fine))
    assert holds and "the 2 rules predicted to lower entropy end +0.006 nats" in line
    assert not lens_checks.ranks_full_runs(with_ends(fine | {"a": -0.1, "b": 0.0}))[0]  # another order
    assert not lens_checks.ranks_full_runs(with_ends(fine | {"d": -0.05, "e": -0.06}))[0]  # falls that show
