"""The statistics of sampled tokens where each process holds a part of the vocabulary (tensor-parallel heads)."""

from collections.abc import Callable

import torch
from torch import Tensor

from entropy_dynamics.backends import select
from entropy_dynamics.theory import check_largest
from entropy_dynamics.token_statistics import TokenStatistics, check_input, from_sums, gathered, log_prob_of
from entropy_dynamics.vocabulary_sums import together


def sharded_token_statistics(
    logits: Tensor,
    tokens: Tensor,
    first: int,
    *,
    gather: Callable[[Tensor], Tensor],
    temperature: float = 1.0,
    backend: str = "auto",
    curvature: bool = False,
) -> TokenStatistics:
    """`token_statistics` of the whole vocabulary, on every process, for a few numbers a state and one collective.

    Args:
        logits: (..., V_r), those of this process's words.
        tokens: (...), integer indices into the whole vocabulary, the same on all processes.
        first: the index in the whole vocabulary of this process's first word.
        gather: puts the tensors of all processes that share the vocabulary one after the other: x to
            (processes, *x.shape), or joined along the first axis.
        temperature, backend, curvature: as in `token_statistics`.

    Returns:
        `TokenStatistics`, the same on all processes; the gradient of `log_prob` flows to this process's logits. It is
        that of the whole where every process goes on to the same loss.

    Raises:
        ValueError: a token that no process has, and whatever `token_statistics` refuses; on all processes.
    """
    check_input(logits, tokens, temperature)
    places = tokens.long() - first
    inside = (places >= 0) & (places < logits.shape[-1])
    chosen = select(backend, elements=logits.numel(), device=logits.device)
    with torch.no_grad():
        largest, sums = chosen.vocabulary_sums(logits, temperature, 3 if curvature else 2)
        z_k = gathered(logits, places.where(inside, 0), temperature).where(inside, 0.0)
        own = torch.stack([largest, z_k, inside.to(z_k.dtype), *sums])
        everyone = gather(own).reshape(-1, len(own), tokens.numel())
        largest, sums = together(everyone[:, 0], everyone[:, 3:])
        z_k, owners = everyone[:, 1].sum(0).view(tokens.shape), everyone[:, 2].sum(0).view(tokens.shape)
        if (owners != 1).any():
            bad = tokens[owners != 1][0].item()
            raise ValueError(
                f"token {bad} is in the vocabulary of {int(owners[owners != 1][0])} processes, expected one"
            )
        check_largest(largest)
        largest, sums = largest.view(tokens.shape), sums.view(-1, *tokens.shape)
    log_prob = log_prob_of(logits, places.where(inside, -1), z_k, largest, sums[0].log(), temperature, backend)
    return from_sums(log_prob, sums)
