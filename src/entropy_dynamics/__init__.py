"""Executable companion to "On the Entropy Dynamics in Reinforcement Fine-Tuning of Large Language Models"."""

__version__ = "0.2.0"
