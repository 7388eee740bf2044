"""How much of what moves a state's entropy is its own token's doing, in batches of every size.

A step of gradient ascent on sum_t c_t log p_t changes the entropy of state s, per unit of learning rate, by the sum of
the contributions

    h(s, t) = c_t (dH_s/dtheta) . (d log p_t/dtheta) = -c_t S_s' K(s, t) (e_k - p)_t

of all tokens t, with the kernel K of `companion.instruments.kernel`. The derivative of every log p_t along dH_s/dtheta
gives all of them at once, from two passes over the batch. Neither c_t nor log p_t depends on the other problems, so
part of the problems of a batch are a smaller batch: its contributions are some of the same.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from companion.instruments.anatomy import columns, in_float64
from companion.laboratory import updates
from companion.laboratory.experiment import Experiment, Trainer
from companion.laboratory.quantities import rounded
from companion.laboratory.rollout import Rollout, response_logits
from companion.record import Record
from entropy_dynamics import theory

STEP = 1e-5  # in the space of the parameters: the central difference is good to about six digits in float64


class OwnShare(BaseModel):
    """Which policy and batch, how many of its states, and into which smaller batches it is cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Experiment = Field(description="its first batch is taken, from its start as it is")
    problems: tuple[int, ...] = Field(default=(4, 8, 16, 32, 64, 128, 256), min_length=1, description="of the batches")
    states: int = Field(default=48, ge=1, description="drawn from those that have a coefficient")

    @model_validator(mode="after")
    def _fits_its_batch(self) -> OwnShare:
        if not 1 <= min(self.problems) <= max(self.problems) <= self.experiment.prompts:
            raise ValueError(f"problems is {self.problems}, expected 1 to {self.experiment.prompts}, the batch's")
        if self.experiment.temperature != 1:
            raise ValueError(f"the experiment's temperature is {self.experiment.temperature}, expected 1")
        return self


def run_own_share(config: OwnShare, weights: dict[str, Tensor]) -> Record:
    """Take the changes of drawn states apart.

    Returns:
        A record whose document holds by columns, contributions in nats per unit of learning rate,

        - `states`: state (0, 1, ...), theorem (-c D of its token), own (h(s, s)), response and group (the sums over the
          other tokens of its response, and over the other responses to its problem);
        - `batches`: state, problems, tokens (with a coefficient, its own included), others (the sum over other
          problems), absolute and squares (the sums of |h| and h^2 over all tokens): one row a state and batch size;
        - `policy`: parameters, reward (mean of the batch) and entropy (nats, mean over its states), one row.
    """
    trainer = Trainer(config.experiment, weights)
    generator = torch.Generator().manual_seed(config.experiment.seed)
    _, rollout, rewards = trainer.rollout()
    policy = in_float64(copy.deepcopy(trainer.policy))
    with torch.no_grad():
        rollout = dataclasses.replace(rollout, logits=response_logits(policy, rollout.prompts, rollout.tokens))
    batch, _ = updates.observe(policy, rollout, rewards.double(), config.experiment.step)
    coefficients = config.experiment.step.rule(batch, generator).of_log_prob(batch)
    theorem = -coefficients * batch.statistics.centred
    places = (coefficients != 0).nonzero()
    places = places[torch.randperm(len(places), generator=generator)[: config.states]]
    states, batches = [], []
    for state, (row, position) in enumerate(places.tolist()):
        all_h = contributions_of_tokens(policy, rollout, coefficients, row, position)
        order = torch.randperm(len(rollout.prompts), generator=generator)
        group = row // rollout.group_size
        parts = of_parts(all_h, row, position, rollout.group_size)
        states.append({"state": state, "theorem": rounded(theorem[row, position].item())} | parts)
        order = torch.cat([torch.tensor([group]), order[order != group]])
        for size in config.problems:
            rows = torch.isin(torch.arange(len(all_h)) // rollout.group_size, order[:size])
            sums = of_batch(all_h[rows], parts)
            batches.append({"state": state, "problems": size, "tokens": int((coefficients[rows] != 0).sum())} | sums)
    about = {
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
        "reward": rounded(rewards.mean().item()),
        "entropy": rounded(theory.entropy(rollout.logits)[rollout.mask].mean().item()),
    }
    return Record({"states": columns(states), "batches": columns(batches), "policy": columns([about])})


def contributions_of_tokens(
    policy: transformers.PreTrainedModel, rollout: Rollout, coefficients: Tensor, row: int, position: int
) -> Tensor:
    """h(s, t) of the state at (row, position) for every token t; (N, T), nats per unit of learning rate.

    Args:
        policy: float64; it comes back as it was.
        coefficients: (N, T), c of each token.
    """
    parameters = list(policy.parameters())
    prompt = rollout.prompts[row // rollout.group_size]
    logits = response_logits(policy, prompt.unsqueeze(0), rollout.tokens[row].unsqueeze(0))[0, position]
    found = torch.autograd.grad(theory.entropy(logits), parameters)
    size = torch.nn.utils.get_total_norm(found)
    groups = (coefficients != 0).view(len(rollout.prompts), -1).any(-1)
    rows = groups.repeat_interleave(rollout.group_size)
    prompts, tokens = rollout.prompts[groups], rollout.tokens[rows]
    start = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def log_prob(share: float) -> Tensor:
        for parameter, origin, g in zip(parameters, start, found):
            parameter.copy_(origin + share * STEP * g / size)
        log_p = response_logits(policy, prompts, tokens).log_softmax(-1)
        return log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)

    try:
        slopes = (log_prob(1.0) - log_prob(-1.0)) / (2 * STEP) * size
    finally:
        with torch.no_grad():
            for parameter, origin in zip(parameters, start):
                parameter.copy_(origin)
    result = torch.zeros_like(coefficients)
    result[rows] = coefficients[rows] * slopes
    return result


def of_parts(contributions: Tensor, row: int, position: int, group_size: int) -> dict[str, float]:
    """Own, and the sums of the other tokens of the response and of the other responses to the problem.

    Args:
        contributions: (N, T), of the state at (row, position).
    """
    own = contributions[row, position].item()
    response = contributions[row].sum().item()
    first = row - row % group_size
    group = contributions[first : first + group_size].sum().item()
    return {"own": rounded(own), "response": rounded(response - own), "group": rounded(group - response)}


def of_batch(contributions: Tensor, parts: dict[str, float]) -> dict[str, float]:
    """Others (the sum but for the parts), absolute and squares of the contributions (N, T) of a batch."""
    return {
        "others": rounded(contributions.sum().item() - sum(parts.values())),
        "absolute": rounded(contributions.abs().sum().item()),
        "squares": rounded(contributions.square().sum().item()),
    }
