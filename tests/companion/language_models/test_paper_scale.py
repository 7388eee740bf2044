"""The paper's setting is complete, says where each value is from, and its entry point runs with what is here."""

import subprocess
import sys

import pytest
import yaml

from companion.language_models.paper_scale import PaperScale, accelerate_settings, smollm2_parts, sources, trl_settings
from entropy_dynamics.trl import EntropyClippingGRPOConfig


def test_every_value_has_a_source_and_a_meaning():
    rows = sources()
    assert {row["name"] for row in rows} == set(PaperScale.model_fields)
    assert {row["source"] for row in rows} == {"paper, reported", "released file", "framework default", "ours"}
    assert all(row["meaning"] for row in rows)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # TRL's own use of transformers
def test_the_config_is_a_config_of_the_trainer(tmp_path):
    settings = trl_settings(PaperScale()) | {"bf16": False, "use_vllm": False, "use_cpu": True}
    config = EntropyClippingGRPOConfig(output_dir=str(tmp_path), **settings)
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps * 8 == 64 * 16
    assert (config.entropy_clipping, config.mu, config.max_completion_length) == ("clip_b", 2.5, 7168)
    with pytest.raises(ValueError, match="do not divide among 7 GPUs"):
        trl_settings(PaperScale(gpus=7))


def test_accelerate_gets_zero_3_on_all_gpus(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "companion.language_models.paper_scale",
            "--write-accelerate",
            str(tmp_path / "new" / "a.yaml"),
        ]
    )
    assert done.returncode == 0
    written = yaml.safe_load((tmp_path / "new" / "a.yaml").read_text())
    assert written == accelerate_settings(PaperScale())
    assert written["num_processes"] == 8 and written["deepspeed_config"]["zero_stage"] == 3


def test_two_processes_run_the_entry_point_on_the_small_policy():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "companion.language_models.paper_scale", "--dry-run", "small"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 steps on 2 processes" in done.stdout


def test_smollm2_s_dry_run_trains_one_layer_on_additions_that_are_scored_as_mathematics():
    model, tokenizer, problems, reward = smollm2_parts()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all(name.startswith("model.layers.29.") for name in learning)
    assert len(problems) == 16 and tokenizer(problems[0]["prompt"]).input_ids
    answers = problems["answer"][:3]
    completions = [f" {answers[0]}\n1 + 1 = 2", f"{int(answers[1]) + 1}", f"{answers[2]}.0"]
    assert reward(completions=completions, answer=answers) == [1, 0, 1]


def test_the_config_is_read_without_the_libraries_that_train():
    code = "import sys; import companion.language_models.paper_scale; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not {"torch", "transformers", "datasets", "trl"} & set(done.stdout.split())


def test_without_the_hub_the_real_thing_says_so_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "companion.language_models.paper_scale"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "are needed from the hub and cannot be had" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
