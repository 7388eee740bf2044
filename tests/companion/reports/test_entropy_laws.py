import numpy as np
import pandas as pd
import pytest

from companion.reports import entropy_laws
from companion.reports.entropy_laws import FLOOR, LAWS, STAYS

CONSTANTS = {
    "(log t) / t": (0.6, 2.5),
    "(log t) / √t": (0.6, 1.5),
    "t exp(-t)": (0.6, 3.0),
    "exponential to a floor": (0.6, 3.0, 0.2),
    "exponential": (0.6, 4.0),
    "power law": (0.6, 3.0, 0.8),
}


def runs_of(law, *, noise=0.0, batches=120, seeds=1):
    return entropy_laws.made_up(law, CONSTANTS[law], seeds=seeds, batches=batches, noise=noise)


def errors_of(series):
    return entropy_laws.held_out(entropy_laws.curves(series))


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_found_again_and_no_rival_predicts_as_well(law):
    t = np.arange(120.0)
    exact = LAWS[law].formula(t, *CONSTANTS[law])
    assert entropy_laws.fit(LAWS[law], t, exact) == pytest.approx(CONSTANTS[law], abs=2e-3)
    errors = errors_of(runs_of(law)).set_index("law").error
    assert errors.idxmin() == law
    nested = [FLOOR] if law == "exponential" else []
    assert errors[law] < 1e-4 < 1e-3 < errors.drop([law, *nested]).min()


def test_the_laws_by_hand():
    t = np.array([0.0, np.e - 1])
    np.testing.assert_allclose(LAWS["(log t) / t"].formula(t, 0.5, 0.0), [0.5, 0.5 * 2 / np.e])
    np.testing.assert_allclose(LAWS["(log t) / √t"].formula(t, 0.5, 0.0), [0.5, 0.5 * 1.5 / np.sqrt(np.e)])
    np.testing.assert_allclose(LAWS["t exp(-t)"].formula(np.array([0.0, 1.0]), 0.5, 0.0), [0.5, 0.5 * 2 / np.e])
    np.testing.assert_allclose(LAWS[FLOOR].formula(t, 0.5, 0.0, 0.1)[0], 0.5)


def test_the_law_of_the_flow_by_arm():
    arms = ["GRPO 5e-05", "Clip_B 1.5", "random mask like Clip_B", "rarest mask like Clip_V", "entropy bonus"]
    laws = ["(log t) / t", "(log t) / √t", "(log t) / t", "(log t) / √t", FLOOR]
    assert [entropy_laws.of_flow(arm) for arm in arms] == laws
    assert entropy_laws.of_flow("Clip-Cov") is None


def test_rivals_have_no_constant_more():
    assert entropy_laws.rivals("exponential") == {"(log t) / t", "(log t) / √t", "t exp(-t)", STAYS}
    assert entropy_laws.rivals(FLOOR) == LAWS.keys() - {FLOOR}


def test_laws_are_fitted_to_the_first_part_alone_and_judged_on_the_rest():
    run = runs_of("(log t) / t")
    later = run.assign(entropy=run.entropy.where(run.step < 60, 5.0))
    one, other = entropy_laws.curves(run), entropy_laws.curves(later)
    pd.testing.assert_series_equal(one.entropy, other.entropy)
    assert one[one.held_out].step.min() == 60
    errors = entropy_laws.held_out(other).set_index("law")
    assert (errors.error > 4).all()
    assert errors.bias[STAYS] == pytest.approx(run.entropy[44:60].mean() - 5)
    assert entropy_laws.curves(run, share=0.25).query("held_out").step.min() == 30


def errors_table(rows):
    return pd.DataFrame(
        [
            {"arm": "GRPO", "seed": s, "law": law, "error": e, "bias": e}
            for law, row in rows.items()
            for s, e in enumerate(row)
        ]
    )


def test_a_law_stands_unless_another_clearly_errs_less():
    errors = errors_table({"a": [0.010, 0.012, 0.011], "b": [0.051, 0.052, 0.050], "c": [0.005, 0.03, 0.02]})
    assert entropy_laws.standing(errors) == ["a", "c"]
    assert entropy_laws.standing(errors, level=1e-6) == ["a", "c", "b"]  # asked for more than three seeds can give


def test_verdicts_and_sentences():
    one, half, power = "(log t) / t", "(log t) / √t", "power law"
    best, worse, worst = [0.010, 0.012, 0.011, 0.011], [0.051, 0.052, 0.050, 0.051], [0.091, 0.092, 0.09, 0.091]
    also = [0.011, 0.010, 0.012, 0.011]
    cases = {
        "for": {one: best, half: worse, power: also},
        "open": {one: best, half: also, power: worst},
        "against": {one: worse, half: best, power: worst},
    }
    for verdict, rows in cases.items():
        errors = errors_table(rows)
        row = entropy_laws.verdicts(errors).loc["GRPO"]
        assert (row.verdict, row.seeds, row.flow) == (verdict, 4, one)
        assert row.error == pytest.approx(np.mean(rows[one]))
        assert row.low < row.bias < row.high
        words = entropy_laws.sentence("GRPO", errors)
        assert words.startswith("GRPO (4 seeds): " + {"open": "open; "}.get(verdict, f"decided {verdict} {one}"))
    assert "what stands is (log t) / √t (0.011)" in words
    assert entropy_laws.verdict(FLOOR, [FLOOR, STAYS]) == "for"
    assert entropy_laws.verdict(one, [one, STAYS]) == "open"


@pytest.mark.parametrize("law", ["(log t) / √t", "t exp(-t)", FLOOR])
def test_the_rule_decides_for_the_law_behind_noisy_runs(law):
    slower = (CONSTANTS[law][0], CONSTANTS[law][1] + 1, *CONSTANTS[law][2:])
    runs = entropy_laws.made_up(law, slower, seeds=5, batches=384, noise=0.01)
    stand = {law: entropy_laws.standing(errors_of(runs))}
    holds, line = entropy_laws.rule_finds(stand)
    assert holds, line


def test_a_rule_that_finds_another_law_is_noticed():
    assert not entropy_laws.rule_finds({"(log t) / t": ["exponential"]})[0]
    assert not entropy_laws.rule_finds({"(log t) / t": ["(log t) / t", "exponential"]})[0]


def test_made_up_noise_has_its_deviation_and_correlation():
    exact, noisy = (runs_of("exponential", noise=noise, batches=4000).entropy for noise in (0.0, 0.01))
    wobble = (noisy - exact).to_numpy()
    assert wobble.std() == pytest.approx(0.01, rel=0.05)
    assert np.corrcoef(wobble[1:], wobble[:-1])[0, 1] == pytest.approx(0.5, abs=0.05)


def test_constants_of_whole_runs():
    half, floor = (runs_of(law, noise=1e-3, seeds=3) for law in ("(log t) / √t", FLOOR))
    table = entropy_laws.constants(pd.concat([half, floor])).set_index("arm")
    assert table.exponent["(log t) / √t"] == pytest.approx(0.5, abs=0.05)
    assert table.floor[FLOOR] == pytest.approx(0.2, abs=0.01)
    assert (table.exponent_low < table.exponent).all() and (table.floor < table.floor_high).all()
    assert (table.seeds == 3).all()


def test_two_rates_that_only_move_time_on_or_not():
    t = np.arange(200.0)
    law = LAWS["(log t) / t"].formula
    rows = {"fast": law(t, 0.6, 2.5), "slow": law(t / 2, 0.6, 2.5), "too slow": law(t / 4, 0.6, 2.5)}
    series = pd.concat(
        pd.DataFrame({"arm": arm, "seed": seed, "step": t, "entropy": (1 + 0.01 * seed) * values})
        for arm, values in rows.items()
        for seed in range(4)
    )
    holds, line = entropy_laws.at_equal_time(series, "slow", "fast", 2.0)
    assert holds and "+0.000 nats" in line and "4 seeds" in line
    assert entropy_laws.at_equal_time(series, "too slow", "fast", 4.0)[0]
    assert not entropy_laws.at_equal_time(series, "too slow", "fast", 2.0)[0]
    assert not entropy_laws.at_equal_time(series, "fast", "fast", 1.0)[0]  # nothing to move


def test_the_ends_of_a_sweep_lie_apart_or_not():
    table = pd.DataFrame(
        {
            "arm": ["a", "b", "c"],
            "exponent": [0.2, 0.5, 1.0],
            "exponent_low": [0.1, 0.4, 0.8],
            "exponent_high": [0.3, 0.6, 1.2],
        }
    )
    words = "with the threshold, a to c: 0.20, 0.50, 1.00"
    assert entropy_laws.ends_apart(table, [["a", "b", "c"]]) == (True, f"the exponent rises {words}")
    assert entropy_laws.ends_apart(table, [["c", "a"]])[1].startswith("the exponent falls")
    assert not entropy_laws.ends_apart(table, [["a", "c"], ["c", "a"]])[0]
    between = table.assign(exponent=[0.2, 5.0, 1.0])
    assert not entropy_laws.ends_apart(between, [["a", "b", "c"]])[0]
    wide = table.assign(exponent_low=[0.1, 0.4, 0.2])
    holds, line = entropy_laws.ends_apart(wide, [["a", "c"]])
    assert not holds and "does not clearly change" in line
