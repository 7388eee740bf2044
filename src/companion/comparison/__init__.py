"""The planned comparison of notebooks 09 and 10: what its rules choose, endpoints, families of tests, tables, answers,
and what the README says of it. Uses `reports` and the rooms before it.
"""
