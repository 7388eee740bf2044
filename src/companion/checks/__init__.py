"""What notebooks claim of their records, as functions that say whether it holds, with the evidence in a line; those of
the planned comparison stand in `comparison`. Uses `reports` and the rooms before it.
"""
