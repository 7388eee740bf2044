"""What is measured on the way of a run without disturbing it: one update with and without each rule (`probe`), single
steps taken apart from logits to parameters (`anatomy`), through which other tokens a step acts (`kernel`), and which
share of it is a token's own (`own_share`). Uses `laboratory` and the rooms before it.
"""
