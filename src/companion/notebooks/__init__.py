"""What every notebook imports: checked parameters, verdicts on claims, figures on disk, tables with what their columns
mean. Uses all rooms before it.
"""
