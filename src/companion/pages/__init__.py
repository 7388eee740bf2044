"""Pages that are made, not written: the generated parts of the README and of docs/, from verdicts, records, claims and
docstrings. Uses all rooms before it.
"""
