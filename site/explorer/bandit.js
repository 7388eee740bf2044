"use strict";

/* A softmax bandit trained by GRPO: one row of logits a question, one sampled token an answer. */
const bandit = (() => {
  const QUESTIONS = 8;
  const ANSWERS = 12;
  const RIGHT = 3; // right answers of each question, all rewarded alike
  const GROUP = 8; // answers sampled to each question in a step
  const EFFECT = 0.05; // nats that a bonus of 1 adds to mean entropy in a step, at the learning rates the page starts from
  const LOOKS = 16; // samples in which different right answers are counted

  /** Uniform numbers in [0, 1) from a seed (mulberry32). */
  function random_numbers(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  const normal = (random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());

  function sample(p, random) {
    let left = random();
    const token = p.findIndex((p_i) => (left -= p_i) < 0);
    return token < 0 ? p.length - 1 : token; // rounding may leave a crumb
  }

  const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length;

  /** Sampled answers with all that rules and gradients look at, one entry a token. */
  function token_batch(logits, tokens, rewards) {
    return logits.flatMap((row, question) => {
      const state = theory.state(row);
      const s = theory.discriminator(state);
      const baseline = theory.expected_discriminator(state);
      const advantages = theory.group_advantages(rewards[question]);
      return tokens[question].map((token, g) => ({
        question, token, advantage: advantages[g], s: s[token], d: s[token] - baseline,
      }));
    });
  }

  /** Which tokens keep their gradient; `rules` may have a mu for clip_b and for clip_v. */
  function keep_mask(batch, { clip_b = null, clip_v = null }) {
    const advantages = batch.map((token) => token.advantage);
    const masks = [];
    if (clip_b !== null) masks.push(theory.clip_b(batch.map((token) => token.s), advantages, clip_b));
    if (clip_v !== null) masks.push(theory.clip_v(batch.map((token) => token.d), advantages, clip_v));
    return batch.map((_, t) => masks.every((mask) => mask[t]));
  }

  /** Of the mean over all tokens of A log p + bonus H, masked tokens without their A; one row a question. */
  function gradient(logits, batch, keep, bonus) {
    const rows = logits.map((row) => row.map(() => 0));
    const states = logits.map((row) => theory.state(row));
    const s = states.map(theory.discriminator);
    batch.forEach(({ question, token, advantage }, t) => {
      const pull = theory.grpo_logit_update(states[question], token, keep[t] ? advantage : 0);
      pull.forEach((x, i) => {
        rows[question][i] += (x - bonus * s[question][i]) / batch.length;
      });
    });
    return rows;
  }

  const optimizers = {
    SGD: (rate) => (rows) => rows.map((row) => row.map((g) => rate * g)),
    /** Adam with the usual betas of 0.9 and 0.999. */
    Adam: (rate) => {
      let steps = 0;
      let first = null;
      let second = null;
      return (rows) => {
        steps += 1;
        const blend = (old, beta, of) =>
          rows.map((row, q) => row.map((g, i) => beta * (old?.[q][i] ?? 0) + (1 - beta) * of(g)));
        first = blend(first, 0.9, (g) => g);
        second = blend(second, 0.999, (g) => g * g);
        return first.map((row, q) => row.map((m, i) =>
          (rate * m) / (1 - 0.9 ** steps) / (Math.sqrt(second[q][i] / (1 - 0.999 ** steps)) + 1e-8)));
      };
    },
  };

  class Bandit {
    constructor({ seed, optimizer, rate }) {
      this.random = random_numbers(seed);
      const row = () => Array.from({ length: ANSWERS }, () => normal(this.random));
      this.logits = Array.from({ length: QUESTIONS }, row);
      this.optimize = optimizers[optimizer](rate);
      this.controller = null;
      this.steps = [this.look()];
    }

    /** The first answers of every question are the right ones; which they are makes no difference to the policy. */
    look() {
      const states = this.logits.map((row) => theory.state(row));
      const right = states.map((state) => theory.log_policy(state).p.slice(0, RIGHT));
      return {
        entropy: mean(states.map(theory.entropy)),
        reward: mean(right.map((p) => p.reduce((a, b) => a + b))),
        found: mean(right.map((p) => p.reduce((total, p_i) => total + 1 - (1 - p_i) ** LOOKS, 0))),
      };
    }

    /** One batch and one update. `rules`: clip_b, clip_v (mu or null), bonus (a coefficient), target (nats or null). */
    step(rules) {
      const p = this.logits.map((row) => theory.log_policy(theory.state(row)).p);
      const tokens = p.map((row) => Array.from({ length: GROUP }, () => sample(row, this.random)));
      const rewards = tokens.map((row) => row.map((token) => Number(token < RIGHT)));
      const batch = token_batch(this.logits, tokens, rewards);
      const keep = keep_mask(batch, rules);
      const bonus = rules.bonus + this.control(rules.target);
      const delta = this.optimize(gradient(this.logits, batch, keep, bonus));
      const states = this.logits.map((row) => theory.state(row));
      const predicted = mean(states.map((state, q) => theory.first_order_change(state, delta[q])));
      this.logits = this.logits.map((row, q) => row.map((z, i) => z + delta[q][i]));
      const masked = keep.filter((kept) => !kept).length;
      this.steps.push({ ...this.look(), masked, tokens: batch.length, bonus, predicted });
    }

    control(target) {
      if (target === null) {
        this.controller = null;
        return 0;
      }
      this.controller ??= new theory.TargetEntropy({ target, effect: EFFECT, horizon: 10, largest: 1 });
      this.controller.target = target;
      return this.controller.update(this.steps.at(-1).entropy);
    }
  }

  return { Bandit, QUESTIONS, ANSWERS, RIGHT, GROUP, LOOKS, random_numbers, token_batch, keep_mask, gradient, optimizers };
})();
