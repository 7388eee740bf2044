"""The trainer masks what `clipping` masks, and without a method it is TRL's own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

import datasets
from safetensors.torch import load_file, save_file

from companion.laboratory import tasks
from companion.laboratory.policies import WarmStart, build_policy, character_tokenizer
from companion.language_models.paper_scale import leave
from entropy_dynamics import clipping
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
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo", "sapo")


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


def trained(trainer, config, folder, **settings):
    torch.manual_seed(0)
    trainer = trainer(
        model=policy(),
        reward_funcs=reward,
        args=config(output_dir=str(folder), **SETTINGS | settings),
        train_dataset=dataset(),
        processing_class=character_tokenizer(),
    )
    trainer.train()
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
        advantages = output["advantages"].abs().amax(1, keepdim=True)  # a response has one, but where it is masked
        signs = output["advantages"].sign().sum(1, keepdim=True).sign()
        expected = {"clip_b": clipping.clip_b, "clip_v": clipping.clip_v}[settings["entropy_clipping"]](
            statistics,
            advantages * signs,
            mask,
            mu=settings["mu"],
            reading=settings.get("clipping_reading", "released"),
            **({"max_fraction": 0.1} if "clipping_max_fraction" in settings else {}),
        )
        whole = (advantages != 0) & mask  # responses that were masked as a whole, or have A = 0, say nothing
        assert torch.equal((output["advantages"] != 0) & whole, expected & whole)
        masked += int((whole & ~expected).sum())
    assert masked > 0


def test_what_is_masked_changes_the_weights_and_is_logged(tmp_path):
    settings = {"entropy_clipping": "clip_b", "mu": 0.8}
    plain = trained(GRPOTrainer, GRPOConfig, tmp_path)
    clipped = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings)
    untouched = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings | {"mu": 1e6})
    assert not torch.equal(weights(clipped), weights(plain))
    torch.testing.assert_close(weights(untouched), weights(plain), rtol=1e-4, atol=1e-5)
    logs = {name.removeprefix("entropy_clipping/"): value for name, value in clipped.state.log_history[0].items()}
    assert logs["masked_negative"] > 0 == logs["masked_positive"]
    assert logs["sigma_s"] > 0 and logs["sigma_d"] > 0
    assert logs["predicted_change"] > logs["predicted_change_unmasked"]  # the masked tokens lower entropy
    first = untouched.state.log_history[0]
    assert first["entropy_clipping/predicted_change"] == first["entropy_clipping/predicted_change_unmasked"]


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


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_takes_advantages_per_token(tmp_path, loss_type):
    settings = {"entropy_clipping": "clip_v", "mu": 0.8, "loss_type": loss_type, "max_steps": 1}
    if loss_type == "luspo":
        settings["importance_sampling_level"] = "sequence"
    if loss_type == "cispo":
        settings["epsilon_high"] = 5.0
    trainer = trained(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, tmp_path, **settings)
    assert weights(trainer).isfinite().all() and not torch.equal(weights(trainer), weights_of(policy()))


def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"entropy_clipping": "clip_x", "mu": 1.0}, "'clip_x', expected"),
        ({"entropy_clipping": "clip_b"}, "mu is None"),
        ({"entropy_clipping": "clip_b", "mu": -1.0}, r"mu is -1\.0"),
        ({"entropy_clipping": "clip_b", "mu": 1.0, "clipping_reading": "both"}, "'both'"),
        ({"entropy_clipping": "clip_b", "mu": 1.0, "clipping_max_fraction": 0.1}, r"clipping_max_fraction is 0\.1"),
        ({"entropy_clipping": "clip_v", "mu": 1.0, "clipping_max_fraction": 2.0}, r"clipping_max_fraction is 2\.0"),
        ({"entropy_clipping": "clip_v", "mu": 1.0, "loss_type": "vespo"}, "'vespo'"),
        ({"entropy_clipping": "clip_v", "mu": 1.0, "off_policy_mask_threshold": 0.1}, "off_policy_mask_threshold"),
    ],
)
def test_a_bad_config_is_refused_by_name(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        EntropyClippingGRPOConfig(output_dir=str(tmp_path), **SETTINGS | settings)


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


@pytest.mark.parametrize("longest, passes", [(6, 8), (12, 16)])
def test_passes_are_as_many_however_long_the_responses_are(tmp_path, monkeypatch, longest, passes):
    settings = {"entropy_clipping": "clip_b", "mu": 0.8, "max_steps": 1}
    at_once = trained(Watched, EntropyClippingGRPOConfig, tmp_path, **settings)
    monkeypatch.setattr("entropy_dynamics.trl.LOGITS_AT_ONCE", 12 * policy().config.vocab_size)
    forward, sizes = EntropyClippingGRPOTrainer._sampled_statistics, []

    def counted(self, output):
        self.max_completion_length = longest  # the responses at hand have at most 6 tokens
        hook = self.model.register_forward_hook(lambda model, args, out: sizes.append(len(out.logits)))
        statistics = forward(self, output)
        hook.remove()
        return statistics

    monkeypatch.setattr(EntropyClippingGRPOTrainer, "_sampled_statistics", counted)
    in_parts = trained(Watched, EntropyClippingGRPOConfig, tmp_path, **settings)
    assert sizes == [16 // passes] * passes
    (_, one), (_, two) = *at_once.seen, *in_parts.seen
    assert torch.equal(one["completion_ids"], two["completion_ids"])
    assert torch.equal(one["advantages"], two["advantages"])


def test_the_readme_snippet_runs(tmp_path):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (snippet,) = re.findall(r"<!-- trl snippet -->\n```python\n(.*?)```", text, re.S)
    assert len(snippet.splitlines()) <= 10
    names = {"model": policy(), "reward": reward, "dataset": dataset(), "tokenizer": character_tokenizer()}
    names["settings"] = SETTINGS | {"output_dir": str(tmp_path)}
    exec(snippet, names)
    assert names["trainer"].state.global_step == 2 and names["trainer"].args.entropy_clipping == "clip_b"


def _train_in_process(folder):
    """What each of two processes does that torchrun starts with this file as their program."""
    torch.set_num_threads(1)
    trainer = trained(Watched, EntropyClippingGRPOConfig, folder, entropy_clipping="clip_b", mu=0.8, max_steps=1)
    assert trainer.accelerator.num_processes == 2
    rank = trainer.accelerator.process_index
    ((_, output),) = trainer.seen
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
    save_file({name: output[name].contiguous() for name in names}, f"{folder}/{rank}.safetensors")
    log = trainer.state.log_history[0]
    save_file({"mean_s": torch.tensor(log["entropy_clipping/mean_s"])}, f"{folder}/log{rank}.safetensors")
    leave(trainer.accelerator)


def test_two_processes_train_on_the_masks_of_the_whole_batch(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, __file__, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    model, values, masks, advantages = policy(), [], [], []
    for part in parts:
        tokens, mask = part["completion_ids"], part["completion_mask"].bool()
        ids = torch.cat([part["prompt_ids"], tokens], 1)
        attention = torch.cat([part["prompt_mask"], part["completion_mask"]], 1)
        with torch.no_grad():
            logits = model(ids, attention_mask=attention).logits[:, -tokens.shape[1] - 1 : -1]
        values.append(token_statistics(logits, tokens, temperature=0.9).discriminator[mask])
        masks.append(mask)
        advantages.append(part["advantages"][mask])
    s, a = torch.cat(values).double(), torch.cat(advantages)
    logged = {load_file(tmp_path / f"log{rank}.safetensors")["mean_s"].item() for rank in range(2)}
    assert len(logged) == 1 and logged.pop() == pytest.approx(s.mean().item(), rel=1e-5)
    far_below = s - s.mean() < -0.8 * s.std(correction=0)
    assert (a[far_below] >= 0).all() and far_below.any() and (a < 0).any()


if __name__ == "__main__":
    _train_in_process(sys.argv[1])
