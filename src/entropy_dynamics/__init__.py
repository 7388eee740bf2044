"""Executable companion to "On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models".

- formulas: `theory`, `lens`
- statistics of tokens: `token_statistics` from logits, `linear_statistics` from hidden states, `sharded_statistics`
  from parts of a vocabulary; below them `vocabulary_sums`, `operators`, `backends` and its two, `compiled_backend` and
  `triton_backend`
- which tokens lose their gradient: `clipping`; `global_clipping` where a batch is split; `control` for a target entropy
- training: `methods` (all rules), `grpo`, `linear_loss`
- in trainers: `trl`, `verl`, `masking_log`
"""

__version__ = "0.2.0"
