"""Real language models: SmolLM2 from its wheel, its tasks, its training through TRL, its steps taken apart, and the
paper's setting with its data rules and what it takes. Uses `instruments` and the rooms before it.
"""
