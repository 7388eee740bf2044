"""The fields that TRL makes where vLLM samples, without vLLM: TRL samples, and log-probabilities that an engine might
have given are supplied. From there on all is TRL's: ratios of trainer to engine, and what they do in the loss.
"""

from functools import partial

import pytest
import torch

pytest.importorskip("trl")

from test_trl import NOTHING_MASKED, Watched, policy, stored_policy, trained, weights

from entropy_dynamics import clipping
from entropy_dynamics.token_statistics import discriminator_of, token_statistics
from entropy_dynamics.trl import EntropyClippingGRPOConfig, EntropyClippingGRPOTrainer, GRPOConfig, GRPOTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
MODES = {
    **{mode: {"vllm_importance_sampling_mode": mode} for mode in ("token_truncate", "token_mask")},
    **{mode: {"vllm_importance_sampling_mode": mode} for mode in ("sequence_truncate", "sequence_mask")},
    "vespo": {"vllm_importance_sampling_mode": "token_truncate", "loss_type": "vespo"},
    "off-policy mask": {"off_policy_mask_threshold": 0.05, "vllm_importance_sampling_correction": False},
    "KL": {"beta": 0.1, "use_bias_correction_kl": True},
    "no correction": {"vllm_importance_sampling_correction": False},
}


class Engine:
    """Samples as TRL does and says how likely it held each token: up to half a nat off."""

    def _generate_single_turn(self, *args, **kwargs):
        self.use_vllm = False
        tokens, _ = super()._generate_single_turn(*args, **kwargs)
        self.use_vllm = True
        width = max(map(len, tokens))
        ids = torch.tensor([x + [0] * (width - len(x)) for x in tokens])
        prompts = torch.tensor(args[0])
        with torch.no_grad():
            logits = self.model(torch.cat([prompts, ids], 1)).logits[:, prompts.shape[1] - 1 : -1]
        log_prob = token_statistics(logits, ids, temperature=self.temperature).log_prob
        wrong = torch.rand(log_prob.shape, generator=torch.Generator().manual_seed(self._step)) - 0.5
        return tokens, [row[: len(x)].tolist() for row, x in zip(log_prob + wrong, tokens)]


class StockWithEngine(Engine, GRPOTrainer):
    pass


class OursWithEngine(Engine, EntropyClippingGRPOTrainer):
    pass


class WatchedWithEngine(Engine, Watched):
    pass


@pytest.mark.parametrize("name", MODES)
def test_with_nothing_masked_the_fields_act_as_in_stock_trl(tmp_path, name):
    settings = MODES[name] | {"vllm_importance_sampling_clip_max": 1.2}
    settings["model"] = partial(stored_policy, tmp_path / "policy")
    ours = trained(OursWithEngine, EntropyClippingGRPOConfig, tmp_path, **settings, **NOTHING_MASKED)
    theirs = trained(StockWithEngine, GRPOConfig, tmp_path, **settings)
    without = trained(GRPOTrainer, GRPOConfig, tmp_path, **settings)
    assert torch.equal(weights(ours), weights(theirs))
    assert torch.equal(weights(theirs), weights(without)) == (name == "no correction")  # otherwise the fields act


def test_masks_go_by_the_trainers_own_probabilities(tmp_path):
    settings = {"entropy_clipping": "clip_b", "mu": 0.8}
    trainer = trained(WatchedWithEngine, EntropyClippingGRPOConfig, tmp_path, **settings)
    for state, output in trainer.seen:
        assert output["importance_sampling_ratio"].std() > 0.1
        model = policy()
        model.load_state_dict(state)
        tokens, mask = output["completion_ids"], output["completion_mask"].bool()
        ids = torch.cat([output["prompt_ids"], tokens], 1)
        with torch.no_grad():
            logits = model(ids).logits[:, -tokens.shape[1] - 1 : -1]
        statistics = token_statistics(logits, tokens, temperature=0.9)
        expected = clipping.clip_b(statistics, output["advantages"].unsqueeze(1), mask, mu=0.8)
        assert torch.equal(output["kept"], expected) and (mask & ~expected).any()

        # By the engine's probabilities other tokens would be masked.
        s = discriminator_of(output["sampling_per_token_logps"], statistics.entropy)
        other = clipping.clip_b(statistics._replace(discriminator=s), output["advantages"].unsqueeze(1), mask, mu=0.8)
        assert not torch.equal(expected, other)
