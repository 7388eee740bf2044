"""What every notebook imports: checked parameters, verdicts on claims, figures on disk; and the README's generated
parts. Uses all rooms before it.
"""
