"""Time and memory: the token statistics beside other ways to have them, and a GRPO step beside TRL's. Uses the library,
`laboratory` and `provenance`.
"""
