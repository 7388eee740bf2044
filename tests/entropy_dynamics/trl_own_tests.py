"""Runs TRL's own tests of GRPOTrainer on text, twice: as they are, and with ours in its place.

    python tests/entropy_dynamics/trl_own_tests.py CHECKOUT [-k EXPRESSION] [--mu 0.3]

CHECKOUT is one of TRL's repository, best at the tag of the TRL that is installed; PEFT is needed. Tiny models of the
same families, a tokenizer of bytes and sentences of the Zen of Python stand in for what those tests take from the hub:
they lie in folders of the same names, and pytest runs beside them. Two steps are trained where a test sets no number.
Ours makes its pass and masks nothing; with --mu 0.3 it masks much, so that a test which wants every weight moved may
fail. Fails if a test passes with TRL's trainer and not with ours. Tests whose models are not built, and those that a
newer or older TRL has changed, fail with both.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

MU = "ENTROPY_DYNAMICS_MU_IN_TRLS_TESTS"  # empty: TRL's trainer
SIZES = {"hidden_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
SIZES |= {"intermediate_size": 32, "head_dim": 4, "sliding_window": 64, "max_position_embeddings": 2048}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "output_router_logits": True}
GLM = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
MODELS = {  # name: architecture, its settings, TRL's chat template
    "tiny-Qwen2ForCausalLM-2.5": ("qwen2", {}, "qwen2_5"),
    "tiny-Qwen3ForCausalLM": ("qwen3", {}, "qwen3"),
    "tiny-Qwen3MoeForCausalLM": ("qwen3_moe", EXPERTS, "qwen3"),
    "tiny-LlamaForCausalLM-3.2": ("llama", {}, "llama3_2"),
    "tiny-MistralForCausalLM-0.2": ("mistral", {}, "llama3"),
    "tiny-Gemma2ForCausalLM": ("gemma2", {}, "gemma"),
    "tiny-Cohere2ForCausalLM": ("cohere2", {}, "cohere2"),
    "tiny-GptOssForCausalLM": ("gpt_oss", GPT_OSS, "gptoss"),
    "tiny-Glm4MoeForCausalLM": ("glm4_moe", GLM, "glm4moe"),
    "tiny-Qwen2ForSequenceClassification-2.5": ("qwen2", {"num_labels": 1}, "qwen2_5"),
    "tiny-Qwen3ForSequenceClassification": ("qwen3", {"num_labels": 1}, "qwen3"),
    "tiny-LlamaForSequenceClassification-3.2": ("llama", {"num_labels": 1}, "llama3_2"),
}


def tokenizer(template: str):
    import trl
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({x: i for i, x in enumerate(bytes_)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made.add_special_tokens([AddedToken(x, special=True) for x in special])
    made.add_tokens([AddedToken(x) for x in ("<think>", "</think>", "<tool_call>", "</tool_call>")])
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    found.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja").read_text("utf-8")
    return found


def build(folder: Path) -> None:
    """The models and data sets under the names that they have on the hub."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    for name, (architecture, settings, template) in MODELS.items():
        torch.manual_seed(0)
        of_text = tokenizer(template)
        ids = {"pad_token_id": of_text.pad_token_id, "eos_token_id": of_text.eos_token_id, "bos_token_id": None}
        kind = AutoModelForSequenceClassification if "num_labels" in settings else AutoModelForCausalLM
        config = AutoConfig.for_model(architecture, **SIZES | {"vocab_size": len(of_text)} | ids | settings)
        kind.from_config(config, dtype=torch.bfloat16).save_pretrained(folder / name)
        of_text.save_pretrained(folder / name)
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    text = "".join(this.d.get(x, x) for x in this.s).splitlines()[2:]
    beginnings = [" ".join(line.split()[:-2]) for line in text]
    forms = {"standard_prompt_only": str, "conversational_prompt_only": lambda x: [{"role": "user", "content": x}]}
    for form, prompt in forms.items():
        (folder / "zen" / form).mkdir(parents=True, exist_ok=True)
        for part, lines in (("train", beginnings[:17]), ("test", beginnings[17:])):
            rows = "".join(json.dumps({"prompt": prompt(line)}) + "\n" for line in lines)
            (folder / "zen" / form / f"{part}.jsonl").write_text(rows, encoding="utf-8")
    parts = [
        f"- config_name: {form}\n  data_files:\n"
        + "".join(f"  - split: {part}\n    path: {form}/{part}.jsonl\n" for part in ("train", "test"))
        for form in forms
    ]
    (folder / "zen" / "README.md").write_text("---\nconfigs:\n" + "".join(parts) + "---\n", encoding="utf-8")


def pytest_configure() -> None:
    """As a plugin of pytest: puts another config and trainer where TRL's tests import them from."""
    import torch

    if not torch.cuda.is_available():
        sys.modules["liger_kernel"] = (
            None  # needs one, and changes the models of all tests after the first that uses it
        )
    import trl
    from trl import import_utils

    mu = float(os.environ[MU] or "nan")
    ours = mu == mu
    if ours:
        from entropy_dynamics.trl import EntropyClippingGRPOConfig as Config
        from entropy_dynamics.trl import EntropyClippingGRPOTrainer as Trainer
    else:
        Config, Trainer = trl.GRPOConfig, trl.GRPOTrainer

    before = Config.__post_init__

    def post_init(self):
        if self.max_steps < 0:
            self.max_steps = 2
        if ours:
            self.entropy_clipping, self.mu, self.clipping_reading = "clip_v", mu, "two-sided"
        before(self)

    Config.__post_init__ = post_init  # in place: trainers pickle their config

    class GRPOTrainer(Trainer):
        def __init__(self, *of_trainer, args=None, **others):
            super().__init__(*of_trainer, args=args or Config("unused"), **others)

    trl.GRPOConfig, trl.GRPOTrainer = Config, GRPOTrainer
    # Tests of another version ask for packages that this one does not know of.
    import_utils.__getattr__ = lambda name: (lambda: False) if name.endswith("_available") else _missing(name)


def _missing(name: str):
    raise AttributeError(f"trl.import_utils has no {name}; take a checkout of the TRL that is installed")


def outcomes(checkout: Path, folder: Path, mu: str, expression: str) -> dict[str, str]:
    """passed, failed or skipped, by test."""
    report = folder / f"{'ours' if mu else 'stock'}.xml"
    report.unlink(missing_ok=True)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {MU: mu, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    tests = f"{checkout}/tests/test_grpo_trainer.py::TestGRPOTrainer"
    command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, "-c", os.devnull, "--rootdir", str(checkout)]
    command += ["-p", "no:cacheprovider", "-q", "--timeout", "300", "--tb", "line", "--junitxml", str(report), tests]
    subprocess.run([*command, "-k", expression], cwd=folder, env=environment, check=False)
    if not report.is_file():
        raise SystemExit(f"pytest wrote no {report}; its messages are above")
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {part.tag for part in case}
        bad = "failed" if kinds & {"failure", "error"} else "passed"
        found[case.get("name")] = "skipped" if "skipped" in kinds else bad
    if not mu and "passed" not in found.values():
        raise SystemExit(f"no test of {tests} with -k {expression!r} passes with TRL's own trainer; see above")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="of github.com/huggingface/trl")
    parser.add_argument("-k", default="test", metavar="EXPRESSION", help="which tests, as pytest takes it")
    parser.add_argument("--mu", type=float, default=1e9, help="of Clip_V, two-sided; by default nothing is masked")
    parser.add_argument("--output", type=Path, default=Path("build/trl_own"))
    options = parser.parse_args()
    if not (options.checkout / "tests" / "test_grpo_trainer.py").is_file():
        parser.error(f"{options.checkout.resolve()} has no tests/test_grpo_trainer.py; expected a checkout of TRL")
    folder = options.output.resolve()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build(folder / "trl-internal-testing")
    stock, ours = (outcomes(options.checkout.resolve(), folder, mu, options.k) for mu in ("", str(options.mu)))
    for name, found in (("TRL's", stock), ("ours", ours)):
        kinds = list(found.values())
        print(name, *(f"{kinds.count(kind)} {kind}" for kind in ("passed", "failed", "skipped")), sep=", ")
    worse = [name for name, kind in stock.items() if kind == "passed" and ours.get(name) != "passed"]
    print("pass with TRL's trainer and not with ours:", ", ".join(worse) or "none")
    return bool(worse)


if __name__ == "__main__":
    sys.exit(main())
