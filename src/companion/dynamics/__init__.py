"""Where many small steps lead: the flows of one state in closed form, what SymPy proves of them, and the checks that
decide the claims of notebook 05 on them. Uses `mathematics`.
"""
