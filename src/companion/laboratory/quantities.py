"""What is recorded of a batch: one value a quantity, from the rollout and the updates on it."""

import torch
from torch import Tensor

from companion.laboratory.rollout import Rollout
from companion.laboratory.updates import UpdateReport
from companion.mathematics.sampling import centred_variance
from entropy_dynamics.lens import predicted_change
from entropy_dynamics.methods import is_clipped


def quantities_of(
    rollout: Rollout, rewards: Tensor, reports: list[UpdateReport], learning_rate: float
) -> dict[str, float | int | None]:
    """One value a quantity; statistics of the policy are those before the first update, on the sampled tokens."""
    mask = rollout.mask
    first = reports[0]
    a = first.batch.advantages[mask]
    s, d, h = (getattr(first.batch.statistics, name)[mask] for name in ("discriminator", "centred", "entropy"))
    predicted = [predicted_change(r.batch, r.terms, r.logits, rollout.temperature)[mask].mean() for r in reports]
    r = torch.stack([report.batch.ratio[mask] for report in reports])
    clipped = is_clipped(r, a)
    pushed = torch.stack([(r.terms.of_log_prob(r.batch) != 0) | (r.terms.entropy != 0) for r in reports])[:, mask]
    variance = centred_variance(first.logits[mask].double() / rollout.temperature)
    positive, negative = a > 0, a < 0

    def share(what: Tensor, where: Tensor) -> float | None:
        return what[:, where].float().mean().item() if where.any() else None

    return {
        "reward": rewards.mean().item(),
        "tokens": int(mask.sum()),
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
