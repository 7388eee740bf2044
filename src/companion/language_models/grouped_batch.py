"""One grouped batch of a language model on arithmetic, token by token, as GRPO would make advantages of it.

Run as a program, this samples `data/smollm2_tokens.csv` anew: `python -m companion.language_models.grouped_batch`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import transformers

from companion.files import write_atomically
from companion.language_models import arithmetic
from companion.language_models.arithmetic import FORMATS, Problem
from companion.language_models.language_model import Responses, load_language_model, response_logits
from entropy_dynamics.grpo import group_advantages
from entropy_dynamics.token_statistics import token_statistics

COMMITTED = Path("data/smollm2_tokens.csv")
ASKED = "one example"  # the way of asking that SmolLM2's training uses


def sample_groups(
    model: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    group_size: int = 8,
    max_tokens: int = 6,
    seed: int = 0,
) -> tuple[Responses, list[float]]:
    """`group_size` responses to each problem in turn, and their rewards: 1 where the first number is the value, else 0.

    From the whole distribution at temperature 1, ended by the end token or after `max_tokens`.
    """
    ask = FORMATS[ASKED]
    asked = [problem for problem in problems for _ in range(group_size)]
    batch = tokenizer([ask(problem.expression) for problem in asked], padding=True, return_tensors="pt")
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # generate() draws from the global generator
        output = model.generate(
            **batch, max_new_tokens=max_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        )[:, batch["input_ids"].shape[1] :].tolist()
    end = tokenizer.eos_token_id
    responses = [ids[: ids.index(end) + 1] if end in ids else ids for ids in output]
    prompts = [ids[keep.bool()].tolist() for ids, keep in zip(batch["input_ids"], batch["attention_mask"])]
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    rewards = [float(arithmetic.is_correct(problem, text)) for problem, text in zip(asked, texts)]
    return Responses(model.name_or_path, 1.0, seed, prompts, responses), rewards


def token_table(
    model: transformers.PreTrainedModel,
    problems: Sequence[Problem],
    responses: Responses,
    rewards: Sequence[float],
    *,
    group_size: int = 8,
) -> pd.DataFrame:
    """One row a response token: whose it is, its statistics under the policy that it was sampled from, and A.

    Returns:
        problem (its expression), row (of the response), position, token (id); probability p, entropy H, discriminator
        S and centred D (nats); reward and advantage, standardised within the problem's group, of the response.
    """
    parts = [token_statistics(logits.double(), tokens) for logits, tokens in response_logits(model, responses)]
    statistics = {
        "probability": torch.cat([part.log_prob.exp() for part in parts]),
        "entropy": torch.cat([part.entropy for part in parts]),
        "discriminator": torch.cat([part.discriminator for part in parts]),
        "centred": torch.cat([part.centred for part in parts]),
    }
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64).view(-1, group_size)).flatten().tolist()
    rows = [
        (problems[row // group_size].expression, row, position, token, rewards[row], advantages[row])
        for row, response in enumerate(responses.response_ids)
        for position, token in enumerate(response)
    ]
    table = pd.DataFrame(rows, columns=["problem", "row", "position", "token", "reward", "advantage"])
    table[list(statistics)] = torch.stack(list(statistics.values()), -1).numpy()
    return table[["problem", "row", "position", "token", *statistics, "reward", "advantage"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m companion.language_models.grouped_batch",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--problems", type=int, default=32, help="training problems of addition, the first ones")
    parser.add_argument("--output", type=Path, default=COMMITTED, help="the table that is written")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    options = parser.parse_args()
    model, tokenizer = load_language_model()
    problems = arithmetic.split("addition")[0][: options.problems]
    responses, rewards = sample_groups(model, tokenizer, problems, seed=options.seed)
    table = token_table(model, problems, responses, rewards)
    write_atomically(options.output, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    print(
        f"{options.output}: {len(table):,} tokens of {len(rewards)} responses, {sum(rewards) / len(rewards):.1%} right"
    )


if __name__ == "__main__":
    main()
