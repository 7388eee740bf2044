"""Entropy control: a strength is moved so that a policy's mean entropy stays at a target.

A strength is whatever raises entropy when it is raised, up to the largest one allowed: the coefficient of a bonus, or
the share of penalised tokens that a mask takes, as long as these are tokens whose penalty lowers entropy. Where the
entropy of sampled states falls below the target, a proportional-integral controller raises the strength.
"""

import math
from dataclasses import dataclass


@dataclass
class TargetEntropy:
    """Holds mean entropy at `target` by one strength, moved once a batch.

    With e the target minus the mean entropy of the batch's sampled states, the strength is k e + c sum e, clamped
    to `smallest` and `largest`; the sum stands still while the clamp holds the strength back, so that with
    `smallest` = 0 nothing is done as long as entropy comes from above. After it has been below, a strength remains
    until entropy has been above as well. If the strength u changes entropy by `effect` u a batch, on top of
    whatever else does, then k = 1 / (effect horizon) and c = k / (4 horizon) close a gap without overshoot (both
    poles of the loop are at 1 / (2 horizon) a batch).

    Args:
        target: nats, above 0 and at most log `vocabulary`.
        vocabulary: its size.
        effect: nats that strength 1 would add to mean entropy in one batch if the effect of a small strength went on,
            above 0. To measure it hold a strength u for a few batches: how much more entropy a batch they add than as
            many without it, over u. A smaller value moves the strength further for the same gap.
        horizon: batches in which a gap closes, at least 1; a short one follows noise.
        smallest, largest: of the strength. Beyond the largest strength that still raises entropy the loop would run
            away: masks by S, D, p or covariance raise it up to about 0.2 of the penalised tokens (measured on a small
            policy).

    Raises:
        ValueError: a value outside its range.
    """

    target: float
    vocabulary: int
    effect: float
    horizon: float = 10.0
    smallest: float = 0.0
    largest: float = 1.0
    integral: float = 0.0  # the state: c sum e

    def __post_init__(self):
        highest = math.log(self.vocabulary) if self.vocabulary > 1 else 0.0
        if not 0 < self.target <= highest:
            raise ValueError(
                f"target is {self.target}, expected above 0 and at most log {self.vocabulary} = {highest:.3f} nats, "
                "the largest entropy there is"
            )
        if not 0 < self.effect < math.inf:
            raise ValueError(f"effect is {self.effect}, expected a number of nats above 0")
        if not 1 <= self.horizon < math.inf:
            raise ValueError(f"horizon is {self.horizon}, expected a number of batches, at least 1")
        if not -math.inf < self.smallest <= 0:
            raise ValueError(f"smallest is {self.smallest}, expected a strength of at most 0")
        if not 0 < self.largest < math.inf:
            raise ValueError(f"largest is {self.largest}, expected a strength above 0")

    def update(self, entropy: float) -> float:
        """The strength for a batch whose sampled states have this mean entropy, in nats.

        Every process of a distributed run must pass the mean over all of them; then all get the same strength.

        Raises:
            ValueError: an entropy that is not finite; the state is as before.
        """
        if not math.isfinite(entropy):
            raise ValueError(f"the mean entropy is {entropy}, expected a finite number of nats")
        error = self.target - entropy
        gain = 1 / (self.effect * self.horizon)
        integral = self.integral + gain / (4 * self.horizon) * error
        wanted = gain * error + integral
        strength = min(max(wanted, self.smallest), self.largest)
        if (wanted - strength) * error <= 0:  # else the sum would grow while nothing answers
            self.integral = integral
        return strength

    def state_dict(self) -> dict[str, float]:
        """What `load_state_dict` needs to go on from here."""
        return {"integral": self.integral}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""
        self.integral = float(state["integral"])
