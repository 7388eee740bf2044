"""Entropy control: a strength is moved so that a policy's mean entropy stays at a target.

A strength is whatever raises entropy when it is raised: the share of tokens that a mask takes, the coefficient of a
bonus. While the entropy of sampled states falls below the target, a proportional-integral controller raises it.
"""

import math
from dataclasses import dataclass


@dataclass
class TargetEntropy:
    """Holds mean entropy at `target` by one strength, moved once a batch.

    With e the target minus the mean entropy of the batch's sampled states, the strength is k e + c sum e, clamped to
    `smallest` and `largest`; the sum stands still while the clamp holds the strength back. If the strength u changes
    entropy by `effect` u a batch, on top of whatever else does, then k = 1 / (effect horizon) and c = k / (4 horizon)
    close a gap without overshoot (both poles of the loop are at 1 / (2 horizon) a batch).

    Args:
        target: nats, above 0 and at most log `vocabulary`.
        vocabulary: its size.
        effect: nats that strength 1 adds to mean entropy in one batch, above 0; how to measure it: a few batches with
            and without half the largest strength.
        horizon: batches in which a gap closes, at least 1; a short one follows noise.
        smallest, largest: of the strength.

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
        if not (0 < self.effect < math.inf and 1 <= self.horizon < math.inf):
            raise ValueError(f"effect {self.effect}, horizon {self.horizon}: expected above 0 and at least 1")
        if not (self.smallest <= 0 < self.largest < math.inf and self.smallest > -math.inf):
            raise ValueError(f"smallest {self.smallest}, largest {self.largest}: expected at most 0 and above 0")

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
