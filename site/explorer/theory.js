"use strict";

/* All formulas of this page that the library has, too, under the library's names: entropy_dynamics.theory, .grpo,
   .clipping and .control, and companion.mathematics.remainder. Logarithms are natural, entropies in nats.

   A state is {logits, counts}: counts[g] tokens share the logit logits[g], so that a tail of any length is one entry. A
   change `delta` of the logits has one entry for each of the state's. */
const theory = (() => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const mean = (values) => sum(values) / values.length;
  const times = (factor, delta) => delta.map((x) => factor * x);
  const weighted = ({ counts }, ...factors) =>
    sum(counts.map((count, g) => factors.reduce((product, factor) => product * factor[g], count)));
  const moved = ({ logits, counts }, delta) => ({ logits: logits.map((z, g) => z + delta[g]), counts });

  function state(logits, counts = logits.map(() => 1)) {
    return { logits, counts };
  }

  function log_policy(state) {
    const largest = Math.max(...state.logits);
    const scale = largest + Math.log(weighted(state, state.logits.map((z) => Math.exp(z - largest))));
    const log_p = state.logits.map((z) => z - scale);
    return { p: log_p.map(Math.exp), log_p };
  }

  function entropy(state) {
    const { p, log_p } = log_policy(state);
    return -weighted(state, p, log_p);
  }

  function discriminator(state) {
    const { p, log_p } = log_policy(state);
    const h = -weighted(state, p, log_p);
    return p.map((p_i, i) => p_i * (h + log_p[i]));
  }

  function expected_discriminator(state) {
    const { p, log_p } = log_policy(state);
    const square = weighted(state, p, p);
    return weighted(state, p, p.map((p_i, i) => (p_i - square) * (log_p[i] - Math.log(square))));
  }

  const sign_boundary = (state) => Math.exp(-entropy(state));

  function disagreement_band(state) {
    const baseline = expected_discriminator(state);
    return discriminator(state).map((s) => s > 0 && s < baseline);
  }

  function single_logit_update(state, token, eps) {
    if (state.counts[token] !== 1) throw new RangeError(`entry ${token} stands for ${state.counts[token]} tokens`);
    return state.logits.map((_, g) => (g === token ? eps : 0));
  }

  function grpo_logit_update(state, token, alpha) {
    const { p } = log_policy(state);
    return single_logit_update(state, token, alpha).map((x, g) => x - alpha * p[g]);
  }

  const first_order_change = (state, delta) => -weighted(state, discriminator(state), delta);

  function second_order_change(state, delta) {
    const { p } = log_policy(state);
    const shift = weighted(state, p, delta);
    const centred = delta.map((x) => x - shift);
    return -0.5 * weighted(state, discriminator(state).map((s, g) => s + p[g]), centred, centred);
  }

  /** e^u - 1 - u, to a dozen digits however small u is. */
  function psi(u) {
    return Math.abs(u) < 1e-3 ? u * u * (1 / 2 + u * (1 / 6 + u * (1 / 24 + u / 120))) : Math.expm1(u) - u;
  }

  /** H(z + delta) - H(z); up to steps of 1 not as a difference of nearly equal numbers, which would lose digits. */
  function exact_change(state, delta) {
    const { p, log_p } = log_policy(state);
    const h = -weighted(state, p, log_p);
    if (Math.max(...delta.map(Math.abs)) > 1) return entropy(moved(state, delta)) - h;
    const shift = weighted(state, p, delta);
    const step = delta.map((x) => x - shift);
    const x = weighted(state, p, step.map(psi)); // q = p e^step / (1 + x)
    const gain = step.map((u, i) => (p[i] * (Math.expm1(u) - x)) / (1 + x)); // q - p
    const kl = weighted(state, gain, step) - Math.log1p(x);
    return -weighted(state, gain, log_p.map((log_p_i) => log_p_i + h)) - kl;
  }

  const remainder = (state, delta) => exact_change(state, delta) - first_order_change(state, delta);

  const span = (state, delta) => Math.max(...delta) - Math.min(...delta);

  /** What |remainder| of a step alpha v exceeds for no policy over `vocabulary` tokens, where v has this span. */
  function remainder_bound(alpha, vocabulary, span = 2) {
    return (alpha * span) ** 2 * (1 / 8 + 1 / (8 * Math.E) + Math.log(vocabulary - 1) / (12 * Math.sqrt(3)));
  }

  /** The smallest |alpha| at which a step alpha `direction` moves entropy against the sign of its first order. */
  function trust_radius(state, direction, smallest = 1e-3, largest = 100) {
    const first = first_order_change(state, direction);
    const is_wrong = (alpha) => exact_change(state, times(alpha, direction)) * first * Math.sign(alpha) <= 0;
    const is_turning_back = (alpha) =>
      first_order_change(moved(state, times(alpha, direction)), direction) * first < 0;
    const per_decade = 6;
    const last = Math.round(per_decade * Math.log10(largest / smallest));

    function radius(sign) {
      let low = 0;
      let back_before = false;
      for (let i = 0; i <= last; i += 1) {
        const point = smallest * 10 ** (i / per_decade);
        if (is_wrong(sign * point)) return low ? bisect(low, point, (alpha) => is_wrong(sign * alpha)) : point;
        const back = is_turning_back(sign * point);
        if (back_before && !back) { // the change may have dipped to the wrong side in between
          const bottom = bisect(low, point, (alpha) => !is_turning_back(sign * alpha));
          if (is_wrong(sign * bottom)) return bisect(low, bottom, (alpha) => is_wrong(sign * alpha));
        }
        low = point;
        back_before = back;
      }
      return Infinity;
    }
    return Math.min(radius(1), radius(-1));
  }

  /** The upper end, within 0.1 %, of where `is_beyond` turns true between two points 1/6 of a decade apart. */
  function bisect(low, high, is_beyond) {
    for (let i = 0; i < 9; i += 1) {
      const middle = Math.sqrt(low * high);
      if (is_beyond(middle)) high = middle;
      else low = middle;
    }
    return high;
  }

  /** (R - mean) / (sample deviation + 1e-6) within one group. */
  function group_advantages(rewards) {
    if (rewards.every((reward) => reward === rewards[0])) return rewards.map(() => 0);
    const centre = mean(rewards);
    const deviation = Math.sqrt(sum(rewards.map((reward) => (reward - centre) ** 2)) / (rewards.length - 1));
    return rewards.map((reward) => (reward - centre) / (deviation + 1e-6));
  }

  /** The keep-mask of Clip_B as released: penalised tokens go whose S lies more than mu deviations below the mean. */
  function clip_b(s, advantages, mu) {
    const centre = mean(s);
    return keep(s.map((value) => value - centre), advantages, mu);
  }

  /** The keep-mask of Clip_V as released, without a cap: penalised tokens go whose D is below -mu deviations. */
  const clip_v = (d, advantages, mu) => keep(d, advantages, mu);

  function keep(values, advantages, mu) {
    const centre = mean(values);
    const sigma = Math.sqrt(mean(values.map((value) => (value - centre) ** 2)));
    return values.map((value, t) => sigma < 1e-12 || !(advantages[t] < 0 && value < -mu * sigma));
  }

  /** Holds mean entropy at `target` by a strength k e + c sum e, with e the target minus the batch's mean entropy. */
  class TargetEntropy {
    constructor({ target, effect, horizon, largest }) {
      Object.assign(this, { target, effect, horizon, largest, integral: 0 });
    }

    update(entropy) {
      const error = this.target - entropy;
      const gain = 1 / (this.effect * this.horizon);
      const integral = this.integral + (gain / (4 * this.horizon)) * error;
      const wanted = gain * error + integral;
      const strength = Math.min(Math.max(wanted, 0), this.largest);
      if ((wanted - strength) * error <= 0) this.integral = integral; // else the sum would grow while nothing answers
      return strength;
    }
  }

  return {
    state, log_policy, entropy, discriminator, expected_discriminator, sign_boundary, disagreement_band,
    single_logit_update, grpo_logit_update, first_order_change, second_order_change, exact_change, remainder, span,
    remainder_bound, trust_radius, group_advantages, clip_b, clip_v, TargetEntropy,
  };
})();
