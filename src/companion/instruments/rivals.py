"""What else might tell a rule's effect on entropy: predictors beside the lens, read off the same coefficients."""

from torch import Tensor

from entropy_dynamics.methods import Terms, TokenBatch


def rivals(batch: TokenBatch, terms: Terms) -> dict[str, Tensor]:
    """What each rival says of each token; its mean over the response tokens is to grow with the change of entropy.

    None of them sees a coefficient on the entropy itself, which the lens does.

    Returns:
        (N, T) by name, with c the token's coefficient of log p: dropped, 1 where a token has no coefficient at all;
        smaller, -|c|; covariance, -c (log p - mean log p), mean over the batch (arXiv 2505.22617); uncentred, -c S, as
        Theorem 3.2 has it for single logits.
    """
    c, log_p = terms.of_log_prob(batch), batch.statistics.log_prob
    dropped = (terms.weights == 0) & (terms.log_prob == 0) & (terms.entropy == 0)
    return {
        "dropped": dropped.to(c.dtype),
        "smaller": -c.abs(),
        "covariance": -c * (log_p - log_p[batch.mask].mean()),
        "uncentred": -c * batch.statistics.discriminator,
    }
