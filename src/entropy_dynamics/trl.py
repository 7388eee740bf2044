"""Clip_B and Clip_V inside TRL's GRPOTrainer: the same training script with another config and another trainer.

TRL generates, scores and trains as always. Between scoring and training, one forward pass without gradient at the
sampling policy gives every response token's S and D, and the tokens to be masked are chosen over the generation batch:
the responses of all processes that TRL generates at once. Its masks serve all micro-batches and iterations that train
on it. Instead of a threshold `clipping_target` says where mean entropy shall stay: `control.TargetEntropy` then moves
the share of the penalised tokens that is masked, those with the lowest S or D first. A masked token keeps its value in
the loss and loses every gradient: that of the policy, which may be by way of a whole response's ratio, that of the KL
penalty and that of an entropy bonus. It still counts in the loss's denominators.
(The router loss of a mixture of experts is not one of tokens, and stays.)

The pass is TRL's own way of scoring tokens with another head, so that it sees what the trainer sees: adapters, images,
sharded and scaled heads, autocast. It runs in evaluation mode, as many responses at a time as a training step has, and
costs the time of a forward pass. There are no (T, V) logits, except `LOGITS_AT_ONCE` of them where a model caps its
logits.
"""

import contextlib
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from entropy_dynamics import clipping, global_clipping
from entropy_dynamics.control import TargetEntropy
from entropy_dynamics.linear_statistics import linear_token_statistics
from entropy_dynamics.masking_log import masking_log
from entropy_dynamics.methods import random_subset
from entropy_dynamics.token_statistics import TokenStatistics, discriminator_of, token_statistics

TESTED = ("1.15.0", "1.16.0")  # versions of TRL
LOGITS_AT_ONCE = 2**24  # where the model caps them

try:
    from trl import GRPOConfig, GRPOTrainer, __version__
    from trl.trainer import utils
except ImportError as error:
    raise ImportError(f"entropy_dynamics.trl needs TRL; run: pip install trl=={TESTED[-1]}") from error

_METHODS = {  # what is overridden or called, with its first parameters
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_per_token_logps_and_entropies": [
        *("self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy")
    ],
}
_CONTROLLER = "TargetEntropy"  # its place among the states that a checkpoint holds
_FUSED_HEAD = "_ChunkedLogProbFunction"  # in trl.trainer.utils


class _Head:
    """Stands in for TRL's fused head during the pass; the same arguments, and E_p[S] instead of log sum p^2."""

    @staticmethod
    def apply(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None,
        logit_scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[Tensor | None, ...]:
        weight, bias = (x if x is None else x.to(hidden.dtype) for x in (weight, bias))
        if final_logit_softcapping is None:
            found = linear_token_statistics(hidden, weight, targets, bias=bias, temperature=temperature / logit_scale)
            return found.log_prob, found.entropy, found.baseline, None, None
        parts = []
        for some, tokens in zip(*(x.split(max(1, LOGITS_AT_ONCE // len(weight))) for x in (hidden, targets))):
            capped = (F.linear(some, weight, bias).float() * (logit_scale / final_logit_softcapping)).tanh()
            parts.append(token_statistics(capped * final_logit_softcapping, tokens, temperature=temperature))
        found = TokenStatistics(*(None if x[0] is None else torch.cat(x) for x in zip(*parts)))
        return found.log_prob, found.entropy, found.baseline, None, None


def check_internals(trainer: type) -> None:
    """ImportError unless batches and tokens are scored, and the loss is made, where this module expects it."""
    fused = getattr(utils, _FUSED_HEAD, None)
    ours = list(inspect.signature(_Head.apply).parameters)
    same = fused is not None and list(inspect.signature(fused.forward).parameters)[1:] == ours
    for name, first in _METHODS.items():
        method = getattr(trainer, name, None)
        same = same and method and list(inspect.signature(method).parameters)[: len(first)] == first
    if not same or "self._get_per_token_logps_and_entropies(" not in inspect.getsource(trainer._compute_loss):
        raise ImportError(
            f"TRL {__version__} has changed inside GRPOTrainer: expected {', '.join(_METHODS)} and a fused head "
            f"with the parameters of the tested versions; install one of them: {', '.join(TESTED)}"
        )


check_internals(GRPOTrainer)


@dataclass
class EntropyClippingGRPOConfig(GRPOConfig):
    """GRPOConfig and which tokens lose their gradient.

    Raises:
        ValueError: an unknown method or reading; mu missing or not positive; a cap, target, effect, horizon or largest
            share outside its range; or two settings that exclude each other.
    """

    entropy_clipping: str = field(
        default="none", metadata={"help": "'clip_b', 'clip_v', or 'none' for TRL's GRPO untouched."}
    )
    mu: float | None = field(
        default=None,
        metadata={"help": "Threshold in deviations; as released 2.5 for Clip_B and 8.5 for Clip_V. No default."},
    )
    clipping_reading: str = field(
        default="released",
        metadata={"help": "'released' masks only penalised tokens far below, 'two-sided' all that are far off."},
    )
    clipping_max_fraction: float | None = field(
        default=None, metadata={"help": "Clip_V only: at most this share of the batch's tokens; 1e-4 as released."}
    )
    clipping_control: bool = field(
        default=False, metadata={"help": "Mask as many tokens of each sign of the advantage, but random ones."}
    )
    clipping_target: float | None = field(
        default=None,
        metadata={
            "help": "Instead of mu: nats of mean entropy below which it shall not stay; a share of the penalised "
            "tokens is masked, in the method's order."
        },
    )
    clipping_effect: float = field(
        default=0.02,
        metadata={
            "help": "Nats a generation batch that a share of 1 would add to mean entropy if the effect of a small "
            "share went on. A smaller value masks more for the same gap."
        },
    )
    clipping_largest_share: float = field(
        default=0.2,
        metadata={
            "help": "Of the penalised tokens that may be masked. Where more are masked than lower entropy when "
            "penalised, entropy falls again and the controller would run away."
        },
    )
    clipping_horizon: float = field(
        default=10.0, metadata={"help": "Generation batches in which a gap to the target closes."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.entropy_clipping not in ("none", *global_clipping.METHODS):
            raise ValueError(f"entropy_clipping is {self.entropy_clipping!r}, expected 'none', 'clip_b' or 'clip_v'")
        if self.entropy_clipping == "none":
            given = (self.mu, self.clipping_max_fraction, self.clipping_target, self.clipping_control or None)
            if any(x is not None for x in given):
                raise ValueError(
                    "mu, a cap, a target or a control is given, but entropy_clipping is 'none'; choose a method"
                )
            return
        if self.clipping_target is not None:
            if self.mu is not None or self.clipping_max_fraction is not None or self.clipping_reading != "released":
                raise ValueError(
                    "clipping_target takes the place of mu, a cap and a reading; leave them out, or the target"
                )
            if not self.clipping_target > 0:
                raise ValueError(
                    f"clipping_target is {self.clipping_target}, expected nats, above 0 and at most log of the "
                    "vocabulary"
                )
            self.controller(2**63)  # whatever the vocabulary; the trainer knows it
            return
        if self.mu is None or not 0 < self.mu < math.inf:
            raise ValueError(
                f"mu is {self.mu}, expected a positive number of deviations; the released values are "
                f"{clipping.CLIP_B_MU} for clip_b and {clipping.CLIP_V_MU} for clip_v"
            )
        if self.clipping_reading not in clipping.READINGS:
            raise ValueError(
                f"clipping_reading is {self.clipping_reading!r}, expected {' or '.join(clipping.READINGS)}"
            )
        fraction = self.clipping_max_fraction
        if fraction is not None and (self.entropy_clipping != "clip_v" or not 0 < fraction <= 1):
            raise ValueError(
                f"clipping_max_fraction is {fraction}, expected None, or with clip_v above 0 and at most 1"
            )

    def controller(self, vocabulary: int) -> TargetEntropy:
        """A new one, which moves the share of the penalised tokens that is masked.

        Raises:
            ValueError: a target, effect or horizon outside its range.
        """
        gains = {
            "effect": self.clipping_effect,
            "horizon": self.clipping_horizon,
            "largest": self.clipping_largest_share,
        }
        if not 0 < self.clipping_largest_share <= 1:
            raise ValueError(f"clipping_largest_share is {self.clipping_largest_share}, expected above 0 and at most 1")
        return TargetEntropy(self.clipping_target, vocabulary, **gains)


class EntropyClippingGRPOTrainer(GRPOTrainer):
    """GRPOTrainer with Clip_B or Clip_V; its arguments are GRPOTrainer's, `args` an `EntropyClippingGRPOConfig`.

    Logs, besides TRL's, each under entropy_clipping/: mean and deviation of S and of D, cov_a_d, the masked shares of
    the tokens with A > 0 and with A < 0, and the predicted change of mean entropy per unit of effective step before and
    after masking (-mean A D); with a target the mean entropy and the share that it masks. The controller's state is in
    the trainer's, which checkpoints hold.
    """

    _gradient_at: Tensor | None = None  # while a loss is made: which tokens (B, T) have a gradient

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not isinstance(self.args, EntropyClippingGRPOConfig):
            raise TypeError(f"args is a {type(self.args).__name__}, expected an EntropyClippingGRPOConfig")
        if self.args.clipping_target is not None:
            self._controller()  # refuses a target above log V

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.args.entropy_clipping == "none" or not self.model.training:
            return output
        mask = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask = mask & output["tool_mask"].bool()
        advantages = output["advantages"].unsqueeze(1).expand(mask.shape)
        output["kept"] = self._kept(self._sampled_statistics(output), advantages, mask)
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._gradient_at = inputs.get("kept")
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._gradient_at = None

    def _get_per_token_logps_and_entropies(
        self, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        *of_tokens, of_batch = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if (at := self._gradient_at) is not None:
            of_tokens = [x if x is None else x.where(at, x.detach()) for x in of_tokens]
        return *of_tokens, of_batch

    @torch.no_grad()
    def _sampled_statistics(self, output: dict[str, Any]) -> TokenStatistics:
        """The statistics of the response tokens (B, T) under the policy that is about to be trained."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        length, baselines = output["completion_ids"].shape[1], []
        scoring = inspect.signature(super()._get_per_token_logps_and_entropies).parameters
        images = {name: value for name, value in output.items() if name in scoring}
        hook = self.model.register_forward_hook(
            lambda model, inputs, found: baselines.append(found.log_sum_sq_probs[:, -length:])
        )
        with hook, _evaluating(self.model), mock.patch.object(utils, _FUSED_HEAD, _Head):
            log_prob, entropy, _ = self._get_per_token_logps_and_entropies(
                self.model,
                ids,
                attention,
                length,
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
                **images,
            )
        return TokenStatistics(log_prob, entropy, discriminator_of(log_prob, entropy), torch.cat(baselines))

    def _kept(self, statistics: TokenStatistics, advantages: Tensor, mask: Tensor) -> Tensor:
        """Which response tokens keep their gradient; writes the logs."""
        args, accelerator = self.args, self.accelerator
        total = partial(accelerator.reduce, reduction="sum")
        of_processes = {"gather": accelerator.gather, "rank": accelerator.process_index}
        given, logs = (statistics, advantages, mask), {}
        if args.clipping_target is None:
            options = {"reading": args.clipping_reading, "max_fraction": args.clipping_max_fraction}
            judged = statistics.discriminator if args.entropy_clipping == "clip_b" else statistics.centred
            batch = global_clipping.moments(judged, mask, reduce=total)
            kept = global_clipping.keep(args.entropy_clipping, *given, batch, mu=args.mu, **options, **of_processes)
        else:
            entropy = global_clipping.moments(statistics.entropy, mask, reduce=total)
            # Without response tokens, as where all are cut and left out, there is no entropy to control.
            logs = {"entropy": entropy.mean, "share": self._share(entropy.mean) if entropy.tokens else 0.0}
            kept = global_clipping.keep_all_but(
                args.entropy_clipping, logs["share"], *given, reduce=total, **of_processes
            )
        if args.clipping_control:
            kept = self._as_many_at_random(kept, advantages, mask)
        logs |= masking_log(statistics, advantages, mask, kept, reduce=total)
        for name, value in logs.items():
            self._metrics["train"][f"entropy_clipping/{name}"].append(value)
        return kept

    def _controller(self) -> TargetEntropy:
        """As the trainer's state has it, which a checkpoint may have brought."""
        controller = self.args.controller(self.model.config.get_text_config().vocab_size)
        if (state := self.state.stateful_callbacks.get(_CONTROLLER)) is not None:
            controller.load_state_dict(state)
        return controller

    def _share(self, entropy: float) -> float:
        """Of the penalised tokens that are masked at this mean entropy; moves the controller."""
        controller = self._controller()
        share = controller.update(entropy)
        self.state.stateful_callbacks[_CONTROLLER] = controller.state_dict()
        return share

    def _as_many_at_random(self, kept: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        """The control: of each sign of A mask as many tokens of this process as the method would, but random ones."""
        seed = self.args.seed + 7919 * self._step + self.accelerator.process_index  # _step counts micro-batches
        generator = torch.Generator().manual_seed(seed)
        masked = torch.zeros_like(mask, device="cpu")
        for side in (advantages > 0, advantages < 0, advantages == 0):
            count = int((mask & side & ~kept).sum())
            masked |= random_subset((mask & side).cpu(), count, generator)
        return mask & ~masked.to(mask.device)


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout and checkpointing; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
