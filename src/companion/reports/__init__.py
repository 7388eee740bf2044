"""From records to tables, and from tables to checks: Avg@K, Pass@K and intervals, the tables that notebooks print and
draw, the claims as checks on them, and the release of all records as data. Uses `runs` and the rooms before it.
"""
