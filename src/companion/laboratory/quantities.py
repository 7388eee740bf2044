"""What is recorded of a batch: one value a quantity, from the rollout and the updates on it."""

from collections.abc import Callable

import torch
from torch import Tensor

from companion.laboratory.rollout import Rollout
from companion.laboratory.updates import UpdateReport
from companion.mathematics.sampling import centred_variance
from entropy_dynamics.lens import predicted_change
from entropy_dynamics.methods import is_clipped


def quantities_of(
    rollout: Rollout, rewards: Tensor, reports: list[UpdateReport], learning_rate: float, parts: int = 1
) -> dict[str, float | int | None]:
    """One value a quantity; statistics of the policy are those before the first update, on the sampled tokens.

    `reports` are of updates on `parts` parts of the batch in turn.
    """
    whole = reports[:parts]

    def when_sampled(name: str) -> Tensor:
        return torch.cat([getattr(report.batch.old, name)[report.batch.mask] for report in whole])

    def of_updates(values: Callable[[UpdateReport], Tensor]) -> Tensor:
        return torch.cat([values(report)[report.batch.mask] for report in reports])

    s, d, h = (when_sampled(name) for name in ("discriminator", "centred", "entropy"))
    a = torch.cat([report.batch.advantages[report.batch.mask] for report in whole])
    predicted = [
        predicted_change(r.batch, r.terms, r.logits, rollout.temperature)[r.batch.mask].mean() for r in reports
    ]
    r, of_a = of_updates(lambda report: report.batch.ratio), of_updates(lambda report: report.batch.advantages)
    clipped = is_clipped(r, of_a)
    pushed = of_updates(lambda r: (r.terms.of_log_prob(r.batch) != 0) | (r.terms.entropy != 0))
    variance = centred_variance(rollout.logits[rollout.mask].double() / rollout.temperature)
    positive, negative = of_a > 0, of_a < 0

    def share(what: Tensor, where: Tensor) -> float | None:
        return what[where].float().mean().item() if where.any() else None

    return {
        "reward": rewards.mean().item(),
        "tokens": len(a),
        "entropy": h.mean().item(),
        "mean_s": s.mean().item(),
        "mean_d": d.mean().item(),
        "mean_d_standard_error": variance.sum().sqrt().item() / len(d),
        "cov_a_d": ((a - a.mean()) * (d - d.mean())).mean().item(),
        "ledger_logits": learning_rate * sum(predicted).item(),
        # without gradient although PPO's clip at 0.2 would not take it; both are shares over all updates on the batch
        "masked_positive": share(~pushed & ~clipped, positive),
        "masked_negative": share(~pushed & ~clipped, negative),
        "clipped_positive": share(clipped, positive),
        "clipped_negative": share(clipped, negative),
        "ratio_mean": r.mean().item(),
        "ratio_max": r.max().item(),
        "gradient_norm": sum(report.gradient_norm for report in reports) / len(reports),
    }


def rounded(value: float | int | None) -> float | int | None:
    """To seven significant digits, what float32 holds: keeps records short."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
