"""What can be said of policies without training any: symbolic proofs, the exact remainder and its bounds, checks on
random and real policies with wrong formulas that must fail, what samplers do to the mean of D and groups to the step,
where gradient flows end, and whole families of policies as landscapes. Uses the library alone.
"""
