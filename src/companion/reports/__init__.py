"""From records to tables, and from tables to checks: Avg@K, Pass@K and intervals, the tables that notebooks print and
draw, and the claims of the main comparison. Uses `runs` and the rooms before it.
"""
