"""The unified lens: what a rule does to entropy, predicted from its coefficients token by token.

A token whose log-probability has the coefficient c in the objective is pushed along c (e_k - p), which changes its
state's entropy by -c D per unit of effective step (Theorem 3.3); a coefficient b on the entropy itself adds
b sum_i S_i^2 (identity 5). Coefficients are whatever `methods` returns: every rule is judged by the same two formulas.
"""

import torch
from torch import Tensor

from entropy_dynamics import theory
from entropy_dynamics.methods import Terms, TokenBatch


def predicted_change(batch: TokenBatch, terms: Terms, logits: Tensor, temperature: float) -> Tensor:
    """First-order change of the entropy of each token's own state per unit of effective step, in nats.

    Args:
        logits: (N, T, V) of the policy that `batch.statistics` describe, before division by the temperature.

    Returns:
        (N, T), 0 outside the mask: -(weights r A + log_prob) D + entropy sum_i S_i^2, each state having its own logits.
    """
    change = -terms.of_log_prob(batch) * batch.statistics.centred
    if (terms.entropy != 0).any():
        change = change + theory.entropy_bonus_change(logits / temperature, terms.entropy)
    return torch.where(batch.mask, change, 0.0)
