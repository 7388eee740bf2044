"""A training run that two cores finish in half a minute: countdown and its scorer, a small Llama and its warm start,
rollouts, rules with checked options, updates, the entropy ledger of a step, and one frozen config for all of it. Uses
the library and `mathematics`.
"""
