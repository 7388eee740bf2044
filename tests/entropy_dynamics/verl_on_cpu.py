"""What stands in, on a CPU, for the parts of verl that need an accelerator: the platform, the process group's backend,
and the engine that samples. Everything else is verl's own: its main program, the V1 trainer, the TransferQueue, the
workers on Ray, FSDP, the loss and the optimizer. verl imports this module through VERL_USE_EXTERNAL_MODULES.
"""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry, set_platform

VOCABULARY = 24
PAD, END = 0, 1  # of the tokenizer


class Device(SimpleNamespace):
    """The functions of torch.cuda that verl calls."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: 0


class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "none"
    device_module = Device(
        is_available=lambda: False,
        get_device_name=lambda *args: "CPU",
        mem_get_info=lambda *args: (0, 0),
        get_rng_state=torch.get_rng_state,
    )

    def current_device(self):
        return torch.device("cpu")

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def ray_resource_name(self):
        return "GPU"  # Ray is told that there is one

    def ray_noset_envvars(self):
        return []

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    def nvtx_range(self, msg):
        return nullcontext()

    is_available = is_ipc_supported = lambda self: False
    device_count = lambda self: 1  # noqa: E731
    set_device = synchronize = manual_seed = manual_seed_all = lambda self, *args: None
    set_allocator_settings = empty_cache = profiler_start = profiler_stop = cudart = lambda self, *args: None


PlatformRegistry.register("cpu")(PlatformCPU)
set_platform(PlatformCPU())

# From here on verl finds a CPU.
import ray
import transfer_queue as tq
from verl.single_controller.base.decorator import Dispatch, register
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.rollout.replica import RolloutReplicaRegistry

from entropy_dynamics.verl import EntropyClippingPPOTrainerSync

RolloutReplicaRegistry.register("none", lambda: object)  # an engine that samples, of which none is started


class TrainingWorkerOnCPU(TrainingWorker):
    def __init__(self, config):
        if not torch.distributed.is_initialized():  # verl's own call names the CPU's backend twice
            place = {name: int(os.environ[name.upper()]) for name in ("rank", "world_size")}
            torch.distributed.init_process_group("gloo", **place)
        super().__init__(config)


class WorkerOnCPU(ActorRolloutRefWorker):
    actor_worker_cls = ref_worker_cls = TrainingWorkerOnCPU

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)
    async def update_weights(self, global_steps=None, mode="auto"):
        """No engine samples from them; the test reads them."""
        module = self.actor.engine.module
        state = {name: getattr(x, "full_tensor", lambda x=x: x)().clone() for name, x in module.state_dict().items()}
        torch.save(state, Path(os.environ["VERL_ON_CPU"], f"weights-{global_steps}.pt"))


class OnCPU:
    """The part of a trainer that starts workers; and what the TransferQueue holds before each update, for the test."""

    _enable_hybrid_replicas = False  # no engine that samples

    def _init_resource_pool_mgr(self):
        super()._init_resource_pool_mgr()
        for role in (Role.Actor, Role.RefPolicy):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(WorkerOnCPU)

    def _compute_advantage(self, batch, metrics):
        batch = super()._compute_advantage(batch, metrics)
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id)
        names = ("prompts", "responses", "response_mask", "advantages", "old_log_probs", "entropy")
        held = {name: list(data[name].unbind()) for name in names}
        logs = {name: value for name, value in metrics.items() if name.startswith("entropy_clipping/")}
        held |= {"keys": batch.keys, "logs": logs}
        torch.save(held, Path(os.environ["VERL_ON_CPU"], f"batch-{self.global_steps}.pt"))
        return batch


@register_trainer("sync_on_cpu")
class StockOnCPU(OnCPU, PPOTrainerSync):
    def __init__(self, config):
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)


@register_trainer("sync_entropy_clipping_on_cpu")
class ClippingOnCPU(OnCPU, EntropyClippingPPOTrainerSync):
    pass


class Rollouts:
    """verl's agent loop manager: instead of sampling, responses of random tokens, the same in every run."""

    @classmethod
    def create(cls, config, **handles):
        manager = cls()
        manager.sessions = config.actor_rollout_ref.rollout.n
        return manager

    def generate_sequences(self, batch):
        step = batch["global_steps"]
        step = int(getattr(step, "data", step))
        drawn = torch.Generator().manual_seed(step)
        for row, uid in enumerate(batch["uid"]):
            uid = str(getattr(uid, "data", uid))
            keys, fields, tags = [], [], []
            for session in range(self.sessions - (row == 0)):  # one is missing, so that verl has to pad the batch
                prompt, response = (
                    torch.randint(2, VOCABULARY, (int(torch.randint(low, high, (), generator=drawn)),), generator=drawn)
                    for low, high in ((2, 5), (3, 9))
                )
                mask = torch.ones_like(response)
                mask[1:2] = session % 2  # every other response has a token of a tool
                rewards = torch.zeros(len(response))
                rewards[-1] = float(response.sum() % 2)
                ids = torch.cat([prompt, response])
                keys.append(f"{uid}_{session}_0")
                fields.append(
                    {
                        "uid": uid,
                        "prompts": prompt,
                        "responses": response,
                        "response_mask": mask,
                        "loss_mask": mask,
                        "input_ids": ids,
                        "position_ids": torch.arange(len(ids)),
                        "rm_scores": rewards,
                        "num_turns": 2,
                        "multi_modal_inputs": {},
                        "extra_fields": {},
                    }
                )
                tags.append(
                    {
                        "status": "success",
                        "prompt_len": len(prompt),
                        "response_len": len(response),
                        "seq_len": len(ids),
                        "global_steps": step,
                        "min_global_steps": step - 1,
                        "max_global_steps": step - 1,
                    }
                )
            tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(fields), tags=tags, partition_id="train")
            tq.kv_batch_put(keys=[uid], partition_id="train", tags=[{"status": "finished"}])
