"""verl's trainer masks what `clipping` masks, and with nothing masked it is verl's own. See verl_on_cpu for what stands
in for an accelerator and for an engine that samples.
"""

import itertools
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # verl warns of engines that are not installed
    pytest.importorskip("verl", reason="make verl runs these tests, in an environment of its own")
    import verl_on_cpu
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tensordict import NonTensorData, TensorDict
from transfer_queue import KVBatchMeta
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import trainer_base
from verl.utils import ulysses
from verl.utils.torch_functional import entropy_from_logits, entropy_from_logits_with_chunking
from verl.workers.config import ActorConfig
from verl.workers.engine.fsdp import transformer_impl

from entropy_dynamics import clipping, verl
from entropy_dynamics.control import TargetEntropy
from entropy_dynamics.methods import largest
from entropy_dynamics.token_statistics import TokenStatistics, token_statistics

pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
ROOT = Path(__file__).parents[2]
V = verl_on_cpu.VOCABULARY
METHOD = ["+entropy_clipping.method=clip_b", "+entropy_clipping.mu=0.8"]
NEEDED = ["actor_rollout_ref.rollout.name=none"]


def configuration(*overrides):
    """verl's configuration with overrides as on its command line."""
    with initialize_config_dir(str(Path(trainer_base.__file__).parents[2] / "config"), version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def jagged(tensors):
    return torch.nested.as_nested_tensor(list(tensors), layout=torch.jagged)


# What is read from the configuration.


def test_the_page_has_the_lines_that_turn_it_on():
    text = (ROOT / "docs" / "verl.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"<!-- verl snippet -->\n```sh\n(.*?)```", text, re.S)
    command, *overrides = snippet.replace("\\\n", "").split()[2:]
    assert command == "verl.trainer.main_ppo"
    config = configuration(*NEEDED, *(line for line in overrides if line != "..."))
    assert verl.settings_of(config) == verl.Settings("clip_b", mu=2.0)
    assert config.trainer.v1.trainer_mode == verl.MODE
    imported = config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES
    assert imported == verl.__name__
    assert trainer_base.get_trainer_cls(verl.MODE) is verl.EntropyClippingPPOTrainerSync


def test_the_page_of_the_released_setting_names_keys_that_exist():
    text = (ROOT / "docs" / "released_setting.md").read_text(encoding="utf-8")
    cells = [row.split("|")[3] for row in text.splitlines() if row.startswith("| `")]
    names = [name.partition("=")[0] for cell in cells for name in re.findall(r"`([a-z+][^`]*)`", cell)]
    config = configuration(*NEEDED)
    absent = object()
    for name in names:
        full = re.sub(r"^(actor|rollout)\.", r"actor_rollout_ref.\1.", name)
        if name.startswith("+entropy_clipping."):
            assert name.partition(".")[2] in verl.Settings.__dataclass_fields__, name
        else:
            assert OmegaConf.select(config, full, default=absent) is not absent, name
    assert len(names) > 20


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "keys under entropy_clipping are .., expected method and any of mu"),
        (["+entropy_clipping.mu=2.0"], "keys under entropy_clipping are .'mu'."),
        ([*METHOD, "+entropy_clipping.nu=1"], "'nu'"),
        (["+entropy_clipping.method=clip_c"], "method is 'clip_c'"),
        (["+entropy_clipping.method=clip_b"], "mu is None, expected a positive number"),
        ([*METHOD[:1], "+entropy_clipping.mu=-1"], "mu is -1"),
        ([*METHOD, "+entropy_clipping.reading=both"], "reading is 'both'"),
        ([*METHOD, "+entropy_clipping.max_fraction=0.1"], "max_fraction is 0.1"),
        ([*METHOD, "+entropy_clipping.target=0.5"], "target takes the place of mu"),
        ([*METHOD[:1], "+entropy_clipping.target=-0.5"], "target is -0.5"),
        ([*METHOD[:1], "+entropy_clipping.target=0.5", "+entropy_clipping.largest_share=2"], "largest_share is 2"),
        ([*METHOD, "algorithm.rollout_correction.bypass_mode=True"], "bypass_mode is true"),
        ([*METHOD, "actor_rollout_ref.model.use_fused_kernels=True"], "use_fused_kernels is true"),
        ([*METHOD, "actor_rollout_ref.actor.strategy=veomni"], "actor.strategy is 'veomni'"),
        ([*METHOD, "actor_rollout_ref.actor.policy_loss.loss_mode=geo_mean"], "loss_mode is 'geo_mean'"),
    ],
)
def test_what_would_make_the_masks_wrong_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        verl.settings_of(configuration(*NEEDED, *overrides))


def test_a_version_that_has_changed_inside_is_refused(monkeypatch):
    monkeypatch.setattr(verl.FSDPEngineWithLMHead, "prepare_model_outputs", lambda self, output: {})
    with pytest.raises(ImportError, match=r"changed FSDPEngineWithLMHead\.prepare_model_outputs.*0\.9\.1"):
        verl.check_internals()


# The engine: verl's own preparation of inputs and outputs around a model whose logits depend on one token alone.


def bare_engine(**settings):
    engine = object.__new__(verl.ScoringEngine)
    of_config = {"entropy_checkpointing": False, "entropy_from_logits_with_chunking": False}
    engine.engine_config = SimpleNamespace(**of_config)
    engine.compute_entropy_from_logits = entropy_from_logits
    engine.pad_to_length, engine.pad_to_length_bucket = False, 8
    engine.use_ulysses_sp, engine.ulysses_sequence_parallel_size = False, 1
    engine.module = SimpleNamespace(config=SimpleNamespace())
    vars(engine).update(settings)
    return engine


def sequences():
    drawn = torch.Generator().manual_seed(1)
    table = 3 * torch.randn(V, V, generator=drawn)
    return table, [torch.randint(V, (n,), generator=drawn) for n in (5, 3, 7)]


def scored(engine, dtype=torch.float32, packed=True, temperature=0.7, entropy=True):
    """What the engine gives for three sequences."""
    table, ids = sequences()
    positions = [torch.arange(len(x)) for x in ids]
    batch = TensorDict({"input_ids": jagged(ids), "position_ids": jagged(positions)}, batch_size=3)
    given = {"temperature": temperature, "use_remove_padding": packed, "calculate_entropy": entropy}
    for name, value in given.items():
        batch[name] = NonTensorData(value)
    inputs, output_args = engine.prepare_model_inputs(batch)
    return engine.prepare_model_outputs(
        SimpleNamespace(logits=table.to(dtype)[inputs["input_ids"]]), output_args, batch, None
    )


def check_scores(found, dtype=torch.float32, temperature=0.7):
    table, ids = sequences()
    for row, tokens in enumerate(ids):
        expected = token_statistics(table.to(dtype)[tokens[:-1]], tokens[1:], temperature=temperature)
        for name in ("entropy", "discriminator", "baseline"):
            values = found[f"entropy_clipping_{name}"].unbind()[row][:-1]
            assert values.dtype == torch.float32
            torch.testing.assert_close(values, getattr(expected, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"pad_to_length": True}], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_the_engine_gives_the_statistics_of_every_token(packed, temperature, settings):
    engine = bare_engine(**settings)
    check_scores(scored(engine, packed=packed, temperature=temperature), temperature=temperature)


@torch.no_grad()
def test_the_engine_is_in_float32_where_verls_own_entropy_is_rounded():
    found = scored(bare_engine(), torch.bfloat16)
    check_scores(found, torch.bfloat16)
    ours, theirs = (found[name].values() for name in ("entropy_clipping_entropy", "entropy"))
    assert theirs.dtype == torch.bfloat16 and (ours - theirs).abs().max() > 0.003
    table, ids = sequences()
    chunked = entropy_from_logits_with_chunking(table.bfloat16()[torch.cat(ids)] / 0.7)
    assert (ours - chunked).abs().max() < (ours - theirs).abs().max()


def test_in_training_and_without_an_entropy_the_engine_is_verls_own():
    assert set(scored(bare_engine())) == {"log_probs", "entropy"}
    with torch.no_grad():
        assert set(scored(bare_engine(), entropy=False)) == {"log_probs"}


def _one_of_two(rank, folder, queue):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    ulysses.set_ulysses_sequence_parallel_group(torch.distributed.group.WORLD)
    with torch.no_grad():
        found = scored(bare_engine(use_ulysses_sp=True, ulysses_sequence_parallel_size=2))
    queue.put({name: [x.tolist() for x in values.unbind()] for name, values in found.items()})
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_engine_gathers_what_ulysses_splits(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_one_of_two, args=(rank, tmp_path, queue)) for rank in (0, 1)]
    for child in children:
        child.start()
    for _ in children:
        found = queue.get(timeout=120)
        check_scores({name: jagged(torch.tensor(x) for x in values) for name, values in found.items()})
    for child in children:
        child.join()


def test_workers_find_the_engine_by_its_model_type(monkeypatch):
    monkeypatch.setenv("VERL_ENGINE_DEVICE", "cuda")
    for backend in verl.STRATEGIES:
        assert verl.EngineRegistry.get_engine_cls(verl.MODEL_TYPE, backend) is verl.ScoringEngine
    given = {}
    monkeypatch.setattr(transformer_impl.FSDPEngine, "__init__", lambda self, **of_engine: given.update(of_engine))
    verl.ScoringEngine(model_config=SimpleNamespace(model_type=verl.MODEL_TYPE), engine_config=None)
    assert given["model_config"].model_type == "language_model" and given["engine_config"] is None


# The trainer: verl's own advantages of a batch that lies in a queue of one process.


class Queue:
    def __init__(self, **fields):
        self.fields = fields

    def kv_batch_get(self, keys, partition_id, select_fields):
        return TensorDict({n: self.fields[n] for n in select_fields if n in self.fields}, batch_size=len(keys))

    def kv_batch_put(self, keys, partition_id, fields):
        self.fields.update(fields.items())
        return KVBatchMeta(keys=keys, tags=[{}] * len(keys), partition_id=partition_id)


def computed(monkeypatch, *overrides, rollout_is_off=0.0):
    """The queue after `_compute_advantage`, the statistics of the packed responses, and the logs."""
    drawn = torch.Generator().manual_seed(3)
    lengths = [6, 9, 4, 8, 7, 5, 9, 3]
    masks = [torch.ones(n, dtype=torch.long) for n in lengths]
    masks[2][1] = 0  # a token of a tool
    masks[7][:] = 0  # verl's padding
    rewards = [torch.zeros(n) for n in lengths]
    for row in (0, 3, 5):
        rewards[row][-1] = 1.0
    found = token_statistics(
        3 * torch.randn(sum(lengths), V, generator=drawn), torch.randint(V, (sum(lengths),), generator=drawn)
    )
    per_token = {name: getattr(found, name).split(lengths) for name in TokenStatistics._fields[:4]}
    prompt = torch.zeros(2)  # scores begin at the prompt, and end one token early
    queue = Queue(
        uid=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        response_mask=jagged(masks),
        rm_scores=jagged(rewards),
        old_log_probs=jagged(per_token["log_prob"]),
        ref_log_prob=jagged(x + 0.3 * torch.randn(len(x), generator=drawn) for x in per_token["log_prob"]),
        **{
            f"entropy_clipping_{name}": jagged(torch.cat([prompt[:1], x, prompt[1:]]) for x in per_token[name])
            for name in ("entropy", "discriminator", "baseline")
        },
    )
    if rollout_is_off:
        off = (rollout_is_off * torch.randn(len(x), generator=drawn) for x in masks)
        queue.fields["rollout_log_probs"] = jagged(x + y for x, y in zip(per_token["log_prob"], off))
    for module in (trainer_base, verl):
        monkeypatch.setattr(module, "tq", queue)
    config = configuration(*NEEDED, "algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=4", *overrides)
    trainer = object.__new__(verl.EntropyClippingPPOTrainerSync)
    trainer.config, trainer.entropy_clipping = config, verl.settings_of(config)
    trainer.entropy_controller = trainer.entropy_clipping.controller(V)
    trainer.kl_ctrl_in_reward = core_algos.get_kl_controller(config.algorithm.kl_ctrl)
    keys, metrics = [f"{i // 4}_{i % 4}_0" for i in range(8)], {}
    batch = KVBatchMeta(keys=keys, tags=[{}] * 8, partition_id="train")
    verl.PPOTrainerSync._compute_advantage(trainer, batch, {})
    before = queue.fields["advantages"].values().clone()
    trainer.kl_ctrl_in_reward = core_algos.get_kl_controller(config.algorithm.kl_ctrl)
    trainer._compute_advantage(batch, metrics)
    return queue.fields, found, before, metrics


def check_kept(fields, before, expected):
    """Masked tokens have no advantage, all others verl's own."""
    mask = fields["response_mask"].values().bool()
    assert torch.equal(fields["advantages"].values(), before.masked_fill(mask & ~expected, 0.0))
    assert (mask & ~expected & (before != 0)).sum() > 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("clip_b", {"mu": 0.8}),
        ("clip_b", {"mu": 1.0, "reading": "two-sided"}),
        ("clip_v", {"mu": 0.8}),
        ("clip_v", {"mu": 0.5, "reading": "two-sided", "max_fraction": 0.1}),
    ],
)
def test_masks_are_those_of_clipping_on_the_whole_batch(monkeypatch, method, options):
    overrides = [f"+entropy_clipping.{name}={value}" for name, value in ({"method": method} | options).items()]
    fields, statistics, before, logs = computed(monkeypatch, *overrides)
    mask = fields["response_mask"].values().bool()
    expected = getattr(clipping, method)(statistics, before, mask, **options)
    check_kept(fields, before, expected)
    negative = mask & (before < 0)
    assert logs["entropy_clipping/masked_negative"] == (negative & ~expected).sum().item() / negative.sum().item()
    assert logs["entropy_clipping/entropy"] == pytest.approx(statistics.entropy[mask].mean().item(), rel=1e-6)
    cov = torch.cov(torch.stack([before[mask], statistics.centred[mask]]), correction=0)[0, 1]
    assert logs["entropy_clipping/cov_a_d"] == pytest.approx(cov.item(), abs=1e-6)


def test_with_a_penalty_in_the_reward_each_token_goes_by_its_own_advantage(monkeypatch):
    overrides = ["algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.kl_coef=2.0"]
    overrides += ["algorithm.adv_estimator=reinforce_plus_plus", *METHOD]
    fields, statistics, before, _ = computed(monkeypatch, *overrides)
    offsets = fields["response_mask"].offsets().tolist()
    rows = [before[start:end] for start, end in itertools.pairwise(offsets)]
    assert any(len(set(row.sign().tolist())) > 1 for row in rows[:7])
    check_kept(fields, before, clipping.clip_b(statistics, before, fields["response_mask"].values().bool(), mu=0.8))


def test_tokens_that_verl_rejects_count_for_nothing(monkeypatch):
    correction = "algorithm.rollout_correction"
    overrides = [f"{correction}.rollout_rs=token_k1", f"{correction}.rollout_rs_threshold='0.7_1.4'"]
    method = ["+entropy_clipping.method=clip_b", "+entropy_clipping.mu=0.3"]
    fields, statistics, before, _ = computed(monkeypatch, *method, *overrides, rollout_is_off=0.5)
    mask = fields["response_mask"].values().bool()
    assert 0 < mask.sum() < 47
    expected = clipping.clip_b(statistics, before, mask, mu=0.3)
    everything = clipping.clip_b(statistics, before, torch.ones_like(mask), mu=0.3)
    check_kept(fields, before, expected)
    assert not torch.equal(expected, everything & mask)


@pytest.mark.parametrize("method", ["clip_b", "clip_v"])
def test_a_target_masks_a_share_of_the_penalised_tokens_in_the_methods_order(monkeypatch, method):
    settings = {"method": method, "target": 2.0, "effect": 0.1, "horizon": 30.0, "largest_share": 1.0}
    overrides = [f"+entropy_clipping.{name}={value}" for name, value in settings.items()]
    fields, statistics, before, logs = computed(monkeypatch, *overrides)
    mask = fields["response_mask"].values().bool()
    share = TargetEntropy(2.0, V, 0.1, 30.0).update(statistics.entropy[mask].double().mean().item())
    assert logs["entropy_clipping/share"] == pytest.approx(share) and 0.05 < share < 0.95
    penalised = mask & (before < 0)
    values = statistics.discriminator if method == "clip_b" else statistics.centred
    check_kept(fields, before, ~largest(-values, penalised, round(share * int(penalised.sum()))))


def test_without_response_tokens_the_controller_stands_still():
    trainer = object.__new__(verl.EntropyClippingPPOTrainerSync)
    trainer.entropy_clipping = verl.Settings("clip_b", target=1.5, effect=1.0)  # below the clamp, also from 0
    trainer.entropy_controller, logs = trainer.entropy_clipping.controller(V), {}
    statistics = TokenStatistics(*torch.ones(4, 5))
    kept = trainer._kept(statistics, -torch.ones(5), torch.zeros(5, dtype=torch.bool), logs)
    assert not kept.any() and trainer.entropy_controller.integral == 0 == logs["entropy_clipping/share"]
    trainer._kept(statistics, -torch.ones(5), torch.ones(5, dtype=torch.bool), logs)
    assert trainer.entropy_controller.integral > 0 and logs["entropy_clipping/share"] > 0


def test_the_controller_is_in_verls_checkpoints(monkeypatch, tmp_path):
    overrides = [*METHOD[:1], "+entropy_clipping.target=2.0", f"trainer.default_local_dir={tmp_path}"]
    calls = []
    monkeypatch.setattr(verl.PPOTrainerSync, "_save_checkpoint", lambda self: calls.append("save"))
    monkeypatch.setattr(verl.PPOTrainerSync, "_load_checkpoint", lambda self: setattr(self, "global_steps", 3))
    monkeypatch.setattr(verl.PPOTrainerSync, "_init_tokenizer", lambda self: setattr(self, "tokenizer", range(V)))

    def trainer(*more):
        new = object.__new__(verl.EntropyClippingPPOTrainerSync)
        new.config = configuration(*NEEDED, *overrides, *more)
        new.entropy_clipping = verl.settings_of(new.config)
        new._init_tokenizer()
        return new

    first = trainer()
    first.entropy_controller.update(1.98)
    first.global_steps = 3
    first._save_checkpoint()
    resume = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={tmp_path}/global_step_3"]
    for second in (trainer(), trainer(*resume, "trainer.default_local_dir=elsewhere")):
        second._load_checkpoint()
        assert second.entropy_controller == first.entropy_controller
    assert calls == ["save"] and first.entropy_controller.integral > 0


def test_a_target_above_the_largest_entropy_is_refused(monkeypatch):
    monkeypatch.setattr(verl.PPOTrainerSync, "_init_tokenizer", lambda self: setattr(self, "tokenizer", range(V)))
    trainer = object.__new__(verl.EntropyClippingPPOTrainerSync)
    trainer.entropy_clipping = verl.Settings("clip_b", target=3.5)
    with pytest.raises(ValueError, match=r"target is 3\.5, expected above 0 and at most log 24"):
        trainer._init_tokenizer()


# verl's losses: what an advantage of zero does.


def gradients(loss, advantages, mode):
    """Of verl's loss in the log-probabilities (4, 6)."""
    drawn = torch.Generator().manual_seed(0)
    old = -2 * torch.rand(4, 6, generator=drawn)
    log_prob = (old + 0.1 * torch.randn(4, 6, generator=drawn)).requires_grad_()
    mask = torch.ones(4, 6)
    mask[1, 3:] = 0
    of_loss = OmegaConf.create({"loss_mode": loss, "dro_beta": 0.1, "clip_cov_lb": 0.0, "clip_cov_ratio": 0.2})
    of_loss.update({"clip_cov_ub": 5.0, "kl_cov_ratio": 0.2, "ppo_kl_coef": 0.1})
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio_c=3.0)
    object.__setattr__(config, "policy_loss", of_loss)
    of_batch = {"dp_size": 1, "batch_num_tokens": int(mask.sum()), "global_batch_size": 4, "loss_scale_factor": None}
    config.global_batch_info.update(of_batch)
    torch.manual_seed(0)
    value, _ = core_algos.get_policy_loss_fn(loss)(old, log_prob, advantages, mask, mode, config, None)
    return torch.autograd.grad(value, log_prob)[0]


def as_with_a_mask(loss, mode="token-mean"):
    """Whether tokens of zero advantage have no gradient, and others the one that they had."""
    drawn = torch.Generator().manual_seed(7)
    advantages = torch.randn(4, 1, generator=drawn).expand(4, 6).clone()
    kept = torch.rand(4, 6, generator=drawn) < 0.7
    before, after = gradients(loss, advantages, mode), gradients(loss, advantages.where(kept, 0.0), mode)
    assert before.abs().sum() > 0
    return torch.allclose(after, before.where(kept, 0.0), atol=1e-8)


LOSSES = sorted(set(core_algos.POLICY_LOSS_REGISTRY) - set(verl.ADVANTAGES_MIXED))


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_masked_tokens_lose_their_gradient_and_keep_their_place_in_the_denominator(loss, mode):
    assert as_with_a_mask(loss, mode)


@pytest.mark.parametrize("loss", [name for name in verl.ADVANTAGES_MIXED if name != "bypass_mode"])
def test_the_losses_that_are_refused_would_be_wrong(loss):
    assert not as_with_a_mask(loss)


# Everything together: verl's trainer on Ray.

COMMON = {
    "data.train_batch_size": 4,
    "data.max_prompt_length": 16,
    "data.max_response_length": 16,
    "data.dataloader_num_workers": 0,
    "data.shuffle": False,
    "+actor_rollout_ref.model.override_config.attn_implementation": "eager",
    "actor_rollout_ref.model.enable_gradient_checkpointing": False,
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "actor_rollout_ref.ref.strategy": "fsdp2",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 4,
    "actor_rollout_ref.actor.optim.lr": 0.01,
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
    "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "fp32",
    "actor_rollout_ref.rollout.name": "none",
    "actor_rollout_ref.rollout.n": 4,
    "actor_rollout_ref.rollout.nnodes": 1,
    "actor_rollout_ref.rollout.temperature": 0.8,
    "actor_rollout_ref.rollout.calculate_log_probs": False,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 4,
    "+actor_rollout_ref.rollout.agent.agent_loop_manager_class": "verl_on_cpu.Rollouts",
    "algorithm.adv_estimator": "grpo",
    "trainer.device": "cpu",
    "trainer.n_gpus_per_node": 1,
    "trainer.total_training_steps": 2,
    "trainer.val_before_train": False,
    "trainer.logger": "[console]",
    "reward.num_workers": 0,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
}
ARMS = {
    "stock": None,
    "nothing_masked": {"method": "clip_b", "mu": 1e9},
    "clip_b": {"method": "clip_b", "mu": 0.8},
    "clip_v": {"method": "clip_v", "mu": 0.5, "reading": "two-sided", "max_fraction": 0.3},
}


def make_model(folder):
    """Of one layer, far from uniform, with a tokenizer of words w2 to w23."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(V)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=V, pad_token_id=0, eos_token_id=1, **sizes, **heads))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20 if weight.ndim > 1 else 1)
    model.save_pretrained(folder)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What verl_on_cpu kept of each arm: batches and weights of two steps."""
    import datasets

    folder = tmp_path_factory.mktemp("verl")
    make_model(folder / "model")
    rows = [
        {"prompt": [{"role": "user", "content": f"w{i + 2}"}], "data_source": "none", "extra_info": {"index": i}}
        for i in range(8)
    ]
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "data.parquet"))
    names = ("port", "metrics-export-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    names = (*names, "runtime-env-agent-port")  # Ray waits 15 seconds for ports that agents choose themselves
    ports = dict(zip(names, free_ports(len(names))))
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += ["--head", "--block", "--num-cpus=8", "--num-gpus=1", "--include-dashboard=false"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent)]),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VERL_ENGINE_DEVICE": "cuda",  # as whose engines are registered
    }
    ray = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), "start", *options, "--node-ip-address=127.0.0.1"],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        for arm, settings in ARMS.items():
            (folder / arm).mkdir()
            given = COMMON | {f"+entropy_clipping.{name}": value for name, value in (settings or {}).items()}
            given |= {f"data.{part}_files": folder / "data.parquet" for part in ("train", "val")}
            given |= {
                "trainer.v1.trainer_mode": "sync_on_cpu" if settings is None else "sync_entropy_clipping_on_cpu",
                "trainer.default_local_dir": folder / "checkpoints" / arm,
                "actor_rollout_ref.model.path": folder / "model",
                "+ray_kwargs.ray_init.address": f"127.0.0.1:{ports['port']}",
                "ray_kwargs.ray_init.num_cpus": "null",
                "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES": "verl_on_cpu",
                "+ray_kwargs.ray_init.runtime_env.env_vars.VERL_ON_CPU": folder / arm,
            }
            command = [sys.executable, "-m", "verl.trainer.main_ppo", *(f"{n}={value}" for n, value in given.items())]
            done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, encoding="utf-8")
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    finally:
        ray.terminate()
        ray.wait()
    kept = {arm: {path.stem: torch.load(path) for path in (folder / arm).glob("*.pt")} for arm in ARMS}
    return kept | {"model": folder / "model"}


@pytest.mark.slow
def test_with_nothing_masked_the_weights_are_verls_own_bit_for_bit(runs):
    stock, ours = runs["stock"], runs["nothing_masked"]
    for step in range(3):
        for name, weight in stock[f"weights-{step}"].items():
            assert torch.equal(weight, ours[f"weights-{step}"][name]), name
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(stock["weights-0"][name], stock["weights-2"][name])


def recomputed(runs, arm, step):
    """Statistics of the packed responses from the weights of a step, one response at a time."""
    batch = runs[arm][f"batch-{step}"]
    model = AutoModelForCausalLM.from_pretrained(runs["model"])
    model.load_state_dict(runs[arm][f"weights-{step - 1}"])
    parts = []
    for prompt, response in zip(batch["prompts"], batch["responses"]):
        ids = torch.cat([prompt, response])
        with torch.no_grad():
            logits = model(ids.unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        parts.append(token_statistics(logits, response, temperature=0.8))
    return TokenStatistics(*(torch.cat(x) for x in list(zip(*parts))[:4]))


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["clip_b", "clip_v"])
def test_on_ray_masks_are_those_of_clipping_on_the_whole_batch(runs, arm):
    options = {name: value for name, value in ARMS[arm].items() if name != "method"}
    for step in (1, 2):
        plain, batch = runs["stock"][f"batch-{step}"], runs[arm][f"batch-{step}"]
        stock, ours, mask = (torch.cat(x) for x in (plain["advantages"], batch["advantages"], batch["response_mask"]))
        statistics = recomputed(runs, arm, step)
        torch.testing.assert_close(torch.cat(batch["old_log_probs"]), statistics.log_prob, rtol=1e-4, atol=1e-5)
        expected = getattr(clipping, arm)(statistics, stock, mask.bool(), **options)
        assert torch.equal(ours, stock.masked_fill(mask.bool() & ~expected, 0.0))
        assert (mask.bool() & ~expected).sum() > 0 and batch["keys"][-1].startswith("pad")
    weights = [runs[name]["weights-2"]["lm_head.weight"] for name in ("stock", arm)]
    assert not torch.equal(*weights)
