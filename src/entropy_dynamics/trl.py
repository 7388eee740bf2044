"""Clip_B and Clip_V inside TRL's GRPOTrainer: the same training script with another config and another trainer.

TRL generates, scores and trains as always. Between scoring and training, one forward pass without gradient at the
sampling policy gives every response token's S and D; the tokens to be masked are chosen over the whole batch of all
processes, and their advantages become zero. Masks are made once for a batch of responses, and serve all its
micro-batches and iterations. The denominator of TRL's loss stays as it is: masked tokens still count in it.
"""

import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from entropy_dynamics import clipping, global_clipping
from entropy_dynamics.methods import random_subset
from entropy_dynamics.token_statistics import TokenStatistics, token_statistics

TESTED = ("1.14.2", "1.16.0")  # versions of TRL
LOGITS_AT_ONCE = 2**27  # of the forward pass that the statistics come from

try:
    from trl import GRPOConfig, GRPOTrainer, __version__
except ImportError as error:
    raise ImportError(f"entropy_dynamics.trl needs TRL; run: pip install trl=={TESTED[-1]}") from error


def check_internals(trainer: type) -> None:
    """ImportError unless the trainer still scores batches, and takes advantages per token, where this expects it."""
    scores = getattr(trainer, "_generate_and_score_completions", None)
    loss = getattr(trainer, "_compute_loss", None)
    moved = scores is None or list(inspect.signature(scores).parameters) != ["self", "inputs"]
    if moved or loss is None or "advantages.dim() == 1" not in inspect.getsource(loss):
        raise ImportError(
            f"TRL {__version__} has changed inside GRPOTrainer: expected _generate_and_score_completions(self, inputs) "
            "and a _compute_loss that takes advantages per token; install one of the tested versions: "
            + ", ".join(TESTED)
        )


check_internals(GRPOTrainer)


@dataclass
class EntropyClippingGRPOConfig(GRPOConfig):
    """GRPOConfig and which tokens lose their gradient.

    Raises:
        ValueError: an unknown method or reading, mu missing or not positive, or a loss that weighs whole responses by
            the sign of their advantage.
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

    def __post_init__(self):
        super().__post_init__()
        if self.entropy_clipping not in ("none", *global_clipping.METHODS):
            raise ValueError(f"entropy_clipping is {self.entropy_clipping!r}, expected 'none', 'clip_b' or 'clip_v'")
        if self.entropy_clipping == "none":
            return
        if self.mu is None or not self.mu > 0:
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
        if self.loss_type == "vespo" or self.off_policy_mask_threshold is not None:
            raise ValueError(
                "loss_type 'vespo' and off_policy_mask_threshold weigh a response by the sign of its advantage, which "
                "masked tokens do not have; leave them out with entropy_clipping"
            )


class EntropyClippingGRPOTrainer(GRPOTrainer):
    """GRPOTrainer with Clip_B or Clip_V; its arguments are GRPOTrainer's, `args` an `EntropyClippingGRPOConfig`.

    Logs, besides TRL's, each under entropy_clipping/: mean and deviation of S and of D, cov_a_d, the masked shares of
    the tokens with A > 0 and with A < 0, and the predicted change of mean entropy per unit of effective step before and
    after masking (-mean A D).
    """

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.args.entropy_clipping == "none" or not self.model.training:
            return output
        mask = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask = mask & output["tool_mask"].bool()
        statistics = self._sampled_statistics(output)
        advantages = output["advantages"].unsqueeze(1).expand(mask.shape)
        kept = self._kept(statistics, advantages, mask)
        output["advantages"] = advantages.where(kept, 0.0)
        return output

    @torch.no_grad()
    def _sampled_statistics(self, output: dict[str, Any]) -> TokenStatistics:
        """The statistics of the response tokens (B, T) under the policy that is about to be trained."""
        if "pixel_values" in output:
            raise ValueError("entropy_clipping does not see images; train with text, or with entropy_clipping='none'")
        tokens = output["completion_ids"]
        ids = torch.cat([output["prompt_ids"], tokens], 1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        length = tokens.shape[1] + 1  # one logit more than tokens, since each token's stand at the position before it
        # Sharded parameters are gathered anew for every pass, so all processes must make as many: the number of rows
        # comes from the longest response there may be, not from the longest that this process has.
        longest = self.max_completion_length or LOGITS_AT_ONCE
        rows = max(1, LOGITS_AT_ONCE // (longest * self.model.config.get_text_config().vocab_size))
        parts = []
        for start in range(0, len(tokens), rows):
            some = slice(start, start + rows)
            with self.accelerator.autocast():
                logits = self.model(ids[some], attention_mask=attention[some], logits_to_keep=length).logits[:, :-1]
            parts.append(token_statistics(logits, tokens[some], temperature=self.temperature))
        return TokenStatistics(*(None if x[0] is None else torch.cat(x) for x in zip(*parts)))

    def _kept(self, statistics: TokenStatistics, advantages: Tensor, mask: Tensor) -> Tensor:
        """Which response tokens keep their advantage; writes the logs."""
        args, accelerator = self.args, self.accelerator
        total = partial(accelerator.reduce, reduction="sum")
        batch = global_clipping.moments(statistics, advantages, mask, reduce=total)
        kept = global_clipping.keep(
            args.entropy_clipping,
            statistics,
            advantages,
            mask,
            batch,
            mu=args.mu,
            reading=args.clipping_reading,
            max_fraction=args.clipping_max_fraction,
            gather=accelerator.gather,
            rank=accelerator.process_index,
        )
        if args.clipping_control:
            kept = self._as_many_at_random(kept, advantages, mask)
        predicted = -(advantages * statistics.centred).double()
        sides = [mask & (advantages > 0), mask & (advantages < 0)]
        counts = [(side & ~kept).sum() for side in sides] + [side.sum() for side in sides]
        sums = torch.stack([predicted[mask].sum(), predicted[kept].sum(), *(count.double() for count in counts)])
        before, after, *counts = total(sums).tolist()
        logs = {
            "mean_s": batch.mean_s,
            "sigma_s": batch.sigma_s,
            "mean_d": batch.mean_d,
            "sigma_d": batch.sigma_d,
            "cov_a_d": batch.cov_a_d,
            "masked_positive": counts[0] / max(1.0, counts[2]),
            "masked_negative": counts[1] / max(1.0, counts[3]),
            "predicted_change_unmasked": before / max(1, batch.tokens),
            "predicted_change": after / max(1, batch.tokens),
        }
        for name, value in logs.items():
            self._metrics["train"][f"entropy_clipping/{name}"].append(value)
        return kept

    def _as_many_at_random(self, kept: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        """The control: of each sign of A mask as many tokens of this process as the method would, but random ones."""
        seed = self.args.seed + 7919 * self.state.global_step + self.accelerator.process_index
        generator = torch.Generator().manual_seed(seed)
        masked = torch.zeros_like(mask, device="cpu")
        for side in (advantages > 0, advantages < 0, advantages == 0):
            count = int((mask & side & ~kept).sum())
            masked |= random_subset((mask & side).cpu(), count, generator)
        return mask & ~masked.to(mask.device)
