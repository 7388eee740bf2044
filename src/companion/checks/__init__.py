"""What notebooks claim of their records, as functions that say whether it holds, with the evidence in a line (those of
the planned comparison stand in `comparison`), and what readers answer to exercises. Uses `reports` and the rooms before
it.
"""
