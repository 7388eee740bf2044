"""Each claim of notebooks 01 to 05 that is mathematics, decided with its formula wrong: its own check must notice.

docs/mutants.md is the table: `python tests/companion/mathematics/test_mutants.py > docs/mutants.md` makes it.
"""

import csv
import importlib.util
import itertools
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from companion.notebooks.claims import CLAIMS
from companion.provenance import ROOT

with Path(__file__).with_name("mutants.csv").open(encoding="utf-8", newline="") as file:
    MUTANTS = list(csv.DictReader(file))
ROOMS = ("companion.mathematics", "companion.dynamics", "entropy_dynamics")
DECIDED_FROM_RECORDS = {  # of training or of single steps: about a network, not about a formula
    *("corollary-3.5-training", "effective-step", "alpha-measured", "parameters-first-order", "theorem-by-batch"),
    *("theorem-by-state-real", "unseen-states", "optimizers", "kernel-own", "ledger-along-a-run"),
    *("own-share-predictions", "own-share-batch", "own-share-bends", "own-share-size"),
    *("law-rule", "law-of-training", "law-of-masks", "law-exponents", "law-of-time"),
}
HEAD = """# Wrong formulas that the checks must notice

A check is worth something only if it fails when the formula is wrong. Each row below puts one wrong sign, term or
constant into the code behind a claim of notebooks 01 to 05, and decides the claim again by the check that its
notebook uses (`companion.mathematics.checks`, `companion.dynamics.checks`). "yes": the claim then fails, as it should.
"**no**": it still holds; the reason is given, and the sentence of the claim says no more than its check can tell. To
save time, vocabularies are smaller than in the notebooks, and random policies stand in for the states of the language
model. Claims that are decided from records of training are not here: they are about a network, not about a formula.

Of {total} wrong formulas {caught} are caught. A test tries them all again and keeps this page equal to its list,
`tests/companion/mathematics/mutants.csv`.
"""


NUMBERS = itertools.count()


def changed(name, old, new):
    """Import a module with one piece of its text exchanged."""
    spec = importlib.util.find_spec(name)
    text = Path(spec.origin).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    exec(compile(text.replace(old, new), f"mutant of {name}", "exec"), vars(module))


@contextmanager
def mutated(name, old, new):
    """Within the context, imports find module `name` with one piece of its text exchanged, and all that use it anew."""
    ours = {n: m for n, m in sys.modules.items() if n.startswith(ROOMS)}
    for n in ours:
        del sys.modules[n]
    try:  # torch registers an operator once, so that those of a mutant need names of their own
        changed("entropy_dynamics.operators", '"entropy_dynamics"', f'"mutant_{next(NUMBERS)}"')
        changed(name, old, new)
        yield
    finally:
        for n in [n for n in sys.modules if n.startswith(ROOMS)]:
            del sys.modules[n]
        sys.modules.update(ours)
        for n in ("companion.mathematics", "companion.dynamics"):
            if n in ours:
                setattr(sys.modules["companion"], n.partition(".")[2], ours[n])


def decide(claim):
    """The decision of a claim of mathematics, as its notebook makes it but with less to compute."""
    import numpy as np
    import pandas as pd
    import torch

    from companion.dynamics import checks as dynamics
    from companion.mathematics import batches, checks, remainder, sampling, symbolic, verification

    small, seed = {"states": 24, "seed": 0}, 0
    sizes, steps = [2, 10, 100], [0.001, 0.1, 1.0]
    floors = {"r_squared_floor": [0.9999, 0.99, 0.8], "sign_floor": [0.99, 0.98, 0.85]}

    def sampled(size=100, states=800):
        return verification.random_policies(states, size, seed=seed)

    def changes(update):
        return verification.change_table([sampled()], update, steps)

    def formula(update):
        return checks.formula(verification.agreement_table(changes(update), update), **floors)

    def orders(update):
        return checks.orders(verification.remainder_table(update, sizes, checks.SMALL_STEPS, **small))

    def band():
        other, _ = verification.random_policies(100, 100, seed=seed + 1)
        logits = {"random": other, "in place of a model": sampled()[0]}
        tables = [verification.band_table([z]).assign(source=name) for name, z in logits.items()]
        return checks.baseline_of_states(
            changes(verification.GRPO), pd.concat(tables, ignore_index=True), [sampled()], steps[0]
        )

    def batch_means():
        z, _ = verification.random_policies(200, 100, seed=seed)
        means = sampling.batch_means(z, [10, 100, 1000], batches=700, seed=seed)
        return checks.batch_means(means, sampling.centred_variance(z))

    def mean_of_tokens():
        z, k = sampled()
        statistics = verification.token_statistics(z, k)
        error = sampling.centred_variance(z).sum().sqrt().item() / len(k)
        return checks.mean_of_tokens(statistics.centred, statistics.discriminator, error)

    def length_bias():
        sequences = sampling.enumerate_sequences(vocabulary=3, max_length=4, seed=seed)
        responses = 2 ** np.arange(9)
        means = {
            of: [sampling.expected_batch_mean(sequences, int(n), of=of) for n in responses]
            for of in ("tokens", "sequences")
        }
        return checks.length_bias(pd.DataFrame({"responses": responses} | means), sequences)

    def samplers():
        z, k = sampled(states=200)
        return checks.samplers(sampling.sampler_bias(z, k, temperature=0.7, top_p=0.9, stale_step=1.0))

    def bound():
        found = remainder.worst_remainder(0.1, 100)
        row = {"alpha": 0.1, "vocabulary": 100, "remainder": found.remainder, "span": found.span}
        return checks.remainder_bound(pd.DataFrame([row]), states=100, seed=seed)

    def radii():
        table = verification._radii(*sampled(size=50, states=300))  # `radius_table` takes two states at a time
        return checks.radii_of_tokens(pd.DataFrame({name: column.numpy() for name, column in table.items()}))

    def exact_change():
        holds, line = checks.exact_remainder(sizes, **small)
        return checks.proven(symbolic.exact_change, sizes=(2,)) if holds else (holds, line)

    def group_gain():
        z, _ = verification.random_policies(2, 5, seed=seed)
        return checks.group_gain(z, torch.tensor([1, 0, 0, 1, 0], dtype=torch.float64), [2, 3, 4])

    def gain_of(tokens):
        responses = batches.response_table(tokens)
        return checks.gain_of_responses(responses, batches.subgroup_table(responses, [3, 8]))

    def gain_of_policy():
        tokens = pd.read_csv(ROOT / "data" / "lens_tokens.csv")
        return gain_of(tokens[(tokens["update"] == 0) & (tokens.seed == 0) & (tokens.step == 4)])

    def gain_of_language_model():
        return gain_of(pd.read_csv(ROOT / "data" / "smollm2_tokens.csv").assign(seed=0, step=0))

    def proven(*statements):
        return lambda: checks.proven(*statements, sizes=(2,))

    return {
        "lemma-3.1-exact": proven(symbolic.lemma_3_1),
        "lemma-3.1-random": lambda: checks.lemma_3_1_random(sizes, **small),
        "theorem-3.2-exact": proven(symbolic.theorem_3_2, symbolic.hessian),
        "theorem-3.2-autograd": lambda: checks.autograd_gradient(sizes, **small),
        "theorem-3.2-random": lambda: orders(verification.SINGLE_LOGIT),
        "theorem-3.2-real": lambda: formula(verification.SINGLE_LOGIT),
        "sign-rule-random": lambda: checks.sign_rule([2, 10, 50], steps, states=8, seed=1),
        "sign-rule-real": lambda: checks.sign_rule_of_tokens(changes(verification.SINGLE_LOGIT)),
        "lowest-discriminator": lambda: checks.lowest_discriminator(sizes, **small),
        "grpo-gradient": lambda: checks.surrogate_gradient(sizes, **small),
        "theorem-3.3-exact": proven(symbolic.theorem_3_3),
        "theorem-3.3-random": lambda: orders(verification.GRPO),
        "theorem-3.3-real": lambda: formula(verification.GRPO),
        "second-order-spread": proven(symbolic.second_order),
        "covariance-form-exact": proven(symbolic.covariance_form),
        "covariance-form-random": lambda: checks.covariance_law(sizes, **small),
        "entropy-bonus-random": lambda: checks.entropy_bonus(sizes, **small),
        "baseline-random": lambda: checks.baseline([10, 100, 300], **small),
        "baseline-real": band,
        "batch-gain-enumerated": group_gain,
        "batch-gain-tokens": gain_of_policy,
        "batch-gain-real": gain_of_language_model,
        "corollary-3.4-exact": proven(symbolic.corollary_3_4),
        "corollary-3.5-exact": lambda: checks.sum_over_responses(sampling.enumerate_sequences(3, 4, seed=seed)),
        "corollary-3.5-random": batch_means,
        "corollary-3.5-real": mean_of_tokens,
        "length-bias-exact": length_bias,
        "off-policy-random": samplers,
        "off-policy-real": samplers,
        "stale-bias": lambda: checks.stale_bias(verification.random_policies(60, 100, seed=seed)[0]),
        "second-order-exact": proven(symbolic.grpo_second_order),
        "second-order-one-pass": lambda: checks.one_pass_curvature(sizes, **small),
        "exact-change": exact_change,
        "remainder-bound": bound,
        "trust-radius-real": radii,
        "flow-two-arms": lambda: dynamics.two_arms(0.7),
        "flow-groups": lambda: dynamics.groups(8),
        "flow-natural": lambda: dynamics.natural(0.7),
        "flow-adam": lambda: dynamics.adam(1e-3),
        "flow-fixed-point": dynamics.fixed_point,
        "flow-masks": lambda: dynamics.masks(0.7, 2.0),
        "flow-many-arms": dynamics.many_arms,
        "flow-equal-arms": dynamics.equal_arms,
    }[claim]()


def page():
    """docs/mutants.md, as mutants.csv has it; the tests below hold every row of it."""
    lines = ["| claim | what is wrong | caught |", "|---|---|---|"]
    for mutant in MUTANTS:
        outcome = f"**no**: {mutant['survives']}" if mutant["survives"] else "yes"
        cells = (mutant["claim"], mutant["what"], outcome)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    head = HEAD.format(total=len(MUTANTS), caught=sum(not mutant["survives"] for mutant in MUTANTS))
    return head + "\n" + "\n".join(lines) + "\n"


def theory_claims():
    chosen = [c.id for c in CLAIMS.values() if c.notebook[:2] in ("01", "02", "03", "04", "05")]
    return [claim for claim in chosen if claim not in DECIDED_FROM_RECORDS]


@pytest.mark.parametrize("claim", theory_claims())
def test_every_claim_holds_and_has_mutants(claim):
    holds, line = decide(claim)
    assert holds, line
    assert sum(mutant["claim"] == claim for mutant in MUTANTS) >= 3


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{m['claim']}: {m['what']}" for m in MUTANTS])
def test_the_check_of_a_claim_fails_with_its_formula_wrong(mutant):
    with mutated(mutant["module"], mutant["old"], mutant["new"]):
        try:
            holds, line = decide(mutant["claim"])
        except ValueError as error:  # a formula so wrong that the check cannot be made
            holds, line = False, error
    assert bool(holds) == bool(mutant["survives"]), line


def test_the_page_is_the_table():
    print(page())
    assert page() == (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.write(page())
