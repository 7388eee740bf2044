"""Every rule on a batch small enough to check by eye."""

import math
from dataclasses import replace

import pytest
import torch

from entropy_dynamics import methods
from entropy_dynamics.methods import RULES, Terms, TokenBatch, as_terms, random_subset
from entropy_dynamics.token_statistics import TokenStatistics

# Rows: A > 0, A < 0, A = 0. The last column is behind the end of the response and holds what must not matter.
P = torch.tensor([[0.9, 0.1, 0.4, 0.5], [0.8, 0.05, 0.4, 0.5], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
R = torch.tensor([[1.0, 1.5, 0.5, 9.0], [1.5, 0.5, 1.0, 9.0], [1.0, 1.0, 1.0, 9.0]], dtype=torch.float64)
H = torch.tensor([[0.3, 1.2, 1.0, 9.0], [0.6, 1.1, 0.9, 9.0], [0.7, 0.8, 0.2, 9.0]], dtype=torch.float64)
S = P * (H + P.log())
E = torch.full((3, 4), 0.05, dtype=torch.float64)
A = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64).unsqueeze(-1).expand(3, 4)
REWARDS = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).unsqueeze(-1).expand(3, 4)
MASK = torch.tensor([[True, True, True, False]] * 3)
CLIPPED = torch.tensor([[False, True, False, False], [False, True, False, False], [False] * 4])  # r 1.5 up, r 0.5 down


def batch(ratio=R, **settings):
    now = TokenStatistics(P.log(), H, S, E)
    old = TokenStatistics(P.log() - ratio.log(), H / torch.where(ratio == 1.5, 1.2, 1.0), S, E)
    groups = torch.zeros(3, dtype=torch.long)
    return TokenBatch(now, old, A, REWARDS, MASK, groups, **settings)


BATCH, FRESH = batch(), batch(torch.ones_like(R))


def test_a_batch_whose_shapes_would_broadcast_is_refused():
    for name, value, message in (
        ("advantages", A[:, 0], r"advantages have shape \(3,\), expected \(3, 4\) like the mask; expand"),
        ("advantages", A[:, :1], r"advantages have shape \(3, 1\)"),
        ("rewards", REWARDS[:, 0], r"rewards have shape \(3,\)"),
        ("groups", torch.zeros(3, 1), r"groups have shape \(3, 1\), expected \(3,\)"),
        ("advantages", A * torch.nan, "advantages of some response tokens are not finite"),
        ("mask", MASK.double(), "expected a bool mask"),
        ("old", BATCH.old._replace(log_prob=BATCH.old.log_prob * torch.nan), "statistics of some response tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(BATCH, **{name: value})


def terms(name, *, on=BATCH, seed=0, **options):
    result = RULES[name](on, torch.Generator().manual_seed(seed), **options)
    return result if isinstance(result, Terms) else as_terms(on, result)


def weights(name, **arguments):
    result = terms(name, **arguments)
    assert not result.log_prob.any() and not result.entropy.any()
    return result.weights.where(MASK, 0.0)


def keep(*dropped):
    kept = MASK.clone()
    for place in dropped:
        kept[place] = False
    return kept.double()


def test_ppo_clip_by_hand():
    assert torch.equal(weights("grpo"), (MASK & ~CLIPPED).double())
    assert torch.equal(weights("grpo", clip_high=0.6), keep((1, 1)))
    assert torch.equal(weights("grpo", clip_low=0.6), keep((0, 1)))
    assert torch.equal(weights("grpo", on=FRESH), MASK.double())


def test_on_policy_makes_no_second_update():
    assert torch.equal(weights("on_policy", on=FRESH), MASK.double())
    assert not weights("on_policy", on=batch(update=1)).any()


def test_interventions_by_hand():
    def kept(advantage, statistic, sign):
        options = {"action": "keep", "advantage": advantage, "statistic": statistic, "sign": sign}
        return weights("intervention", on=FRESH, **options).nonzero().tolist()

    # S: 0.175, -0.110, 0.033 with A > 0 and 0.301, -0.095, -0.007 with A < 0; D is 0.05 less
    assert kept("positive", "S", "above") == [[0, 0], [0, 2]]
    assert kept("positive", "S", "below") == [[0, 1]]
    assert kept("negative", "S", "above") == [[1, 0]]
    assert kept("negative", "S", "below") == [[1, 1], [1, 2]]
    assert kept("positive", "D", "above") == [[0, 0]]
    assert kept("positive", "D", "below") == [[0, 1], [0, 2]]
    options = {"advantage": "negative", "statistic": "S", "sign": "below"}
    assert torch.equal(weights("intervention", on=FRESH, action="remove", **options), keep((1, 1), (1, 2)))
    random = weights("intervention", on=FRESH, action="keep", at_random=True, **options)
    assert random.sum() == 2 and random[1, :3].sum() == 2
    random = weights("intervention", on=FRESH, action="remove", at_random=True, **options)
    assert random.sum() == MASK.sum() - 2 and random[1, :3].sum() == 1


def test_clipping_methods_mask_on_top_of_ppo():
    # S over the nine tokens: mean 0.012, deviation 0.157; z of (1, 1) is -0.68 deviations, of (1, 2) -0.12
    values = S[MASK]
    z = (S[1, 1] - values.mean()) / values.std(correction=0)
    assert torch.equal(weights("clip_b", on=FRESH, mu=-z.item() - 0.01), keep((1, 1)))
    assert torch.equal(weights("clip_b", on=FRESH, mu=-z.item() + 0.01), keep())
    assert torch.equal(weights("clip_b", mu=0.1), (MASK & ~CLIPPED).double() * keep((1, 1), (1, 2)))
    d = S[1, 1] - 0.05
    assert torch.equal(weights("clip_v", on=FRESH, mu=(-d / values.std(correction=0)).item() - 0.01), keep((1, 1)))
    capped = weights("clip_v", on=FRESH, mu=0.2, max_fraction=1e-4)
    assert torch.equal(capped, keep((1, 1)))  # of the two that Clip_V masks without the cap


@pytest.mark.parametrize("reading", ["released", "two-sided"])
def test_controls_mask_as_many_tokens_of_each_sign(reading):
    for like in ("clip_b", "clip_v"):
        method = weights(like, on=FRESH, mu=0.5, reading=reading)
        for choice in ("random", "rarest"):
            options = {"like": like, "mu": 0.5, "reading": reading, "choice": choice}
            control = weights("matched_mask", on=FRESH, **options)
            assert torch.equal(control.sum(-1), method.sum(-1))
    rarest = weights("matched_mask", on=FRESH, like="clip_b", mu=0.1, choice="rarest")
    assert torch.equal(rarest, keep((1, 1), (1, 2)))
    draws = {
        str(weights("matched_mask", on=FRESH, seed=seed, like="clip_b", mu=0.5, choice="random")) for seed in range(20)
    }
    assert len(draws) == 3  # one of three penalised tokens


def test_a_share_of_the_penalised_tokens_by_each_statistic():
    # The penalised tokens are row 1: S 0.301, -0.095, -0.007; p 0.8, 0.05, 0.4; A as if their rewards had differed.
    advantages = A.clone()
    advantages[1] = torch.tensor([-0.5, -0.3, -3.0, -2.0])
    baseline = E.clone()
    baseline[1] = torch.tensor([0.35, 0.05, 0.1, 0.05])  # D -0.049, -0.145, -0.107; A D 0.024, 0.043, 0.320
    now = FRESH.statistics._replace(baseline=baseline)
    on = replace(FRESH, statistics=now, old=now, advantages=advantages)
    c = (advantages - advantages[MASK].mean()) * (P.log() - P.log()[MASK].mean())
    orders = {
        "S": [1, 2, 0],
        "D": [1, 2, 0],
        "A D": [2, 1, 0],
        "p": [1, 2, 0],
        "covariance": c[1, :3].argsort(descending=True).tolist(),
    }
    assert orders["covariance"] not in (orders["S"], orders["A D"])
    for statistic, order in orders.items():
        for count in range(4):
            result = weights("masked_share", on=on, statistic=statistic, share=count / 3)
            assert torch.equal(result, keep(*((1, i) for i in order[:count]))), statistic
    assert torch.equal(
        weights("masked_share", statistic="D", share=0.0), (MASK & ~CLIPPED).double()
    )  # PPO's clip stays
    draws = {str(weights("masked_share", on=FRESH, seed=s, statistic="random", share=0.4)) for s in range(20)}
    assert draws == {str(keep((1, i))) for i in range(3)}  # round(0.4 3) = 1 of the three
    with_bonus = terms("masked_share", on=FRESH, statistic="random", share=0.0, coefficient=0.2)
    assert torch.equal(with_bonus.entropy, 0.2 * MASK) and torch.equal(with_bonus.weights, MASK.double())
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="share is"):
            terms("masked_share", statistic="D", share=share)


def test_the_kl_to_a_reference_is_the_gradient_of_its_estimate():
    reference = P.log() + torch.tensor([0.3, -0.2, 0.0, torch.nan], dtype=torch.float64)
    result = terms("reference_kl", on=replace(BATCH, reference=reference), coefficient=0.5)
    log_p = P.log().requires_grad_()
    d = (reference - log_p)[MASK]
    (-0.5 * (d.exp() - d - 1)).sum().backward()
    assert torch.allclose(result.log_prob, log_p.grad)
    assert torch.equal(result.weights, (MASK & ~CLIPPED).double())
    with pytest.raises(ValueError, match="needs the batch's reference"):
        terms("reference_kl", coefficient=0.5)


def test_sign_weights_shift_weight_from_rewards_to_penalties():
    expected = torch.tensor([[0.75], [1.25], [1.0]], dtype=torch.float64) * (MASK & ~CLIPPED)
    assert torch.equal(weights("sign_weights", strength=0.25), expected)


def test_top_entropy_keeps_the_highest():
    # int(0.34 * 9) = 3 of nine: H 1.2, 1.1, 1.0
    assert torch.equal(
        weights("top_entropy", on=FRESH, fraction=0.34).nonzero(), torch.tensor([[0, 1], [0, 2], [1, 1]])
    )


def covariances():
    a, log_p = A[MASK], P.log()[MASK]
    return ((A - a.mean()) * (P.log() - log_p.mean())).where(MASK, -math.inf)


def test_clip_cov_draws_among_the_covariant_tokens():
    c = covariances()
    candidates = ((c > 0.5) & (c < 5)).nonzero().tolist()
    assert [1, 1] in candidates and len(candidates) == 2
    dropped = {
        tuple((MASK & (weights("clip_cov", seed=seed, low=0.5) == 0)).nonzero().flatten().tolist())
        for seed in range(20)
    }
    assert dropped == {tuple(place) for place in candidates}  # one at a time: max(1, int(2e-4 * 9)) = 1
    both = weights("clip_cov", low=0.5, fraction=0.5)
    assert (MASK & (both == 0)).nonzero().tolist() == candidates
    assert torch.equal(weights("clip_cov", low=50.0, high=60.0), MASK.double())  # no candidates, nothing dropped
    # with PPO's usual clip, (1, 1) is clipped already and cannot be drawn
    clipped = weights("clip_cov", low=0.5, fraction=0.5, clip=0.2)
    (other,) = [tuple(place) for place in candidates if place != [1, 1]]
    assert torch.equal(clipped, (MASK & ~CLIPPED).double() * keep(other))


def test_kl_cov_holds_the_most_covariant_tokens_near_the_old_policy():
    result = terms("kl_cov", fraction=0.23)  # int(0.23 * 9) = 2
    largest = covariances().flatten().topk(2).indices
    expected = torch.zeros(12, dtype=torch.float64)
    expected[largest] = -(R.log().sign()).flatten()[largest]
    assert torch.equal(result.log_prob, expected.view(3, 4)) and result.log_prob.any()
    assert torch.equal(result.weights, MASK.double())
    assert not terms("kl_cov", on=FRESH).log_prob.any()  # inert at r = 1


def test_reweightings_by_hand():
    old = P / R
    free = (MASK & ~CLIPPED).double()
    assert torch.allclose(weights("advantage_reweighting"), free * (0.2 * old + 0.8))
    boost = torch.where(A > 0, 1 + (1 - P), 1.0)
    assert torch.allclose(weights("rare_positives"), free * boost)
    bounded = free.clone()
    bounded[0, 1], bounded[1, 1] = 1.0 * 1.2 / 1.5, 0.75 * 0.8 / 0.5
    assert torch.allclose(weights("ce_gppo"), bounded)
    assert torch.equal(weights("entropy_ratio_clipping"), free * keep((0, 1), (1, 0)))


def gradient_of(surrogate):
    """Of sum over the mask of surrogate(r, A) by log p, r = exp(log p - log p_old)."""
    log_p = P.log().requires_grad_()
    ratio = (log_p - (P / R).log()).exp()
    surrogate(ratio, log_p)[MASK].sum().backward()
    return log_p.grad.where(MASK, 0.0)


def test_rules_without_a_hard_clip_are_the_gradients_of_their_surrogates():
    tau = torch.where(A > 0, 1.0, 1.05)
    expected = gradient_of(lambda r, log_p: 4 / tau * torch.sigmoid(tau * (r - 1)) * A)
    assert torch.allclose(terms("sapo").of_log_prob(BATCH), expected)
    expected = gradient_of(lambda r, log_p: r.detach().clamp(max=1.2) * A * log_p)
    assert torch.allclose(terms("cispo", largest_ratio=1.2).of_log_prob(BATCH), expected)
    assert torch.allclose(terms("cispo").of_log_prob(BATCH), (R * A).where(MASK, 0.0))


def test_gmpo_is_the_geometric_mean_of_the_clipped_ratios():
    def surrogate(r, log_p):  # min over signs as PPO's, the mean of a response's three tokens
        x = r.log()
        signed = torch.minimum(A.sign() * x, A.sign() * x.clamp(-0.3, 0.3)) * A.sign()
        mean = signed.where(MASK, 0.0).sum(-1, keepdim=True) / 3
        return mean.exp() * A

    expected = gradient_of(surrogate)  # a response's term stands at each of its three tokens
    found = terms("gmpo", clip_low=0.3, clip_high=0.3).of_log_prob(BATCH)
    assert torch.allclose(found, expected) and (found[:2, :3] == 0).any()
    assert not torch.allclose(terms("gmpo").of_log_prob(BATCH), expected)


def test_aspo_takes_the_reciprocal_ratio_for_rewards():
    def surrogate(r, log_p):
        up = (r / r.detach() ** 2).where(r <= 1.2, 0.0)
        return A * torch.where(A > 0, up, r.where(r >= 0.8, 0.0))

    assert torch.allclose(terms("aspo").of_log_prob(BATCH), gradient_of(surrogate))
    bounded = terms("aspo", largest_ratio=1.2).of_log_prob(BATCH)  # 1 / 0.5 at (0, 2), 1.5 at (1, 0)
    assert bounded[0, 2] == pytest.approx(1.2) and bounded[1, 0] == pytest.approx(-2 * 1.2)


def test_the_dual_clip_drops_penalties_far_above_the_old_policy():
    assert torch.equal(weights("grpo", dual_clip=1.4), (MASK & ~CLIPPED).double() * keep((1, 0)))
    assert torch.equal(weights("grpo", dual_clip=1.6), weights("grpo"))


@pytest.mark.parametrize("name", ["top_entropy", "advantage_reweighting", "entropy_ratio_clipping", "steer"])
def test_the_base_clip_can_be_that_of_the_scripts(name):
    options = {"fraction": 1.0} if name == "top_entropy" else {}
    options |= {"low": 0.1, "high": 9.0} if name == "entropy_ratio_clipping" else {}
    for clip in ({}, {"clip_high": 0.6}, {"clip_low": 0.6}):
        assert torch.equal(weights(name, **options, **clip) != 0, weights("grpo", **clip) != 0)


def test_ce_gppo_imitates_right_responses_where_asked():
    result = terms("ce_gppo", imitation=0.1)
    assert torch.equal(result.weights, terms("ce_gppo").weights) and not terms("ce_gppo").log_prob.any()
    expected = torch.zeros(3, 4, dtype=torch.float64)
    expected[0, :3] = 0.1 * 9 / 3  # of the mean over nine tokens: 0.1 times the mean over the three of the right one
    assert torch.allclose(result.log_prob, expected)


def test_entrocraft_learns_from_one_side_outside_its_bounds():
    for entropies, column in (((0.5, 0.65), None), ((0.65, 0.5), [0, -1, -1]), ((0.65, 0.75), [1, 0, 0])):
        on = replace(BATCH, entropies=entropies)
        result = terms("entrocraft", on=on)
        if column is None:
            assert torch.equal(result.weights, (MASK & ~CLIPPED).double()) and not result.log_prob.any()
        else:
            advantages = torch.tensor(column, dtype=torch.float64).unsqueeze(-1)
            clipped = ((advantages > 0) & (R > 1.2)) | ((advantages < 0) & (R < 0.8))
            assert torch.equal(result.of_log_prob(on), (R * advantages * ~clipped).where(MASK, 0.0))


def test_repo_r_keeps_the_sign_and_doubles_or_halves_its_strength():
    log_p = P.log()
    for entropies, zeta in (
        ((), 0.01),
        ((0.1,), 0.02),
        ((0.1, 0.1, 0.3), 0.02),
        ((0.1,) * 9, 0.05),
        ((0.3,) * 9, 1e-4),
    ):
        found = weights("repo_r", on=replace(FRESH, entropies=entropies), zeta=zeta if not entropies else 0.01)
        expected = torch.where(A > 0, 1 - zeta * log_p, 1 + zeta * log_p)
        assert torch.allclose(found, expected.where(MASK, 0.0)), entropies
    strong = weights("repo_r", on=FRESH, zeta=1.0)
    assert strong[1, 1] == 0 and strong[0, 1].item() == pytest.approx(1 + math.log(10))  # 1 + log 0.05 < 0


def test_w_reinforce_replaces_the_advantages():
    result = terms("w_reinforce")
    assert not result.weights.any()
    advantages = torch.tensor([[0.1], [-1.0], [-1.0]])
    expected = advantages * R * (MASK & ~CLIPPED)
    assert torch.allclose(result.of_log_prob(BATCH), expected.where(MASK, 0.0))
    assert not terms("w_reinforce", positive=0.0).log_prob[0].any()


def test_gspo_uses_the_ratio_of_the_sequence():
    s = R[:, :3].prod(-1) ** (1 / 3)  # 0.909, 0.909, 1
    free = weights("gspo", clip_low=0.2, clip_high=0.2)
    assert torch.allclose(free * R, (s.unsqueeze(-1) * MASK).double())
    assert not weights("gspo")[1].any()  # A < 0 and s < 1 - 3e-4
    assert weights("gspo")[0, :3].all()


def test_opefo_balances_rises_and_falls():
    for on in (BATCH, FRESH):
        w = weights("opefo", on=on)
        effect = (-w * on.ratio * A * (S - E)).where(MASK, 0.0)
        assert effect.sum().item() == pytest.approx(0, abs=1e-12) and effect.abs().sum() > 0.1
        scales = w[w > 0].unique()
        assert len(scales) == 3 and scales[0] + scales[2] == pytest.approx(2) and scales[1] == 1  # A = 0 keeps 1


def test_repo_shifts_the_advantage_by_the_surprise():
    result = terms("repo", beta=0.1)
    shifted = A - 0.1 * (P.log() + H)
    clipped = ((shifted > 0) & (R > 1.2)) | ((shifted < 0) & (R < 0.8))
    assert torch.allclose(result.of_log_prob(BATCH), (R * shifted * ~clipped).where(MASK, 0.0))


def test_steer_damps_the_largest_change_to_its_bound():
    w = weights("steer", on=FRESH)
    change = (A * (1 - P) * (P.log() + H)).abs().where(MASK, 0.0)
    worst = change.argmax()
    assert w.flatten()[worst].item() == pytest.approx(0.8) and w[MASK].min() == w.flatten()[worst]
    assert torch.allclose(w[MASK], 0.8 ** (change / change.max())[MASK])


def test_covariance_aware_has_mean_one_and_damps_both_tails():
    w, c = weights("covariance_aware", on=FRESH), covariances()
    assert w[MASK].mean().item() == pytest.approx(1)
    assert torch.equal(w[MASK].argsort(), (-c[MASK].abs()).argsort())


def test_entropy_bonuses():
    assert torch.equal(terms("entropy_bonus", coefficient=0.03).entropy, 0.03 * MASK)
    for entropies, coefficient in (
        ((), 0.0),
        ((0.5,), 0.0),
        ((0.1,), 0.005),
        ((0.1, 0.1, 0.1), 0.015),
        ((0.1, 0.1, 0.3), 0.0),  # above the target it does not apply
        ((0.1, 0.1, 0.3, 0.1), 0.01),
        ((0.5, 0.5, 0.1), 0.005),  # never below 0
    ):
        result = terms("adaptive_entropy_bonus", on=batch(entropies=entropies)).entropy
        assert torch.allclose(result, coefficient * MASK.double())
    bounded = terms("adaptive_entropy_bonus", on=batch(entropies=(0.1,) * 9), step=1e-3, highest=0.005).entropy
    assert torch.allclose(bounded, 0.005 * MASK.double())


def test_random_subsets_are_uniform():
    candidates = torch.tensor([[True, False, True], [True, True, False]])
    generator = torch.Generator().manual_seed(0)
    counts = sum(random_subset(candidates, 2, generator).int() for _ in range(4000))
    assert (counts[~candidates] == 0).all()
    # each of the four is chosen with probability 1/2: standard deviation 31.6
    assert (counts[candidates] - 2000).abs().max() < 150
    assert random_subset(candidates, 0, generator).sum() == 0
    assert torch.equal(random_subset(candidates, 4, generator), candidates)
    with pytest.raises(ValueError, match="count is 5, expected 0 to 4"):
        random_subset(candidates, 5, generator)


REQUIRED = {
    "clip_b": {"mu": 1.0},
    "clip_v": {"mu": 1.0},
    "matched_mask": {"like": "clip_b", "mu": 1.0, "choice": "random"},
    "masked_share": {"statistic": "A D", "share": 0.5},
    "reference_kl": {"coefficient": 0.1},
    "sign_weights": {"strength": 0.5},
    "intervention": {"action": "remove", "advantage": "negative", "statistic": "S", "sign": "below"},
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_pure_finite_and_ignores_what_lies_behind_the_end(name):
    before = torch.random.get_rng_state()
    on = replace(BATCH, reference=P.log() + 0.1)
    result = terms(name, on=on, **REQUIRED.get(name, {}))
    assert isinstance(result, Terms) and all(t.shape == MASK.shape and t.dtype == A.dtype for t in result)
    assert all(torch.equal(a, b) for a, b in zip(result, terms(name, on=on, **REQUIRED.get(name, {}))))
    assert torch.equal(before, torch.random.get_rng_state())
    changed = TokenStatistics(*(value.where(MASK, 0.123) for value in BATCH.statistics[:4]))
    other = TokenBatch(
        changed, BATCH.old, A.where(MASK, -5.0), REWARDS, MASK, BATCH.groups, reference=on.reference.where(MASK, 9.0)
    )
    again = terms(name, on=other, **REQUIRED.get(name, {}))
    for ours, theirs in zip(result, again):
        assert torch.allclose(ours.where(MASK, 0.0), theirs.where(MASK, 0.0)) and ours[MASK].isfinite().all()
    assert RULES[name].__doc__


@pytest.mark.parametrize(
    "name", ["grpo", "clip_cov", "kl_cov", "ce_gppo", "gspo", "entropy_ratio_clipping", "cispo", "sapo", "gmpo", "aspo"]
)
def test_ratio_rules_do_nothing_on_a_fresh_batch(name):
    fresh = TokenBatch(FRESH.statistics, FRESH.statistics, A, REWARDS, MASK, FRESH.groups)
    options = {"low": 50.0, "high": 60.0} if name == "clip_cov" else {}
    kept = weights(name, on=fresh, **options)
    assert torch.allclose(kept[:2], MASK.double()[:2]) and torch.isin(kept[2], torch.tensor([0.0, 1.0])).all()  # A = 0


def test_the_module_lists_all_its_rules():
    assert all(rule.__module__ == methods.__name__ for rule in RULES.values()) and len(RULES) >= 20


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("intervention", {"action": "Keep"}, "action is 'Keep', expected one of 'keep', 'remove'"),
        ("intervention", {"advantage": "pos"}, "advantage is 'pos'"),
        ("intervention", {"statistic": "s"}, "statistic is 's', expected one of 'S', 'D'"),
        ("intervention", {"sign": "up"}, "sign is 'up'"),
        ("matched_mask", {"like": "clipb"}, "like is 'clipb'"),
        ("matched_mask", {"choice": "rare"}, "choice is 'rare'"),
        ("masked_share", {"statistic": "d"}, "statistic is 'd'"),
    ],
)
def test_a_misspelt_option_is_refused(rule, options, message):
    good = {
        "intervention": {"action": "keep", "advantage": "positive", "statistic": "S", "sign": "above"},
        "matched_mask": {"like": "clip_b", "mu": 1.0, "choice": "random"},
        "masked_share": {"statistic": "D", "share": 0.1},
    }[rule]
    weights(rule, **good)
    with pytest.raises(ValueError, match=message):
        weights(rule, **good | options)
