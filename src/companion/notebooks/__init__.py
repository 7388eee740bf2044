"""What every notebook imports (parameters, verdicts on claims, figures on disk), and the runner that executes, checks
and installs them. Uses all rooms before it.
"""
