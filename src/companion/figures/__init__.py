"""From tables to figures, one function a figure, all in one style. Uses `reports` and the rooms before it; the files are
written by `notebooks`.
"""
