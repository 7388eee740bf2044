import numpy as np
import pandas as pd
import pytest

from companion.reports import entropy_laws
from companion.reports.entropy_laws import LAWS

CONSTANTS = {
    "(log t) / t": (0.6, 2.5),
    "(log t) / √t": (0.6, 1.5),
    "exponential": (0.6, 4.0),
    "exponential to a floor": (0.6, 3.0, 0.2),
    "power law": (0.6, 3.0, 0.8),
}


def run_of(law, *, noise=0.0, steps=120, seed=0, arm="GRPO"):
    t = np.arange(steps, dtype=float)
    wobble = noise * np.random.default_rng(seed).standard_normal(steps)
    entropy = LAWS[law].formula(t, *CONSTANTS[law]) + wobble
    return pd.DataFrame({"arm": arm, "seed": seed, "step": t, "entropy": entropy})


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_found_again_and_no_rival_predicts_as_well(law):
    run = run_of(law)
    found = entropy_laws.fit(LAWS[law], run.step.to_numpy(), run.entropy.to_numpy())
    assert found == pytest.approx(CONSTANTS[law], abs=2e-3)
    errors = entropy_laws.held_out(run).set_index("law")
    assert errors.error.idxmin() == law
    assert errors.error[law] < 1e-4 < 1e-3 < errors.error.drop([law, *nested(law)]).min()
    assert errors.constants.to_dict() == {name: len(CONSTANTS[name]) for name in LAWS}


def nested(law):
    """An exponential is one to a floor of 0."""
    return ["exponential to a floor"] if law == "exponential" else []


def test_the_laws_by_hand():
    t = np.array([0.0, np.e - 1])
    np.testing.assert_allclose(LAWS["(log t) / t"].formula(t, 0.5, 0.0), [0.5, 0.5 * 2 / np.e])
    np.testing.assert_allclose(LAWS["(log t) / √t"].formula(t, 0.5, 0.0), [0.5, 0.5 * 1.5 / np.sqrt(np.e)])
    np.testing.assert_allclose(LAWS["exponential to a floor"].formula(t, 0.5, 0.0, 0.1)[0], 0.5)


def test_noise_and_parts_are_those_of_the_series():
    errors = entropy_laws.held_out(run_of("exponential", noise=0.01, steps=400), share=0.25)
    assert (errors["first"] == 100).all()
    assert errors.noise.iloc[0] == pytest.approx(0.01, rel=0.15)
    exponential = errors.set_index("law").loc["exponential"]
    assert exponential.fitted == pytest.approx(0.01, rel=0.2)


def test_curves_are_fitted_to_the_first_part_alone():
    run = run_of("(log t) / t")
    changed = run.assign(entropy=run.entropy.where(run.step < 60, 5.0))
    laws = ["(log t) / t", "exponential"]
    pd.testing.assert_frame_equal(entropy_laws.curves(run, laws), entropy_laws.curves(changed, laws))


def test_exponents_of_decays():
    half, one = ([run_of(law, noise=1e-3, seed=s, arm=law) for s in range(3)] for law in list(LAWS)[1::-1])
    table = entropy_laws.exponents(pd.concat([*half, *one])).set_index("arm")
    assert table["mean"].tolist() == pytest.approx([0.5, 1.0], abs=0.05)
    assert (table.low < table["mean"]).all()
    assert (table.seeds == 3).all()


def test_a_shape_lies_between_two_laws_or_not():
    runs = pd.concat(run_of("power law", seed=s) for s in range(3))
    errors = entropy_laws.held_out(runs)
    holds, line = entropy_laws.between(errors, "(log t) / √t", "exponential")
    assert holds
    assert "3 runs" in line
    assert not entropy_laws.between(errors, "exponential", "(log t) / √t")[0]
    outlier = pd.concat([errors, entropy_laws.held_out(run_of("(log t) / √t", seed=3))])
    assert not entropy_laws.between(outlier, "(log t) / t", "exponential")[0]


def test_a_law_predicts_best_in_every_run_or_not():
    runs = pd.concat(run_of("(log t) / √t", noise=0.002, seed=s) for s in range(3))
    errors = entropy_laws.held_out(runs)
    holds, line = entropy_laws.predicts_best(errors, "(log t) / √t", ["(log t) / t", "exponential"])
    assert holds
    assert "held-out error of (log t) / √t 0.00" in line
    assert not entropy_laws.predicts_best(errors, "(log t) / t", ["(log t) / √t", "exponential"])[0]
    one_other = pd.concat([errors, entropy_laws.held_out(run_of("exponential", seed=3))])
    assert not entropy_laws.predicts_best(one_other, "(log t) / √t", ["exponential"])[0]


def test_exponents_ascend_or_not():
    table = pd.DataFrame(
        {"arm": ["a", "b", "c"], "mean": [0.2, 0.5, 1.0], "low": [0.1, 0.4, 0.8], "high": [0.3, 0.6, 1.2]}
    )
    assert entropy_laws.ascending(table, [["a", "b", "c"]]) == (True, "exponents from a to c: 0.20, 0.50, 1.00")
    assert not entropy_laws.ascending(table, [["a", "b"], ["b", "a", "c"]])[0]
    wide = table.assign(low=[0.1, 0.4, 0.2])
    assert not entropy_laws.ascending(wide, [["a", "b", "c"]])[0]
