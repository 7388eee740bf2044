"""Clip_B and Clip_V inside verl's synchronous V1 trainer, as a plug-in: verl imports it where the environment variable
VERL_USE_EXTERNAL_MODULES names it, `trainer.v1.trainer_mode=sync_entropy_clipping` chooses its trainer, and the keys of
`Settings` stand under `entropy_clipping`. docs/verl.md has the lines.

verl scores every response at the policy that is about to be trained, once a batch. The engine here takes H, S and
E_p[S] of each token from the logits of that same forward pass, in float32 whatever the logits are, and the trainer
chooses what is masked over the whole batch when verl has computed the advantages. A masked token's advantage is zero:
it has no gradient of the policy loss and keeps its place in the loss's denominators, and its gradients of a KL loss and
of an entropy bonus. What a critic learns from, the returns, stays as it is.
"""

import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from entropy_dynamics import clipping, global_clipping
from entropy_dynamics.control import TargetEntropy
from entropy_dynamics.masking_log import masking_log
from entropy_dynamics.token_statistics import TokenStatistics, token_statistics

TESTED = ("0.9.1",)  # versions of verl

try:
    import transfer_queue as tq
    from omegaconf import DictConfig, OmegaConf, open_dict
    from tensordict import TensorDict
    from torch.distributed.tensor import DTensor
    from verl import __version__
    from verl.trainer.ppo.v1.trainer_base import register_trainer
    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
    from verl.utils import tensordict_utils as tu
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
    from verl.workers.utils.padding import response_from_nested
except ImportError as error:
    raise ImportError(
        f"entropy_dynamics.verl needs verl's V1 trainer ({error}); run: pip install 'verl[verl-core]=={TESTED[-1]}'"
    ) from error

MODE = "sync_entropy_clipping"  # of trainer.v1.trainer_mode
MODEL_TYPE = "language_model_entropy_clipping"  # by which workers find the engine
STRATEGIES = ("fsdp", "fsdp2")
ADVANTAGES_MIXED = ("clip_cov", "kl_cov", "geo_mean", "dro", "bypass_mode")  # losses where A = 0 leaves a gradient
_FIELDS = ("entropy", "discriminator", "baseline")  # of TokenStatistics
_PREFIX = "entropy_clipping_"  # of their names in the TransferQueue
_STATE = "entropy_clipping.json"  # the controller's, in a checkpoint's folder
_METHODS = {  # what is overridden or called, with its parameters
    (PPOTrainerSync, "_compute_advantage"): ["self", "batch", "metrics"],
    (PPOTrainerSync, "_init_tokenizer"): ["self"],
    (PPOTrainerSync, "_save_checkpoint"): ["self"],
    (PPOTrainerSync, "_load_checkpoint"): ["self"],
    (FSDPEngineWithLMHead, "prepare_model_outputs"): [
        *("self", "output", "output_args", "micro_batch", "logits_processor_func")
    ],
    (FSDPEngineWithLMHead, "_gather_and_unpad_packed"): ["self", "tensor", "pad_size"],
}


def check_internals() -> None:
    """ImportError unless verl scores tokens and computes advantages where this module expects it."""
    for (owner, name), parameters in _METHODS.items():
        method = getattr(owner, name, None)
        if method is None or list(inspect.signature(method).parameters) != parameters:
            raise ImportError(
                f"verl {__version__} has changed {owner.__name__}.{name}, expected the parameters "
                f"{', '.join(parameters)}; install a tested version: {', '.join(TESTED)}"
            )


check_internals()


@dataclass(frozen=True)
class Settings:
    """The keys under `entropy_clipping`: a method with mu as in `clipping`, or with a target as in `control`.

    Args:
        method: "clip_b" or "clip_v".
        mu: threshold in deviations; no default.
        reading: "released" or "two-sided".
        max_fraction: Clip_V only, at most this share of the batch's response tokens.
        target: instead of mu, nats of mean entropy below which it shall not stay; a share of the penalised tokens is
            masked, in the method's order.
        effect, horizon, largest_share: of the controller, in nats a batch, in batches, and of the penalised tokens.

    Raises:
        ValueError: a value outside its range, or two that exclude each other.
    """

    method: str
    mu: float | None = None
    reading: str = "released"
    max_fraction: float | None = None
    target: float | None = None
    effect: float = 0.02
    horizon: float = 10.0
    largest_share: float = 0.2

    def __post_init__(self):
        if self.method not in global_clipping.METHODS:
            raise ValueError(f"method is {self.method!r}, expected 'clip_b' or 'clip_v'")
        if self.target is not None:
            if self.mu is not None or self.max_fraction is not None or self.reading != "released":
                raise ValueError("target takes the place of mu, max_fraction and reading; leave those out, or it")
            if not self.target > 0:
                raise ValueError(f"target is {self.target}, expected nats above 0 and at most log of the vocabulary")
            self.controller(2**63)  # whatever the vocabulary; the trainer knows it
            return
        if self.mu is None or not 0 < self.mu < math.inf:
            raise ValueError(
                f"mu is {self.mu}, expected a positive number of deviations; the released values are "
                f"{clipping.CLIP_B_MU} for clip_b and {clipping.CLIP_V_MU} for clip_v"
            )
        if self.reading not in clipping.READINGS:
            raise ValueError(f"reading is {self.reading!r}, expected {' or '.join(clipping.READINGS)}")
        if self.max_fraction is not None and (self.method != "clip_v" or not 0 < self.max_fraction <= 1):
            raise ValueError(f"max_fraction is {self.max_fraction}, expected None, or with clip_v above 0 and up to 1")

    def controller(self, vocabulary: int) -> TargetEntropy | None:
        """A new one, or None where there is no target."""
        if self.target is None:
            return None
        if not 0 < self.largest_share <= 1:
            raise ValueError(f"largest_share is {self.largest_share}, expected above 0 and at most 1")
        return TargetEntropy(self.target, vocabulary, self.effect, self.horizon, largest=self.largest_share)


def settings_of(config: DictConfig) -> Settings:
    """The settings of verl's whole configuration.

    Raises:
        ValueError: no or unknown keys under `entropy_clipping`, values that `Settings` refuses, or what verl does that
            would make the masks wrong: bypass mode, fused kernels, an engine without tests, a loss that mixes the
            advantages of tokens.
    """
    given = config.get("entropy_clipping")
    known = list(Settings.__dataclass_fields__)
    if given is None or "method" not in given or set(given) - set(known):
        raise ValueError(
            f"the keys under entropy_clipping are {list(given or ())}, expected method and any of "
            f"{', '.join(known[1:])}, such as +entropy_clipping.method=clip_b +entropy_clipping.mu=2.0"
        )
    settings = Settings(**OmegaConf.to_container(given, resolve=True))
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    if OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode"):
        raise ValueError(
            "algorithm.rollout_correction.bypass_mode is true, but then verl scores no tokens before training, and "
            "there is no entropy to choose the masked ones by; set it to false"
        )
    if actor.strategy not in STRATEGIES:
        raise ValueError(
            f"actor.strategy is {actor.strategy!r}, expected {' or '.join(STRATEGIES)}: other engines do not give "
            "E_p[S], nor an entropy that is known to be float32"
        )
    if model.get("use_fused_kernels"):
        raise ValueError(
            "model.use_fused_kernels is true, but fused kernels make no logits, from which E_p[S] is taken, and round "
            "the entropy to the model's type; set it to false"
        )
    if (loss := actor.policy_loss.get("loss_mode", "vanilla")) in ADVANTAGES_MIXED:
        raise ValueError(
            f"actor.policy_loss.loss_mode is {loss!r}, with which a token of advantage 0 keeps a gradient or changes "
            "that of others; choose a loss that multiplies a token's own term by its advantage, such as 'vanilla'"
        )
    return settings


@EngineRegistry.register(model_type=MODEL_TYPE, backend=list(STRATEGIES), device=["cuda", "npu"])
class ScoringEngine(FSDPEngineWithLMHead):
    """verl's FSDP engine, which besides gives H, S and E_p[S] of every token in nats, float32, where it gives H
    without gradient: jagged (sequences, tokens) like `log_probs`, packed or not, gathered over Ulysses' processes.
    """

    def __init__(self, model_config: Any, **of_engine: Any):
        model_config.model_type = "language_model"  # what it is to verl from here on
        super().__init__(model_config=model_config, **of_engine)

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        found = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        if torch.is_grad_enabled() or "entropy" not in found:
            return found
        logits, offsets = output.logits, micro_batch["input_ids"].offsets()
        if isinstance(logits, DTensor):
            logits = logits.full_tensor()
        packed = tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
        if packed:
            logits = logits.squeeze(0)
        else:
            logits = logits[torch.arange(logits.shape[1], device=logits.device) < offsets.diff().unsqueeze(1)]
        temperature, tokens = float(micro_batch["temperature"]), output_args["input_ids_rmpad_rolled"]
        statistics = token_statistics(logits, tokens.view(-1), temperature=temperature)
        for name in _FIELDS:
            values = getattr(statistics, name)
            if packed:
                values = self._gather_and_unpad_packed(values, output_args["pad_size"])
            found[_PREFIX + name] = torch.nested.nested_tensor_from_jagged(values, offsets)
        return found


@register_trainer(MODE)
class EntropyClippingPPOTrainerSync(PPOTrainerSync):
    """verl's synchronous trainer with Clip_B or Clip_V.

    Logs, besides verl's, each under entropy_clipping/: mean and deviation of S and of D, cov_a_d, the mean entropy, the
    masked shares of the tokens with A > 0 and with A < 0, and the predicted change of mean entropy per unit of
    effective step before and after masking (-mean A D); with a target the share that it masks. The controller's state
    is in verl's checkpoints.

    Raises:
        ValueError: what `settings_of` refuses.
    """

    def __init__(self, config: DictConfig):
        self.entropy_clipping = settings_of(config)
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # verl does by its name what a synchronous trainer needs
            config.actor_rollout_ref.model.model_type = MODEL_TYPE
        super().__init__(config)

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        self.entropy_controller = self.entropy_clipping.controller(len(self.tokenizer))

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)
        fields = ["response_mask", "advantages", *(_PREFIX + name for name in _FIELDS)]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        responses = data["response_mask"]  # jagged (responses, tokens); verl's padding and rejected tokens are 0 in it
        found = {name: response_from_nested(data[_PREFIX + name], responses).values() for name in _FIELDS}
        statistics = TokenStatistics(log_prob=torch.empty(0), **found)
        advantages, mask = data["advantages"].values(), responses.values().bool()
        kept = self._kept(statistics, advantages, mask, metrics)
        of_kept = torch.nested.nested_tensor_from_jagged(advantages.masked_fill(mask & ~kept, 0.0), responses.offsets())
        return tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict({"advantages": of_kept}, batch_size=len(batch)),
        )

    def _kept(self, statistics: TokenStatistics, advantages: Tensor, mask: Tensor, metrics: dict[str, Any]) -> Tensor:
        """Which tokens (T,) of the packed responses keep their gradient; writes the logs."""
        settings, given = self.entropy_clipping, (statistics, advantages, mask)
        entropy = global_clipping.moments(statistics.entropy, mask)
        logs = {"entropy": entropy.mean}
        if self.entropy_controller is not None:
            # Where verl has rejected every token there is no entropy to control.
            logs["share"] = self.entropy_controller.update(entropy.mean) if entropy.tokens else 0.0
            kept = global_clipping.keep_all_but(settings.method, logs["share"], *given)
        elif settings.method == "clip_b":
            kept = clipping.clip_b(*given, mu=settings.mu, reading=settings.reading)
        else:
            options = {"reading": settings.reading, "max_fraction": settings.max_fraction}
            kept = clipping.clip_v(*given, mu=settings.mu, **options)
        logs |= masking_log(*given, kept)
        metrics.update({f"entropy_clipping/{name}": value for name, value in logs.items()})
        return kept

    def _save_checkpoint(self) -> None:
        if self.entropy_controller is not None:  # before verl marks the checkpoint as whole
            folder = Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _STATE).write_text(json.dumps(self.entropy_controller.state_dict()), encoding="utf-8")
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        trainer = self.config.trainer
        folder = Path(trainer.default_local_dir, f"global_step_{self.global_steps}")
        if trainer.resume_mode == "resume_path":
            folder = Path(trainer.resume_from_path)
        if self.entropy_controller is not None and self.global_steps and (folder / _STATE).exists():
            self.entropy_controller.load_state_dict(json.loads((folder / _STATE).read_text(encoding="utf-8")))
