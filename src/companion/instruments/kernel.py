"""How a network carries a push from one state's logits to another's: the kernel K(s, t) = J_s J_t'.

J_s is the Jacobian (V, P) of the logits of state s with respect to all P parameters. A step of gradient ascent that
pushes the logits of each state t along g_t = c_t (e_k - p) moves those of state s by eta sum_t K(s, t) g_t. Theorem
3.3 is the case in which K(s, t) is the identity for s = t, and zero otherwise.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import transformers
from torch import Tensor

from companion.laboratory.rollout import Rollout, response_logits
from entropy_dynamics import theory


def jacobian(policy: transformers.PreTrainedModel, prompt: Tensor, response: Tensor, position: int) -> Tensor:
    """J (V, P) of the logits that predict token `position` of a response (T,) to a prompt (L,)."""
    logits = response_logits(policy, prompt.unsqueeze(0), response.unsqueeze(0))[0, position]
    parameters = list(policy.parameters())
    rows = [torch.autograd.grad(z, parameters, retain_graph=True, allow_unused=True) for z in logits]
    return torch.stack(
        [
            torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(row, parameters)])
            for row in rows
        ]
    )


def ascent_direction(policy: transformers.PreTrainedModel, rollout: Rollout, coefficients: Tensor) -> Tensor:
    """(P,): the gradient of sum c log p over the rollout's tokens, for constant coefficients (N, T)."""
    rows = (coefficients != 0).any(-1)
    groups = rows.view(len(rollout.prompts), -1).any(-1)
    rows = groups.repeat_interleave(rollout.group_size)
    logits = response_logits(policy, rollout.prompts[groups], rollout.tokens[rows])
    log_prob = logits.log_softmax(-1).gather(-1, rollout.tokens[rows].unsqueeze(-1)).squeeze(-1)
    total = (coefficients[rows] * log_prob).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(policy.parameters()))])


def contributions(
    policy: transformers.PreTrainedModel,
    rollout: Rollout,
    coefficients: Tensor,
    states: int,
    generator: torch.Generator,
) -> list[dict]:
    """Where the first-order change of single states' entropy comes from, in a step of gradient ascent on sum c log p.

    Args:
        policy: float64; the rollout is of temperature 1.
        coefficients: (N, T), c of each token.
        states: how many states with c != 0 are drawn.

    Returns:
        One row a state, in nats per unit of learning rate: theorem (-c D); own (through K(s, s)), response (through the
        other tokens of its response), group (through the other responses to its problem), others; and `alignment`, the
        cosine between K(s, s)(e_k - p) and e_k - p.
    """
    places = (coefficients != 0).nonzero()
    places = places[torch.randperm(len(places), generator=generator)[:states]]
    everywhere = ascent_direction(policy, rollout, coefficients)
    table = []
    for row, position in places.tolist():
        group = row // rollout.group_size
        j = jacobian(policy, rollout.prompts[group], rollout.tokens[row], position)
        z, k = rollout.logits[row, position], rollout.tokens[row, position]
        unit, c = theory.grpo_logit_update(z, k, 1.0), coefficients[row, position]
        own = j @ (j.T @ unit)
        of_rows = torch.zeros_like(coefficients)
        of_rows[row] = coefficients[row]
        of_groups = torch.zeros_like(coefficients)
        members = slice(group * rollout.group_size, (group + 1) * rollout.group_size)
        of_groups[members] = coefficients[members]
        moves = [c * own, *(j @ ascent_direction(policy, rollout, x) for x in (of_rows, of_groups)), j @ everywhere]
        names = ("own", "response", "group", "others")
        parts = [moves[0], *(later - earlier for earlier, later in pairwise(moves))]
        changes = {name: theory.first_order_change(z, part).item() for name, part in zip(names, parts)}
        seen = own - own.mean()
        alignment = (seen @ unit / (seen.norm() * unit.norm())).item()
        theorem = (c * theory.first_order_change(z, unit)).item()
        values = {"theorem": theorem, **changes, "alignment": alignment}
        table.append({name: float(f"{value:.5g}") for name, value in values.items()})
    return table


def norms(
    policy: transformers.PreTrainedModel, rollout: Rollout, *, problems: int = 2, responses: int = 2
) -> list[dict]:
    """How strongly states are coupled: |K(s, t)| / sqrt(|K(s, s)| |K(t, t)|), Frobenius norms, for every pair of them.

    Returns:
        One row a pair: s and t as "problem/response/position", and coupling, 0 to 1.
    """
    places = [
        (problem, response, position)
        for problem in range(problems)
        for response in range(responses)
        for position in range(rollout.tokens.shape[1])
        if rollout.mask[problem * rollout.group_size + response, position]
    ]
    jacobians = [
        jacobian(policy, rollout.prompts[problem], rollout.tokens[problem * rollout.group_size + response], position)
        for problem, response, position in places
    ]
    size = torch.tensor([[torch.linalg.matrix_norm(a @ b.T).item() for b in jacobians] for a in jacobians])
    coupling = size / size.diagonal().outer(size.diagonal()).sqrt()
    return [
        {"s": "/".join(map(str, s)), "t": "/".join(map(str, t)), "coupling": float(f"{value:.4g}")}
        for s, row in zip(places, coupling.tolist())
        for t, value in zip(places, row)
    ]
