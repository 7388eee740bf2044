"""What the companion claims, and the verdict that a notebook reaches on each claim.

`CLAIMS` is the one list of claims: the closing table of `make figures`, the map in notebook 00 and the
table in the README are all made from it. A notebook decides a claim with `assert_claim`; the verdict is
stored in the notebook itself, as an output of the cell that reached it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from IPython.display import display
from nbformat import NotebookNode

VERDICT_MIME = "application/vnd.entropy-dynamics.verdict+json"


@dataclass(frozen=True)
class Claim:
    """One checkable statement.

    `source` says whose it is ("Theorem 3.2" of the paper, or "ours"); `notebook` is the stem of the
    notebook that decides it, `function` the code under test (module.name within the package) and `test`
    the unit test of that code (file::name under tests/).
    """

    id: str
    statement: str
    source: str
    notebook: str
    function: str
    test: str


_NOTEBOOK_00 = "00_start_here"
_NOTEBOOK_01 = "01_single_logit_update"
_NOTEBOOK_02 = "02_grpo_step"
_NOTEBOOK_03 = "03_centred_discriminator"
_NOTEBOOK_05 = "05_interventions"
_NOTEBOOK_06 = "06_unified_lens"
_NOTEBOOK_07 = "07_entropy_discriminator_clipping"
_NOTEBOOK_08 = "08_results"

CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "worked-example",
            "The formulas give the hand-computed numbers on a policy of three tokens",
            "Theorems 3.2, 3.3",
            _NOTEBOOK_00,
            "theory.first_order_change",
            "test_theory.py::test_hand_computed_policy",
        ),
        Claim(
            "lemma-3.1-exact",
            "Raising logit k by eps moves p as Lemma 3.1 says (SymPy, V = 2, 3, 4)",
            "Lemma 3.1",
            _NOTEBOOK_01,
            "symbolic.lemma_3_1",
            "test_symbolic.py::test_every_statement_simplifies_to_zero",
        ),
        Claim(
            "lemma-3.1-random",
            "The neglected part of Lemma 3.1 shrinks as eps^2",
            "Lemma 3.1",
            _NOTEBOOK_01,
            "theory.probability_change",
            "test_theory.py::test_probability_change_is_the_jacobian",
        ),
        Claim(
            "theorem-3.2-exact",
            "dH/dz_k = -S_k, and the Hessian of H has its closed form (SymPy, V = 2, 3, 4)",
            "Theorem 3.2",
            _NOTEBOOK_01,
            "symbolic.theorem_3_2",
            "test_symbolic.py::test_every_statement_simplifies_to_zero",
        ),
        Claim(
            "theorem-3.2-autograd",
            "-S is autograd's gradient of H for V from 2 to 49,152",
            "Theorem 3.2",
            _NOTEBOOK_01,
            "theory.discriminator",
            "test_theory.py::test_discriminator_is_minus_the_entropy_gradient",
        ),
        Claim(
            "theorem-3.2-random",
            "-eps S_* leaves a remainder of order eps^2, with the second-order term of order eps^3",
            "Theorem 3.2",
            _NOTEBOOK_01,
            "theory.single_logit_second_order_change",
            "test_verification.py::test_remainders_fall_with_the_right_order",
        ),
        Claim(
            "theorem-3.2-real",
            "The LM's tokens: -eps S_* predicts the exact change, its wrong twins do not",
            "Theorem 3.2",
            _NOTEBOOK_01,
            "verification.change_table",
            "test_verification.py::test_change_table_is_the_naive_recomputation",
        ),
        Claim(
            "sign-rule-random",
            "Entropy falls for p_k > e^{-H} and rises below, within the proven radius without exception",
            "Theorem 3.2; radius ours",
            _NOTEBOOK_01,
            "theory.sign_rule_radius",
            "test_theory.py::test_sign_rule_holds_within_its_radius",
        ),
        Claim(
            "sign-rule-real",
            "The LM's tokens: the sign rule holds within its radius when they are pushed up",
            "Theorem 3.2; radius ours",
            _NOTEBOOK_01,
            "theory.sign_rule_radius",
            "test_theory.py::test_sign_rule_holds_within_its_radius",
        ),
        Claim(
            "lowest-discriminator",
            "S >= -e^{-1-H}, attained only for H >= 0.524; over all policies S >= -0.2239",
            "ours, identity 4",
            _NOTEBOOK_01,
            "landscapes.policy_at",
            "test_landscapes.py::test_lowest_discriminator_is_a_bound_that_is_attained",
        ),
        Claim(
            "grpo-gradient",
            "The surrogate r A has the logit gradient r A (e_k - p)",
            "Theorem 3.3",
            _NOTEBOOK_02,
            "theory.grpo_logit_update",
            "test_theory.py::test_grpo_update_is_the_surrogate_gradient",
        ),
        Claim(
            "theorem-3.3-exact",
            "dH along e_k - p is -(S_k - E_p[S]) (SymPy, V = 2, 3, 4)",
            "Theorem 3.3",
            _NOTEBOOK_02,
            "symbolic.theorem_3_3",
            "test_symbolic.py::test_every_statement_simplifies_to_zero",
        ),
        Claim(
            "theorem-3.3-random",
            "-alpha D leaves a remainder of order alpha^2, with the second-order term of order alpha^3",
            "Theorem 3.3",
            _NOTEBOOK_02,
            "theory.grpo_second_order_change",
            "test_verification.py::test_remainders_fall_with_the_right_order",
        ),
        Claim(
            "theorem-3.3-real",
            "The LM's tokens: -alpha D predicts the exact change, its wrong twins do not",
            "Theorem 3.3",
            _NOTEBOOK_02,
            "verification.change_table",
            "test_verification.py::test_change_table_is_the_naive_recomputation",
        ),
        Claim(
            "covariance-form-exact",
            "-S . dz = -Cov_p(log p, dz) for every dz, and E_p[S] = Cov_p(p, log p) (SymPy, V = 2, 3, 4)",
            "ours, identities 2, 3",
            _NOTEBOOK_02,
            "symbolic.covariance_form",
            "test_symbolic.py::test_every_statement_simplifies_to_zero",
        ),
        Claim(
            "covariance-form-random",
            "Averaged over k ~ p, Theorem 3.3 is the covariance law of Cui et al.",
            "ours, identity 2",
            _NOTEBOOK_02,
            "theory.covariance_change",
            "test_theory.py::test_covariance_form_is_the_first_order_change",
        ),
        Claim(
            "entropy-bonus-random",
            "An entropy bonus beta H raises entropy by beta sum S^2 to first order",
            "ours, identity 5",
            _NOTEBOOK_02,
            "theory.entropy_bonus_change",
            "test_theory.py::test_entropy_bonus_follows_its_gradient",
        ),
        Claim(
            "baseline-random",
            "E_p[S] >= 0, and tokens with 0 < S < E_p[S] change sign between the theorems",
            "ours, identity 3",
            _NOTEBOOK_02,
            "theory.disagreement_band",
            "test_theory.py::test_the_band_is_where_the_theorems_disagree",
        ),
        Claim(
            "baseline-real",
            "The LM's states: more than 5 % of the mass has 0 < S < E_p[S] and changes sign",
            "ours, identity 3",
            _NOTEBOOK_02,
            "theory.disagreement_band",
            "test_theory.py::test_the_band_is_where_the_theorems_disagree",
        ),
        Claim(
            "corollary-3.4-exact",
            "E_{k~p}[S_k - E_p[S]] = 0 (SymPy, V = 2, 3, 4)",
            "Corollary 3.4",
            _NOTEBOOK_03,
            "symbolic.corollary_3_4",
            "test_symbolic.py::test_every_statement_simplifies_to_zero",
        ),
        Claim(
            "corollary-3.5-exact",
            "The sum of D over enumerated on-policy responses has expectation zero",
            "Corollary 3.5",
            _NOTEBOOK_03,
            "sampling.enumerate_sequences",
            "test_sampling.py::test_sum_over_enumerated_responses_has_zero_expectation",
        ),
        Claim(
            "corollary-3.5-random",
            "Batch means of D have expectation zero and their standard error, and shrink as 1/sqrt(n)",
            "Corollary 3.5",
            _NOTEBOOK_03,
            "sampling.batch_means",
            "test_sampling.py::test_batch_means_have_mean_zero_and_the_exact_standard_error",
        ),
        Claim(
            "corollary-3.5-real",
            "The LM's tokens: mean D within 3 standard errors of zero, mean S far from it",
            "Corollaries 3.4, 3.5",
            _NOTEBOOK_03,
            "sampling.centred_variance",
            "test_sampling.py::test_centred_variance_is_the_enumerated_variance",
        ),
        Claim(
            "corollary-3.5-training",
            "Along a GRPO run the batch means of D scatter around zero by their standard error",
            "Corollary 3.5",
            _NOTEBOOK_03,
            "tables.centred_table",
            "test_tables.py::test_centred_table_by_hand",
        ),
        Claim(
            "length-bias-exact",
            "A mean per response biases D; a mean over tokens does too, by O(1/n)",
            "ours, identity 8",
            _NOTEBOOK_03,
            "sampling.expected_batch_mean",
            "test_sampling.py::test_expected_batch_mean_against_enumeration_of_batches",
        ),
        Claim(
            "off-policy-random",
            "Stale, tempered and top-p samples bias D; weights repair the first two, not top-p",
            "ours, identity 8",
            _NOTEBOOK_03,
            "sampling.sampler_bias",
            "test_sampling.py::test_sampler_bias_is_broken_and_repaired_as_claimed",
        ),
        Claim(
            "off-policy-real",
            "The LM's states: stale, tempered and top-p samples bias D; the same repairs",
            "ours, identity 8",
            _NOTEBOOK_03,
            "sampling.sampler_bias",
            "test_sampling.py::test_sampler_bias_is_broken_and_repaired_as_claimed",
        ),
        Claim(
            "collapse-small",
            "GRPO on the small policy gains 0.15 Avg@32 on test problems and loses 60 % of its entropy",
            "the paper's premise",
            _NOTEBOOK_05,
            "grpo.update",
            "test_grpo.py::test_the_update_is_the_hand_written_gradient_step",
        ),
        Claim(
            "interventions-small",
            "Keeping only S > 0 or S < 0 tokens of one sign of A moves entropy the predicted way",
            "paper, interventions",
            _NOTEBOOK_05,
            "methods.intervention",
            "test_methods.py::test_interventions_by_hand",
        ),
        Claim(
            "interventions-control",
            "The sign of S moves entropy further than as many random tokens, in each condition",
            "ours",
            _NOTEBOOK_05,
            "methods.random_subset",
            "test_methods.py::test_random_subsets_are_uniform",
        ),
        Claim(
            "removal-small",
            "Removing such tokens moves entropy the other way, and more than removing random ones",
            "ours",
            _NOTEBOOK_05,
            "methods.intervention",
            "test_methods.py::test_interventions_by_hand",
        ),
        Claim(
            "split-by-d-small",
            "Splitting tokens by the sign of D separates rising from falling entropy, as by S",
            "ours, Theorem 3.3",
            _NOTEBOOK_05,
            "methods.intervention",
            "test_methods.py::test_interventions_by_hand",
        ),
        Claim(
            "ledger-small",
            "First order in the parameters explains the entropy changes of steps, Theorem 3.3 most of their signs",
            "ours, identity 7",
            _NOTEBOOK_05,
            "ledger.entropy_ledger",
            "test_ledger.py::test_first_order_is_exact_for_small_steps",
        ),
        Claim(
            "inert-on-policy",
            "Ratio rules change nothing on fresh responses, and something once the policy has moved",
            "the field",
            _NOTEBOOK_06,
            "methods.is_clipped",
            "test_methods.py::test_ratio_rules_do_nothing_on_a_fresh_batch",
        ),
        Claim(
            "lens-sgd",
            "The lens tells the sign of a rule's effect on one update with SGD, and ranks the rules",
            "ours, Theorem 3.3",
            _NOTEBOOK_06,
            "lens.predicted_change",
            "test_probe.py::test_for_a_tabular_policy_the_lens_is_the_first_order_of_the_loss",
        ),
        Claim(
            "lens-adam",
            "The lens ranks the rules by their effect on one update with Adam, and no clear sign is wrong",
            "ours, Theorem 3.3",
            _NOTEBOOK_06,
            "probe.run_probe",
            "test_probe.py::test_the_first_trial_is_what_the_run_does_next",
        ),
        Claim(
            "lens-full-runs",
            "Single updates predict the order of the rules' final entropies; predicted falls do not show",
            "ours",
            _NOTEBOOK_06,
            "tables.lens_table",
            "test_tables.py::test_the_lens_table_fits_one_factor_and_compares_signs",
        ),
        Claim(
            "clipped-tokens",
            "Rewarded PPO-clipped tokens are mostly likely ones with D > 0 (the paper: p up to 0.15, D < 0)",
            "paper, PPO clip",
            _NOTEBOOK_06,
            "methods.is_clipped",
            "test_methods.py::test_ppo_clip_by_hand",
        ),
        Claim(
            "top-entropy",
            "Training the 20 % of tokens of highest entropy keeps more entropy than GRPO throughout",
            "paper, selection",
            _NOTEBOOK_06,
            "methods.top_entropy",
            "test_methods.py::test_top_entropy_keeps_the_highest",
        ),
        Claim(
            "rare-positives",
            "Upweighting rare rewarded tokens ends with more entropy than GRPO",
            "paper, weighting",
            _NOTEBOOK_06,
            "methods.rare_positives",
            "test_methods.py::test_reweightings_by_hand",
        ),
        Claim(
            "released-masks-lower",
            "Late in a run, under 2 % of the tokens carry 30 % of the first-order change: those masked",
            "ours",
            _NOTEBOOK_07,
            "clipping.clip_b",
            "test_clipping.py::test_clip_b_by_hand",
        ),
        Claim(
            "clip-b-waits",
            "Clip_B at mu = 2 masks nothing early, when its threshold is at the lowest S there can be",
            "ours, identity 4",
            _NOTEBOOK_07,
            "tables.clipping_masks",
            "test_tables.py::test_masks_of_a_table_of_tokens",
        ),
        Claim(
            "two-sided-cancels",
            "Two-sided masking also takes tokens that raise entropy, and so saves less",
            "ours",
            _NOTEBOOK_07,
            "tables.masked_parts",
            "test_tables.py::test_masks_of_a_table_of_tokens",
        ),
        Claim(
            "mu-is-a-dial",
            "The smaller mu (released readings), the more entropy is left",
            "paper, Clip_B, Clip_V",
            _NOTEBOOK_07,
            "clipping.clip_v",
            "test_clipping.py::test_clip_v_judges_from_zero_and_scales_by_the_centred_deviation",
        ),
        Claim(
            "released-reading",
            "The released reading keeps more entropy and Pass@32 than the two-sided one",
            "ours",
            _NOTEBOOK_07,
            "clipping.clip_b",
            "test_clipping.py::test_the_two_sided_reading_masks_what_the_released_one_does_and_more",
        ),
        Claim(
            "released-clip-v",
            "Clip_V at the released mu = 8.5 masks no token here",
            "ours",
            _NOTEBOOK_07,
            "clipping.clip_v",
            "test_clipping.py::test_clip_v_judges_from_zero_and_scales_by_the_centred_deviation",
        ),
        Claim(
            "frontier",
            "At the same average, Clip_B has a higher Pass@32 than GRPO stopped earlier or sampled hotter",
            "ours",
            _NOTEBOOK_07,
            "tables.pass_at_matched_average",
            "test_tables.py::test_pass_at_matched_average_by_hand",
        ),
        Claim(
            "grpo-collapses",
            "GRPO gains 0.2 Avg@32 and loses 60 % of its entropy with every seed",
            "the paper's premise",
            _NOTEBOOK_08,
            "results.grpo_collapses",
            "test_results.py::test_no_collapse_no_comparison",
        ),
        Claim(
            "clip-b-diversity",
            "Clip_B keeps more entropy and a higher Pass@32 than GRPO, on both kinds of problems",
            "paper, main table",
            _NOTEBOOK_08,
            "results.keeps_diversity",
            "test_results.py::test_no_gain_no_claim",
        ),
        Claim(
            "clip-v-diversity",
            "Clip_V keeps more entropy and a higher Pass@32 than GRPO, on both kinds of problems",
            "paper, main table",
            _NOTEBOOK_08,
            "results.keeps_diversity",
            "test_results.py::test_no_gain_no_claim",
        ),
        Claim(
            "clip-b-random",
            "Masking as many random penalised tokens does not do what Clip_B does",
            "ours",
            _NOTEBOOK_08,
            "results.beats_random_mask",
            "test_results.py::test_no_gain_no_claim",
        ),
        Claim(
            "rarest-rivals",
            "Masking as many of the rarest penalised tokens has more than half of Clip_B's gain",
            "ours",
            _NOTEBOOK_08,
            "methods.matched_mask",
            "test_methods.py::test_controls_mask_as_many_tokens_of_each_sign",
        ),
        Claim(
            "average-not-raised",
            "No sign that Clip_B or Clip_V raises Avg@32 over GRPO at this scale (the paper: both do)",
            "paper, main table",
            _NOTEBOOK_08,
            "tables.paired",
            "test_tables.py::test_paired_differences_by_hand",
        ),
        Claim(
            "start-keeps-most",
            "With 64 attempts the policy before reinforcement solves more problems than after, in every arm",
            "ours",
            _NOTEBOOK_08,
            "tables.pass_curves",
            "test_tables.py::test_pass_curves_by_hand",
        ),
        Claim(
            "polarization",
            "GRPO polarizes pass rates; Clip_B and Clip_V polarize them less",
            "paper, histogram",
            _NOTEBOOK_08,
            "evaluation.polarization",
            "test_evaluation.py::test_polarization",
        ),
    )
}


@dataclass(frozen=True)
class Verdict:
    """What one cell of an executed notebook said of one claim."""

    claim: str
    holds: bool
    line: str
    cell: int
    seconds: float | None


def assert_claim(id: str, holds: bool, line: str) -> None:
    """Record the verdict on claim `id` in the notebook, then raise if it does not hold.

    Args:
        id: a key of `CLAIMS`; an unknown one raises KeyError.
        holds: the outcome of the check (bool, numpy bool or one-element tensor).
        line: the evidence in one line, with rounded numbers.

    Raises:
        AssertionError: the claim does not hold.
    """
    if id not in CLAIMS:
        raise KeyError(f"unknown claim {id!r}; add it to entropy_dynamics.claims.CLAIMS ({', '.join(CLAIMS)})")
    holds = bool(holds)
    text = f"{'HOLDS' if holds else 'FAILS'}  {id}: {line}"
    verdict = {"claim": id, "holds": holds, "line": line}
    display({VERDICT_MIME: verdict, "text/plain": text}, raw=True)
    if not holds:
        raise AssertionError(text)


def verdicts(notebook: NotebookNode) -> Iterator[Verdict]:
    """The verdicts in an executed notebook, in order; `seconds` is papermill's duration of the cell."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if VERDICT_MIME in output.get("data", {}):
                seconds = cell.metadata.get("papermill", {}).get("duration")
                yield Verdict(**output.data[VERDICT_MIME], cell=index, seconds=seconds)


def claims_table(notebook: str | None = None) -> str:
    """The map claim -> notebook -> function -> test as a Markdown table, of one notebook or of all."""
    lines = ["| claim | whose | notebook | function | test |", "|---|---|---|---|---|"]
    for claim in CLAIMS.values():
        if notebook in (None, claim.notebook):
            cells = (
                claim.statement.replace("|", "\\|"),
                claim.source,
                claim.notebook,
                f"`{claim.function}`",
                f"`{claim.test}`",
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
