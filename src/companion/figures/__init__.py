"""From tables to figures, one function a figure, all in one style. Uses `reports` and the rooms before it; `notebooks`
writes the files.
"""
