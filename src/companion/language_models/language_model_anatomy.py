"""Single training steps of a real language model taken apart, as `anatomy` does with the small policy's.

The responses are given, and each response's advantage is drawn, +1 or -1: what is asked is how entropy answers a step,
not what is learned. A step ascends the mean of A log p over the drawn half of a batch's tokens.
"""

from __future__ import annotations

import torch
import transformers
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from companion.instruments.anatomy import (
    NEVER,
    Trial,
    changes_along,
    columns,
    effective_step,
    in_float64,
    make_optimizer,
    summarise,
)
from companion.language_models.language_model import SMOLLM2, Responses, load_language_model, teacher_force
from companion.mathematics.remainder import trust_radius
from companion.record import Record
from entropy_dynamics import theory
from entropy_dynamics.token_statistics import token_statistics

Pair = tuple[tuple[int, ...], tuple[int, ...]]  # prompt and response


class LanguageModelAnatomy(BaseModel):
    """Which responses, and which steps are made from each batch of them; the model stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = SMOLLM2
    batches: tuple[tuple[Pair, ...], ...] = Field(min_length=1, description="responses that are trained on")
    unseen: tuple[Pair, ...] = Field(min_length=1, description="responses to other prompts")
    trials: dict[str, Trial] = Field(min_length=1, description="with GRPO's own rule; the optimizers have no history")
    updated: float = Field(default=0.5, gt=0, le=1, description="share of the tokens that a step may use")
    kept_states: int = Field(default=48, ge=1, description="states of each kind, batch and trial in the record")
    seed: int = Field(default=0, ge=0, description="of advantages and drawn tokens")


def batches_of(responses: Responses, *, batches: int, size: int, max_tokens: int) -> tuple[tuple[Pair, ...], ...]:
    """The first responses in batches, each cut to `max_tokens`."""
    pairs = [(tuple(p), tuple(r[:max_tokens])) for p, r in zip(responses.prompt_ids, responses.response_ids)]
    if len(pairs) < batches * size:
        raise ValueError(f"need {batches * size} responses, got {len(pairs)}")
    return tuple(tuple(pairs[i * size : (i + 1) * size]) for i in range(batches))


def run_language_model_anatomy(config: LanguageModelAnatomy) -> Record:
    """Take steps apart; the record's `batches` and `states` are those of `anatomy.run_anatomy`, `at` the batch."""
    policy = in_float64(load_language_model(config.model)[0])
    generator = torch.Generator().manual_seed(config.seed)
    tables: dict[str, list[dict]] = {"batches": [], "states": []}
    for number, pairs in enumerate(config.batches):
        for name, rows in _take_apart(config, policy, pairs, generator).items():
            tables[name] += [{"at": number} | row for row in rows]
    document = {name: columns(rows) for name, rows in tables.items()}
    return Record(document)


def _take_apart(
    config: LanguageModelAnatomy,
    policy: transformers.PreTrainedModel,
    pairs: tuple[Pair, ...],
    generator: torch.Generator,
) -> dict[str, list[dict]]:
    parameters = list(policy.parameters())
    lengths = torch.tensor([len(response) for _, response in pairs])
    advantages = 2.0 * torch.randint(2, lengths.shape, generator=generator).double() - 1
    drawn = torch.rand(int(lengths.sum()), generator=generator) < config.updated
    coefficients = advantages.repeat_interleave(lengths) * drawn
    logits, tokens = teacher_force(policy, pairs)
    log_prob = token_statistics(logits, tokens).log_prob
    gradients = torch.autograd.grad(-(coefficients * log_prob).sum() / len(tokens), parameters)
    logits = logits.detach()
    theorem = -coefficients * token_statistics(logits, tokens).centred
    pushed = coefficients != 0
    batches, states = [], []
    for name, trial in config.trials.items():
        seen: list[Tensor] = []

        def entropies(seen: list[Tensor] = seen) -> Tensor:
            seen.append(teacher_force(policy, pairs)[0])
            return torch.cat([theory.entropy(z) for z in (seen[-1], teacher_force(policy, config.unseen)[0])])

        changes = changes_along(parameters, _step(parameters, gradients, trial), entropies)
        before, after = seen[:2]
        effective = effective_step(logits, tokens, after - before)

        def describe(chosen: Tensor, effective=effective) -> dict[str, Tensor]:
            values = {"coefficient": coefficients} | effective
            radius = trust_radius(logits[pushed][chosen], tokens[pushed][chosen])
            return {n: x[pushed][chosen] for n, x in values.items()} | {"radius": radius.clamp(max=NEVER)}

        elsewhere = torch.zeros(len(changes.first) - len(tokens), dtype=torch.bool)
        for kind, mask, more in (
            ("updated", torch.cat([pushed, elsewhere]), (describe,)),
            ("same responses", torch.cat([~pushed, elsewhere]), ()),
            ("unseen problems", torch.cat([torch.zeros_like(pushed), ~elsewhere]), ()),
        ):
            own = torch.cat([theorem, torch.zeros(len(elsewhere), dtype=theorem.dtype)])
            values = {n: x[mask] for n, x in ({"theorem": own} | changes._asdict()).items()}
            summarise(batches, states, {"trial": name, "kind": kind}, values, config.kept_states, generator, *more)
    return {"batches": batches, "states": states}


def _step(parameters: list[Tensor], gradients: tuple[Tensor, ...], trial: Trial) -> list[Tensor]:
    """The change of each parameter that a trial makes of the gradients; the parameters stay as they are."""
    twins = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    optimizer = make_optimizer(trial, twins)
    for twin, gradient in zip(twins, gradients):
        twin.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(twins, trial.max_grad_norm or torch.inf)
    optimizer.step()
    return [(twin - parameter).detach() for twin, parameter in zip(twins, parameters)]
