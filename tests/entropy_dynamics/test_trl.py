"""The trainer masks what `clipping` masks, and without a method it is TRL's own."""

import inspect
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("companion", reason="the small policy and its task are in a checkout")

import datasets
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from companion.laboratory.policies import WarmStart, build_policy, character_tokenizer
from companion.language_models.paper_scale import leave
from companion.puzzles import tasks
from entropy_dynamics import clipping
from entropy_dynamics.control import TargetEntropy
from entropy_dynamics.methods import largest
from entropy_dynamics.token_statistics import token_statistics
from entropy_dynamics.trl import (
    EntropyClippingGRPOConfig,
    EntropyClippingGRPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    check_internals,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),  # TRL's own use of transformers
    pytest.mark.filterwarnings("ignore:.*torch.distributed.*:UserWarning"),
]
SETTINGS = {
    "max_steps": 2,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 6,
    "temperature": 0.9,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "seed": 1,
}
NOTHING_MASKED = {"entropy_clipping": "clip_b", "mu": 1e9}
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo", "sapo", "vespo")
TERMS = {
    "plain": {},
    "off-policy mask": {"off_policy_mask_threshold": 1e-3},
    "KL": {"beta": 0.1, "use_bias_correction_kl": True},
    "entropy bonus": {"entropy_coef": 0.1},
    "high entropy": {"top_entropy_quantile": 0.5},
    "an engine's ratios": {"vllm_importance_sampling_mode": "token_mask"},
}


def reward(completion_ids, **_):
    return [float(sum(ids) % 2) for ids in completion_ids]


def dataset(count=16):
    return datasets.Dataset.from_dict({"prompt": [p.prompt for p in tasks.split(3).training[:count]]})


def policy():
    model = build_policy(WarmStart(width=16, layers=1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5)  # far from uniform, so that S and D vary
    return model


def trained(trainer, config, folder, model=policy, resume_from_checkpoint=None, **settings):
    torch.manual_seed(0)
    trainer = trainer(
        model=model(),
        reward_funcs=reward,
        args=config(output_dir=str(folder), **SETTINGS | settings),
        train_dataset=dataset(),
        processing_class=character_tokenizer(),
    )
    trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    return trainer


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


class Watched(EntropyClippingGRPOTrainer):
    """Keeps what the trainer was given and what it handed on."""

    def _generate_and_score_completions(self, inputs):
        before = {name: x.clone() for name, x in self.model.state_dict().items()}
        output = super()._generate_and_score_completions(inputs)
        self.seen = [*getattr(self, "seen", []), (before, dict(output))]
        return output


def test_without_a_method_it_is_trls_own_trainer(tmp_path):
    ours = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path)
    theirs = trained(GRPOTrainer, GRPOConfig, tmp_path)
    assert torch.equal(weights(ours), weights(theirs))
    assert [row["loss"] for row in ours.state.log_history[:2]] == [row["loss"] for row in theirs.state.log_history[:2]]
    assert not [name for name in ours.state.log_history[0] if "entropy_clipping" in name]


@pytest.mark.parametrize(
    "settings",
    [
        {"entropy_clipping": "clip_b", "mu": 0.8},
        {"entropy_clipping": "clip_b", "mu": 1.0, "clipping_reading": "two-sided"},
        {"entropy_clipping": "clip_v", "mu": 0.8},
        {"entropy_clipping": "clip_v", "mu": 0.5, "clipping_max_fraction": 0.1},
        {"entropy_clipping": "clip_b", "mu": 0.8, "num_iterations": 2, "steps_per_generation": 4},
    ],
)
def test_masks_are_those_of_clipping_on_the_same_tensors(tmp_path, settings):
    trainer = trained(Watched, EntropyClippingGRPOConfig, tmp_path, **settings)
    masked = 0
    for state, output in trainer.seen:
        model = policy()
        model.load_state_dict(state)
        tokens, mask = output["completion_ids"], output["completion_mask"].bool()
        ids = torch.cat([output["prompt_ids"], tokens], 1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        with torch.no_grad():
            logits = model(ids, attention_mask=attention).logits[:, -tokens.shape[1] - 1 : -1]
        statistics = token_statistics(logits, tokens, temperature=0.9)
        expected = {"clip_b": clipping.clip_b, "clip_v": clipping.clip_v}[settings["entropy_clipping"]](
            statistics,
            output["advantages"].unsqueeze(1),
            mask,
            mu=settings["mu"],
            reading=settings.get("clipping_reading", "released"),
            **({"max_fraction": 0.1} if "clipping_max_fraction" in settings else {}),
        )
        assert torch.equal(output["kept"], expected)
        masked += int((mask & ~expected).sum())
    assert masked > 0


def test_what_is_masked_changes_the_weights_and_is_logged(tmp_path):
    settings = {"entropy_clipping": "clip_b", "mu": 0.8}
    plain = trained(GRPOTrainer, GRPOConfig, tmp_path)
    clipped = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings)
    untouched = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings | {"mu": 1e6})
    assert not torch.equal(weights(clipped), weights(plain))
    assert torch.equal(weights(untouched), weights(plain))
    logs = {name.removeprefix("entropy_clipping/"): value for name, value in clipped.state.log_history[0].items()}
    assert logs["masked_negative"] > 0 == logs["masked_positive"]
    assert logs["sigma_s"] > 0 and logs["sigma_d"] > 0
    assert logs["predicted_change"] > logs["predicted_change_unmasked"]  # the masked tokens lower entropy
    first = untouched.state.log_history[0]
    assert first["entropy_clipping/predicted_change"] == first["entropy_clipping/predicted_change_unmasked"]


@pytest.mark.parametrize("method", ["clip_b", "clip_v"])
def test_a_target_masks_a_share_of_the_penalised_tokens_in_the_methods_order(tmp_path, method):
    settings = {"entropy_clipping": method, "clipping_target": 2.5, "clipping_effect": 0.1, "clipping_horizon": 30.0}
    settings["clipping_largest_share"] = 1.0
    trainer = trained(Watched, EntropyClippingGRPOConfig, tmp_path, **settings)
    controller = TargetEntropy(2.5, len(tasks.ALPHABET), 0.1, 30.0)
    assert len(trainer.seen) == 2
    for (state, output), log in zip(trainer.seen, trainer.state.log_history):
        model = policy()
        model.load_state_dict(state)
        tokens, mask = output["completion_ids"], output["completion_mask"].bool()
        ids = torch.cat([output["prompt_ids"], tokens], 1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        with torch.no_grad():
            logits = model(ids, attention_mask=attention).logits[:, -tokens.shape[1] - 1 : -1]
        statistics = token_statistics(logits, tokens, temperature=0.9)
        share = controller.update(statistics.entropy[mask].mean().item())
        assert 0.05 < share < 0.95
        assert log["entropy_clipping/share"] == pytest.approx(share, rel=1e-4)
        penalised = mask & (output["advantages"].unsqueeze(1) < 0)
        values = statistics.discriminator if method == "clip_b" else statistics.centred
        chosen = largest(-values, penalised, round(log["entropy_clipping/share"] * int(penalised.sum())))
        assert torch.equal(output["kept"], mask & ~chosen) and chosen.any()


def test_the_controller_goes_on_from_a_checkpoint(tmp_path):
    settings = {"entropy_clipping": "clip_v", "clipping_target": 2.8, "max_steps": 4}
    settings |= {"save_strategy": "steps", "save_steps": 2, "clipping_effect": 1.0, "clipping_largest_share": 1.0}
    straight = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings)
    resumed = trained(
        EntropyClippingGRPOTrainer,
        EntropyClippingGRPOConfig,
        tmp_path,
        resume_from_checkpoint=str(tmp_path / "checkpoint-2"),
        **settings,
    )
    shares = [
        [row["entropy_clipping/share"] for row in trainer.state.log_history if "entropy_clipping/share" in row]
        for trainer in (straight, resumed)
    ]
    assert shares[0] == shares[1] and len(set(shares[0])) == 4
    assert straight._controller() == resumed._controller() and straight._controller().integral > 0
    assert torch.equal(weights(straight), weights(resumed))


def test_without_response_tokens_the_controller_stands_still():
    """As where every response is cut, and cut responses are left out."""
    trainer = bare_trainer(mu=None, clipping_target=2.8, clipping_effect=1.0)
    output = scored_output()
    statistics, advantages = trainer._sampled_statistics(output), output["advantages"].unsqueeze(1).expand(8, 5)
    everything, nothing = torch.ones(8, 5, dtype=torch.bool), torch.zeros(8, 5, dtype=torch.bool)
    trainer._kept(statistics, advantages, everything)
    before = trainer._controller()
    assert torch.equal(trainer._kept(statistics, advantages, nothing), nothing)
    assert trainer._controller() == before and before.integral > 0
    assert trainer._metrics["train"]["entropy_clipping/share"][1] == 0


def test_a_target_above_the_largest_entropy_is_refused(tmp_path):
    settings = {"entropy_clipping": "clip_v", "clipping_target": 3.0}
    with pytest.raises(ValueError, match=r"target is 3\.0, expected above 0 and at most log 17 = 2\.833"):
        trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings)


def test_the_control_masks_as_many_of_each_sign(tmp_path):
    settings = {"entropy_clipping": "clip_b", "mu": 0.8, "max_steps": 1}
    first = [
        trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings, clipping_control=control)
        for control in (False, True)
    ]
    logs = [trainer.state.log_history[0] for trainer in first]
    for name in ("masked_negative", "masked_positive"):
        assert logs[0][f"entropy_clipping/{name}"] == logs[1][f"entropy_clipping/{name}"]
    assert not torch.equal(weights(first[0]), weights(first[1]))


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_masked_tokens_lose_every_gradient_and_others_none(loss_type, level, terms):
    """Of TRL's own loss, from log-probabilities and entropies of the test's own."""
    drawn = torch.Generator().manual_seed(0)
    mask = torch.ones(4, 6)
    mask[1, 3:] = 0
    kept = torch.rand(4, 6, generator=drawn) < 0.6
    inputs = {
        "prompt_ids": torch.ones(4, 2, dtype=torch.long),
        "prompt_mask": torch.ones(4, 2, dtype=torch.long),
        "completion_ids": torch.ones(4, 6, dtype=torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor([1.0, -0.5, 0.7, -1.2]),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": -torch.rand(4, 6, generator=drawn),
        "ref_per_token_logps": -torch.rand(4, 6, generator=drawn),
    }
    log_prob = inputs["old_per_token_logps"] + 0.1 * torch.randn(4, 6, generator=drawn)
    entropy = torch.rand(4, 6, generator=drawn)
    trainer = bare_trainer(loss_type=loss_type, importance_sampling_level=level, **TERMS[terms])
    if terms == "an engine's ratios":
        trainer.use_vllm = True
        inputs["importance_sampling_ratio"] = 2 * torch.rand(4, 6, generator=drawn)
    gradients = {}
    for name, given in {"stock": {}, "masked": {"kept": kept}, "nothing masked": {"kept": mask.bool()}}.items():
        leaves = log_prob.clone().requires_grad_(), entropy.clone().requires_grad_()
        scored = mock.Mock(return_value=(*leaves, None))
        with mock.patch.object(GRPOTrainer, "_get_per_token_logps_and_entropies", scored):
            loss = trainer._compute_loss(trainer.model, inputs | given)
        loss.backward()
        gradients[name] = [torch.zeros(4, 6) if leaf.grad is None else leaf.grad for leaf in leaves], loss.item()
    (stock, value), (masked, masked_value) = gradients["stock"], gradients["masked"]
    assert masked_value == value and gradients["nothing masked"][1] == value
    for ours, theirs, untouched in zip(masked, stock, gradients["nothing masked"][0]):
        assert torch.equal(ours, theirs.where(kept, 0.0)) and torch.equal(untouched, theirs)
    assert (stock[0][mask.bool() & ~kept] != 0).any()  # otherwise there was nothing to lose


def bare_trainer(model=None, beta=0.0, **settings):
    """A trainer that has not generated anything, and for a KL penalty has no reference model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*importance_sampling_level.*")  # other levels are TRL's advice
        settings = SETTINGS | {"entropy_clipping": "clip_b", "mu": 1.0} | settings
        args = EntropyClippingGRPOConfig(output_dir="unused", **settings)
        trainer = EntropyClippingGRPOTrainer(
            model=model or policy(),
            reward_funcs=reward,
            args=args,
            train_dataset=dataset(),
            processing_class=character_tokenizer(),
        )
    trainer.current_gradient_accumulation_steps, trainer.beta = 1, beta
    return trainer


@pytest.mark.parametrize("settings", [{"loss_type": "vespo"}, {"off_policy_mask_threshold": 1e-4, "num_iterations": 2}])
def test_losses_that_weigh_whole_responses_are_trained_with(tmp_path, settings):
    masked = {"entropy_clipping": "clip_v", "mu": 0.8}
    trainer = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings, **masked)
    stock = trained(GRPOTrainer, GRPOConfig, tmp_path, **settings)
    assert weights(trainer).isfinite().all() and not torch.equal(weights(trainer), weights(stock))
    assert trainer.state.log_history[0]["loss"] == stock.state.log_history[0]["loss"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"entropy_clipping": "clip_x", "mu": 1.0}, "'clip_x', expected"),
        ({"entropy_clipping": "clip_b"}, "mu is None"),
        ({"mu": 2.0}, "entropy_clipping is 'none'; choose a method"),
        ({"clipping_control": True}, "entropy_clipping is 'none'; choose a method"),
        ({"entropy_clipping": "clip_b", "mu": -1.0}, r"mu is -1\.0"),
        ({"entropy_clipping": "clip_b", "mu": float("inf")}, "mu is inf"),
        ({"entropy_clipping": "clip_b", "mu": 1.0, "clipping_reading": "both"}, "'both'"),
        ({"entropy_clipping": "clip_b", "mu": 1.0, "clipping_max_fraction": 0.1}, r"clipping_max_fraction is 0\.1"),
        ({"entropy_clipping": "clip_v", "mu": 1.0, "clipping_max_fraction": 2.0}, r"clipping_max_fraction is 2\.0"),
    ],
)
def test_a_bad_config_is_refused_by_name(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        EntropyClippingGRPOConfig(output_dir=str(tmp_path), **SETTINGS | settings)


def test_no_setting_of_trls_own_has_another_meaning():
    ours = set(EntropyClippingGRPOConfig.__annotations__)
    assert "mu" in ours and not ours & set(GRPOConfig.__dataclass_fields__)


def test_a_trainer_whose_inside_has_moved_is_refused():
    class Renamed:
        def _score(self, inputs): ...

    class Rewritten(GRPOTrainer):
        def _compute_loss(self, model, inputs):
            return 0

    for trainer in (Renamed, Rewritten):
        with pytest.raises(ImportError, match="has changed inside GRPOTrainer"):
            check_internals(trainer)
    check_internals(GRPOTrainer)


def small(architecture, **settings):
    """A model of another family with weights far from uniform."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes | heads | tokens | settings))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5)
    return model


SCORED = {
    "dropout": ("llama", {"attention_dropout": 0.3}, {}),
    "capped logits": ("gemma2", {"final_logit_softcapping": 3.0}, {}),
    "capped bfloat16": ("gemma2", {"final_logit_softcapping": 30.0}, {"bf16": True}),
    "scaled logits": ("granite", {"logits_scaling": 2.0}, {}),
    "bfloat16": ("llama", {}, {"bf16": True}),
    "float32 head": ("llama", {}, {"bf16": True, "cast_lm_head_to_fp32": True}),
}


@pytest.mark.parametrize("case", SCORED)
def test_the_pass_sees_what_the_trainer_sees(case):
    """Log-probability and entropy are those of TRL's own fused head; S and E_p[S] are those of the logits."""
    architecture, model_settings, settings = SCORED[case]
    torch.manual_seed(0)
    trainer = bare_trainer(small(architecture, **model_settings), **settings)
    output = {
        "prompt_ids": torch.randint(3, 15, (16, 4)),
        "prompt_mask": torch.ones(16, 4, dtype=torch.long),
        "completion_ids": torch.randint(3, 15, (16, 6)),
        "completion_mask": torch.ones(16, 6, dtype=torch.long),
    }
    trainer.model.train()
    trainer.model.get_input_embeddings().eval()  # as a user may leave a frozen part
    before, state = [module.training for module in trainer.model.modules()], torch.get_rng_state()
    statistics = trainer._sampled_statistics(output)
    assert [module.training for module in trainer.model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    trainer.model.eval()
    with torch.no_grad():
        log_prob, entropy, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, torch.ones_like(ids), 6, compute_entropy=True
        )
        with trainer.accelerator.autocast():
            logits = trainer.model(ids, logits_to_keep=7).logits[:, :-1]
    torch.testing.assert_close(statistics.log_prob, log_prob, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(statistics.entropy, entropy, rtol=1e-5, atol=1e-5)
    expected = token_statistics(logits, output["completion_ids"], temperature=0.9)
    near = {"atol": 0.05 if "bf16" in settings else 1e-5, "rtol": 0}
    torch.testing.assert_close(statistics.discriminator, expected.discriminator, **near)
    torch.testing.assert_close(statistics.baseline, expected.baseline, **near)
    assert statistics.centred.std() > 0.02


def test_with_dropout_nothing_masked_is_trls_own_training(tmp_path):
    models = {"model": partial(small, "llama", attention_dropout=0.3)}
    ours = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **models, **NOTHING_MASKED)
    theirs = trained(GRPOTrainer, GRPOConfig, tmp_path, **models)
    assert torch.equal(weights(ours), weights(theirs))


# What users combine, each in training: with nothing masked the weights must be stock TRL's, bit for bit.
CONFIGURATIONS = {
    **{f"loss {name}": {"loss_type": name, "num_iterations": 2} for name in LOSSES},
    "several updates": {"num_iterations": 3},
    "a batch in four parts": {"steps_per_generation": 4, "gradient_accumulation_steps": 4},
    "two steps a generation": {"steps_per_generation": 2, "gradient_accumulation_steps": 1},
    "KL": {"beta": 0.1},
    "KL, corrected": {"beta": 0.1, "use_bias_correction_kl": True},
    "reference that follows": {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
    "high entropy only": {"top_entropy_quantile": 0.5},
    "entropy bonus": {"entropy_coef": 0.05},
    "entropy bonus with TRL's own target": {"entropy_coef": 0.05, "use_adaptive_entropy": True, "entropy_target": 2.5},
    "rewards as they are": {"scale_rewards": "none"},
    "rewards over the batch": {"scale_rewards": "batch"},
    "two-sided clip": {"epsilon": 0.1, "epsilon_high": 0.3, "delta": 1.5, "num_iterations": 2},
    "ratios of responses": {"importance_sampling_level": "sequence", "num_iterations": 2},
    "off-policy mask": {"off_policy_mask_threshold": 1e-4, "num_iterations": 2},
    "cut responses left out": {"mask_truncated_completions": True},
    "checkpointing": {"gradient_checkpointing": True},
    "bfloat16": {"bf16": True},
}


def stored_policy(folder):
    """From a folder, where a KL penalty finds its reference."""
    model = policy()
    model.save_pretrained(folder)
    model.config._name_or_path = str(folder)
    return model


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_with_nothing_masked_every_configuration_is_stock_trl(tmp_path, name):
    settings = CONFIGURATIONS[name] | {"model": partial(stored_policy, tmp_path / "policy")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*importance_sampling_level.*")
        ours = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings, **NOTHING_MASKED)
        theirs = trained(GRPOTrainer, GRPOConfig, tmp_path, **settings)
        masked = trained(
            EntropyClippingGRPOTrainer,
            EntropyClippingGRPOConfig,
            tmp_path,
            **settings,
            entropy_clipping="clip_v",
            mu=0.3,
        )
    assert torch.equal(weights(ours), weights(theirs))
    shares = [row.get("entropy_clipping/masked_negative", 0.0) for row in masked.state.log_history]
    if max(shares) > 0:  # cut responses may all be left out
        assert not torch.equal(weights(masked), weights(theirs))
    else:
        assert name == "cut responses left out"


class Largest(TorchDispatchMode):
    """The most bytes behind a tensor that an operation returned."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("cap", [None, 30.0])
def test_the_pass_makes_no_logits_of_a_whole_response(monkeypatch, cap):
    monkeypatch.setattr("entropy_dynamics.trl.LOGITS_AT_ONCE", 2**16)
    trainer = bare_trainer(
        small("gemma2", vocab_size=20000, final_logit_softcapping=cap), per_device_train_batch_size=4
    )
    length = 300
    output = {
        "prompt_ids": torch.randint(3, 15, (4, 4)),
        "prompt_mask": torch.ones(4, 4, dtype=torch.long),
        "completion_ids": torch.randint(3, 15, (4, length)),
        "completion_mask": torch.ones(4, length, dtype=torch.long),
    }
    with Largest() as largest:
        trainer._sampled_statistics(output)
    assert largest.bytes < 0.4 * 4 * length * 20000  # of one response's logits; four are scored at once


def scored_output(rows=8, length=5):
    drawn = torch.Generator().manual_seed(0)
    return {
        "prompt_ids": torch.randint(3, 15, (rows, 4), generator=drawn),
        "prompt_mask": torch.ones(rows, 4, dtype=torch.long),
        "completion_ids": torch.randint(3, 15, (rows, length), generator=drawn),
        "completion_mask": torch.ones(rows, length, dtype=torch.long),
        "advantages": torch.linspace(-1, 1, rows),
    }


def test_tokens_of_tools_are_neither_counted_nor_masked():
    trainer, output = bare_trainer(mu=0.5), scored_output()
    trainer.model.train()
    tools = torch.rand(8, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    with mock.patch.object(GRPOTrainer, "_generate_and_score_completions", lambda *_: output | {"tool_mask": tools}):
        kept = trainer._generate_and_score_completions([])["kept"]
    statistics = trainer._sampled_statistics(output)
    expected = clipping.clip_b(statistics, output["advantages"].unsqueeze(1), tools, mu=0.5)
    assert torch.equal(kept, expected) and (tools & ~kept).any()


def test_in_evaluation_nothing_is_masked():
    trainer, output = bare_trainer(), scored_output()
    trainer.model.eval()
    with mock.patch.object(GRPOTrainer, "_generate_and_score_completions", lambda *_: output):
        assert "kept" not in trainer._generate_and_score_completions([])


def test_as_many_responses_at_a_time_as_a_training_step_has():
    trainer, rows = bare_trainer(per_device_train_batch_size=4), []
    hook = trainer.model.register_forward_hook(lambda model, inputs, found: rows.append(len(found.log_probs)))
    trainer._sampled_statistics(scored_output(rows=10))
    hook.remove()
    assert rows == [4, 4, 2]


def test_a_config_of_trls_own_is_refused():
    with pytest.raises(TypeError, match="args is a GRPOConfig, expected an EntropyClippingGRPOConfig"):
        EntropyClippingGRPOTrainer(
            model=policy(),
            reward_funcs=reward,
            args=GRPOConfig(output_dir="unused", **SETTINGS),
            train_dataset=dataset(),
            processing_class=character_tokenizer(),
        )


def test_images_are_passed_on_as_trl_does():
    trainer, seen = bare_trainer(), {}
    tokens = torch.ones(2, 3, dtype=torch.long)
    output = {"prompt_ids": tokens, "prompt_mask": tokens, "completion_ids": tokens, "completion_mask": tokens}
    output |= {"pixel_values": torch.ones(2, 1), "num_images": [1, 1], "advantages": torch.ones(2)}

    def scored(self, model, *args, batch_size=None, compute_entropy=False, pixel_values=None, num_images=None):
        seen.update(pixel_values=pixel_values, num_images=num_images)
        model(
            input_ids=torch.ones(2, 7, dtype=torch.long), labels=torch.ones(2, 7, dtype=torch.long), fused_lm_head=True
        )
        return torch.zeros(2, 3), torch.zeros(2, 3), None

    with mock.patch.object(GRPOTrainer, "_get_per_token_logps_and_entropies", scored):
        trainer._sampled_statistics(output)
    assert seen == {"pixel_values": output["pixel_values"], "num_images": [1, 1]}


def test_the_page_of_the_released_setting_names_settings_that_exist():
    text = (Path(__file__).parents[2] / "docs" / "released_setting.md").read_text(encoding="utf-8")
    cells = [row.split("|")[4] for row in text.splitlines() if row.startswith("| `")]
    names = {name.partition("=")[0] for cell in cells for name in re.findall(r"`([a-z][^`]*)`", cell)}
    known = set(EntropyClippingGRPOConfig.__dataclass_fields__) | set(inspect.signature(GRPOTrainer).parameters)
    assert len(names) > 15 and names <= known, names - known


# Of the released runs, by verl's older trainer where their files say nothing.
RELEASED = {
    **{"learning_rate": 1e-6, "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.01},
    **{"max_grad_norm": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "epsilon": 0.2, "delta": 3.0, "beta": 0.0},
    **{"loss_type": "dapo", "importance_sampling_level": "token", "num_iterations": 1, "entropy_coef": 0.0},
    **{"temperature": 1.0, "scale_rewards": "group", "mask_truncated_completions": False},
}


def test_the_page_of_the_released_setting_names_every_default_of_trl_that_differs():
    text = (Path(__file__).parents[2] / "docs" / "released_setting.md").read_text(encoding="utf-8")
    config = GRPOConfig(output_dir="unused", use_cpu=True, bf16=False)
    differ = {name for name, value in RELEASED.items() if getattr(config, name) != value}
    assert differ == {"lr_scheduler_type", "weight_decay", "delta"}
    assert all(name in text for name in differ), text
    assert 'lr_scheduler_type="constant"' in text and "weight_decay=0.01" in text


@pytest.mark.parametrize("page", ["README.md", "docs/trl.md"])
def test_the_snippets_run(tmp_path, page):
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    (snippet,) = re.findall(r"<!-- trl snippet -->\n```python\n(.*?)```", text, re.S)
    assert len(snippet.splitlines()) <= 10
    names = {"model": policy(), "reward": reward, "dataset": dataset(), "tokenizer": character_tokenizer()}
    names |= {"settings": SETTINGS | {"output_dir": str(tmp_path)}, "mu": 1.0}
    exec(snippet, names)
    assert names["trainer"].state.global_step == 2 and names["trainer"].args.entropy_clipping == "clip_b"
    assert page == "README.md" or (len(names["shares"]) == 2 and all(0 <= share <= 1 for share in names["shares"]))


def test_the_average_with_the_start_is_nine_parts_end_and_one_part_start():
    text = (Path(__file__).parents[2] / "docs" / "trl.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"<!-- averaging snippet -->\n```python\n(.*?)```", text, re.S)
    model = policy()
    before = {name: value.clone() for name, value in model.named_parameters()}

    class Trainer:
        def __init__(self):
            self.model = model
            self.saved = None

        def save_model(self):
            self.saved = {name: value.clone() for name, value in model.named_parameters()}

        def train(self):
            with torch.no_grad():
                for value in model.parameters():
                    value.add_(1.0)

    trainer = Trainer()
    exec(snippet, {"trainer": trainer})
    for name, value in trainer.saved.items():
        assert torch.allclose(value, before[name] + 0.9, atol=1e-6), name


OF_PROCESSES = {
    "threshold": {"mu": 0.8},
    "target": {
        "clipping_target": 2.5,
        "clipping_effect": 0.1,
        "clipping_horizon": 30.0,
        "clipping_largest_share": 1.0,
    },
}


def _train_in_process(folder, case):
    """What each of two processes does that torchrun starts with this file as their program."""
    torch.set_num_threads(1)
    settings = {"entropy_clipping": "clip_b", "max_steps": 1} | OF_PROCESSES[case]
    trainer = trained(Watched, EntropyClippingGRPOConfig, folder, **settings)
    assert trainer.accelerator.num_processes == 2
    rank = trainer.accelerator.process_index
    ((_, output),) = trainer.seen
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "kept")
    save_file({name: output[name].contiguous() for name in names}, f"{folder}/{rank}.safetensors")
    log = {name: trainer.state.log_history[0].get(f"entropy_clipping/{name}", 0.0) for name in ("mean_s", "share")}
    log = {name: torch.tensor(value, dtype=torch.float64) for name, value in log.items()}
    save_file(log, f"{folder}/log{rank}.safetensors")
    leave(trainer.accelerator)


@pytest.mark.parametrize("case", OF_PROCESSES)
def test_two_processes_train_on_the_masks_of_the_whole_batch(tmp_path, case):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, __file__, str(tmp_path), case], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    model, values, entropies, advantages, kept = policy(), [], [], [], []
    for part in parts:
        tokens, mask = part["completion_ids"], part["completion_mask"].bool()
        ids = torch.cat([part["prompt_ids"], tokens], 1)
        attention = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
        with torch.no_grad():
            logits = model(ids, attention_mask=attention).logits[:, -tokens.shape[1] - 1 : -1]
        statistics = token_statistics(logits, tokens, temperature=0.9)
        values.append(statistics.discriminator[mask])
        entropies.append(statistics.entropy[mask])
        advantages.append(part["advantages"].unsqueeze(1).expand(mask.shape)[mask])
        kept.append(part["kept"][mask])
    s, a, kept = torch.cat(values).double(), torch.cat(advantages), torch.cat(kept)
    logs = [load_file(tmp_path / f"log{rank}.safetensors") for rank in range(2)]
    assert logs[0] == logs[1] and logs[0]["mean_s"].item() == pytest.approx(s.mean().item(), rel=1e-5)
    masked = (s - s.mean() < -0.8 * s.std(correction=0)) & (a < 0)
    if case == "target":
        share = TargetEntropy(2.5, len(tasks.ALPHABET), 0.1, 30.0).update(torch.cat(entropies).double().mean().item())
        assert logs[0]["share"].item() == pytest.approx(share, rel=1e-4)
        masked = largest(-s, a < 0, round(share * int((a < 0).sum())))
    assert torch.equal(kept, ~masked) and masked.any()


if __name__ == "__main__":
    _train_in_process(*sys.argv[1:])
