"""Clip_B and Clip_V on a model whose weights are divided between two processes, on a CPU with gloo.

Training, sampling and sharding are TRL's, accelerate's, torch's and DeepSpeed's own. Three things stand in, because
accelerate shards on accelerators alone: `PartialState` is made before TRL makes its own, so that gloo is chosen without
`use_cpu`; for FSDP2 the processes are called MULTI_GPU; DeepSpeed goes without its operator for shared memory, which it
would compile.
"""

import importlib.util
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from test_trl import Watched, bare_trainer, policy, trained
from torch.distributed.tensor import DTensor

from companion.language_models.paper_scale import leave
from companion.processes import end_with_launcher
from entropy_dynamics import clipping
from entropy_dynamics.control import TargetEntropy
from entropy_dynamics.methods import largest
from entropy_dynamics.token_statistics import TokenStatistics
from entropy_dynamics.trl import EntropyClippingGRPOConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.distributed.*:UserWarning"),
]
WAYS = {
    "fsdp2": {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
        },
    },
    "zero3": {
        "deepspeed": {
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},  # or small weights stay whole
            "zero_allow_untested_optimizer": True,  # torch's own
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
        },
    },
}
# Adam's first step has one size whatever the gradient's is: it would hide a wrong scale and enlarge rounding.
STEP = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.5}
METHODS = {
    "clip_v": {"entropy_clipping": "clip_v", "mu": 0.8},
    "target": {
        "entropy_clipping": "clip_b",
        "clipping_target": 2.5,
        "clipping_effect": 0.1,
        "clipping_horizon": 30.0,
        "clipping_largest_share": 1.0,
    },
}
TENSORS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "kept")
STATISTICS = ("log_prob", "entropy", "discriminator", "baseline")


def whole(parameter):
    """A parameter, gathered from all processes if it is sharded."""
    if isinstance(parameter, DTensor):
        return parameter.detach().full_tensor()
    if hasattr(parameter, "ds_tensor"):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach().clone()


def held(parameter):
    """How many of its numbers this process holds."""
    if isinstance(parameter, DTensor):
        return parameter.to_local().numel()
    return parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else parameter.numel()


def gathered(model):
    return {f"weight.{name}": whole(parameter) for name, parameter in model.named_parameters()}


class Scored(Watched):
    """Keeps the statistics and the weights that they are of, too."""

    def _sampled_statistics(self, output):
        self.weights = gathered(self.model)
        self.statistics = super()._sampled_statistics(output)
        return self.statistics


def _train_in_process(folder, way):
    """What each of two processes does: the same training with a whole and with a sharded model."""
    torch.set_num_threads(1)
    end_with_launcher()
    if way == "zero3":
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for sharded in (False, True):
        for method in METHODS:
            AcceleratorState._reset_state(reset_partial_state=True)
            settings = {"use_cpu": True}
            if sharded:
                os.environ["ACCELERATE_USE_DEEPSPEED"] = str(way == "zero3")
                state = PartialState(backend="gloo")
                os.environ["ACCELERATE_USE_DEEPSPEED"] = "false"
                if way == "fsdp2":
                    state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
                configured = {"accelerator_config": {"use_configured_state": True}}
                settings = {"use_cpu": False, "dataloader_pin_memory": False} | configured | WAYS[way]
            trainer = trained(Scored, EntropyClippingGRPOConfig, folder, **STEP | METHODS[method] | settings)
            ((_, output),) = trainer.seen
            saved = {name: output[name] for name in TENSORS} | trainer.weights
            saved |= {name: getattr(trainer.statistics, name) for name in STATISTICS}
            saved |= {f"trained.{name}": x for name, x in gathered(trainer.model).items()}
            saved["held"] = torch.tensor(sum(held(parameter) for parameter in trainer.model.parameters()))
            name = f"{method}-{'sharded' if sharded else 'whole'}-{trainer.accelerator.process_index}"
            save_file({name: x.contiguous() for name, x in saved.items()}, f"{folder}/{name}.safetensors")
    leave(trainer.accelerator)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of a way's runs; each way is run once."""

    @cache
    def run(way):
        if way == "zero3" and importlib.util.find_spec("deepspeed") is None:
            pytest.skip("DeepSpeed is not installed: DS_BUILD_OPS=0 pip install deepspeed==0.19.8")
        folder = tmp_path_factory.mktemp(way)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run([*command, __file__, str(folder), way], capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, [line for line in done.stderr.splitlines() if line.startswith("[rank")]
        return folder

    return run


def loaded(folder, method, kind):
    return [load_file(Path(folder) / f"{method}-{kind}-{rank}.safetensors") for rank in range(2)]


def of(part, prefix):
    return {name.removeprefix(prefix): x for name, x in part.items() if name.startswith(prefix)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_a_sharded_model_has_the_statistics_masks_and_weights_of_a_whole_one(runs, way, method):
    folder = runs(way)
    parts, unsharded = loaded(folder, method, "sharded"), loaded(folder, method, "whole")
    size = sum(x.numel() for x in policy().parameters())
    assert all(part["held"] == size for part in unsharded)
    assert all(part["held"] < 0.55 * size for part in parts) and sum(part["held"] for part in parts) >= size

    # Statistics: one process scores the same responses with the whole model.
    scores = []
    for part, other in zip(parts, unsharded):
        model = policy()
        model.load_state_dict(of(part, "weight."))
        expected = bare_trainer(model)._sampled_statistics(part)
        for name in STATISTICS:
            torch.testing.assert_close(part[name], getattr(expected, name), rtol=0, atol=1e-5)
        for name in TENSORS:
            assert torch.equal(part[name], other[name]), name
        mask = part["completion_mask"].bool()
        advantages = part["advantages"].unsqueeze(1).expand(mask.shape)
        of_tokens = [getattr(expected, name) for name in STATISTICS]
        scores.append([x[mask] for x in (*of_tokens, advantages, part["kept"])])

    # Masks: `clipping` masks the batch of both processes at once.
    *of_tokens, advantages, kept = (torch.cat(x).unsqueeze(0) for x in zip(*scores))
    statistics, mask = TokenStatistics(*of_tokens), torch.ones_like(kept)
    if method == "clip_v":
        expected = clipping.clip_v(statistics, advantages, mask, mu=METHODS[method]["mu"])
    else:
        share = TargetEntropy(2.5, 17, 0.1, 30.0).update(statistics.entropy.double().mean().item())
        penalised = advantages < 0
        expected = ~largest(-statistics.discriminator, penalised, round(share * int(penalised.sum())))
    assert torch.equal(kept, expected) and not kept.all()

    # Weights after the step.
    for part, other in zip(parts, unsharded):
        before, after, reference = of(part, "weight."), of(part, "trained.weight."), of(other, "trained.weight.")
        for name, weight in reference.items():
            torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-5)
        moved = math.sqrt(sum((after[name] - before[name]).square().sum() for name in before))
        assert moved > 0.1


if __name__ == "__main__":
    _train_in_process(*sys.argv[1:])
