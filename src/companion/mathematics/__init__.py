"""What can be said of policies without training any: symbolic proofs, the exact remainder and its bound, comparisons on
random and real policies with wrong formulas that must fail, what samplers do to the mean of D and groups to the step,
whole families of policies as landscapes, and the checks that decide the claims of notebooks 01 to 04. Uses the library
alone.
"""
