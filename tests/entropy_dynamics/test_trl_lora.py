"""Clip_B and Clip_V where TRL trains an adapter of low rank: masks are those of the model with the adapter merged."""

from functools import partial

import pytest
import torch

pytest.importorskip("trl")
peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install peft==0.21.2")

from test_trl import NOTHING_MASKED, SETTINGS, Watched, character_tokenizer, dataset, policy, reward, weights

from entropy_dynamics import clipping
from entropy_dynamics.token_statistics import token_statistics
from entropy_dynamics.trl import EntropyClippingGRPOConfig, EntropyClippingGRPOTrainer, GRPOConfig, GRPOTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

SETTINGS_OF_LORA = [{}, {"beta": 0.1}, {"lora_dropout": 0.3}, {"gradient_checkpointing": True}]


def adapter(**settings):
    """Far from zero, so that it matters from the first batch."""
    return peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules="all-linear", **settings)


def trained(trainer, config, folder, lora_dropout=0.0, **settings):
    torch.manual_seed(0)
    trainer = trainer(
        model=policy(),
        reward_funcs=reward,
        args=config(output_dir=str(folder), **SETTINGS | settings),
        train_dataset=dataset(),
        processing_class=character_tokenizer(),
        peft_config=adapter(lora_dropout=lora_dropout),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("method, mask", [("clip_b", clipping.clip_b), ("clip_v", clipping.clip_v)])
def test_masks_are_those_of_the_merged_model(tmp_path, method, mask):
    trainer = trained(Watched, EntropyClippingGRPOConfig, tmp_path, entropy_clipping=method, mu=0.8)
    assert len(trainer.seen) == 2
    for state, output in trainer.seen:
        model = peft.get_peft_model(policy(), adapter())
        model.load_state_dict(state)
        model = model.merge_and_unload()
        assert not [name for name, _ in model.named_parameters() if "lora" in name]
        tokens, responses = output["completion_ids"], output["completion_mask"].bool()
        ids = torch.cat([output["prompt_ids"], tokens], 1)
        attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        with torch.no_grad():
            logits = model(ids, attention_mask=attention).logits[:, -tokens.shape[1] - 1 : -1]
        statistics = token_statistics(logits, tokens, temperature=0.9)
        expected = mask(statistics, output["advantages"].unsqueeze(1), responses, mu=0.8)
        assert torch.equal(output["kept"], expected) and (responses & ~expected).any()

        # Without the adapter other tokens would be masked.
        with torch.no_grad():
            logits = policy()(ids, attention_mask=attention).logits[:, -tokens.shape[1] - 1 : -1]
        statistics = token_statistics(logits, tokens, temperature=0.9)
        assert not torch.equal(expected, mask(statistics, output["advantages"].unsqueeze(1), responses, mu=0.8))


@pytest.mark.parametrize(
    "settings", [{}, {"beta": 0.1}, {"lora_dropout": 0.3}, {"gradient_checkpointing": True}], ids=str
)
def test_with_nothing_masked_it_is_stock_trl(tmp_path, settings):
    train = partial(trained, folder=tmp_path, **settings)
    ours = train(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, **NOTHING_MASKED)
    theirs = train(GRPOTrainer, GRPOConfig)
    masked = train(EntropyClippingGRPOTrainer, EntropyClippingGRPOConfig, entropy_clipping="clip_v", mu=0.3)
    assert torch.equal(weights(ours), weights(theirs))
    assert not torch.equal(weights(masked), weights(theirs))
