"use strict";

/* Part 2: the bandit, its switches and its charts. */
const training = (() => {
  const { by_id, number, signed, element, scale, ticks, path } = page;
  const STEPS = 300;
  const RATES = { SGD: { min: 0.5, max: 10, step: 0.5, value: 3 }, Adam: { min: 0.01, max: 0.2, step: 0.01, value: 0.05 } };
  const RULES = { clip_b: "clip_b-mu", clip_v: "clip_v-mu", bonus: "bonus-beta", target: "target-nats" };
  const NAMES = { clip_b: "Clip_B", clip_v: "Clip_V", bonus: "entropy bonus", target: "entropy target" };

  let run; // {bandit, kinds: what was on at each of its steps}
  let before = null; // the steps and kinds of the run before
  let frame = null; // of the animation, while it runs

  const is_on = (rule) => by_id(rule).checked;
  const optimizer = () => document.querySelector("[name=optimizer]:checked").value;

  function rules() {
    const value = (rule) => (is_on(rule) ? Number(by_id(RULES[rule]).value) : null);
    return { clip_b: value("clip_b"), clip_v: value("clip_v"), bonus: value("bonus") ?? 0, target: value("target") };
  }

  function kind() {
    const on = Object.keys(RULES).filter(is_on);
    return on.length > 1 ? "several" : on[0] ?? "grpo";
  }

  function restart() {
    pause();
    if (run?.kinds.length > 1) before = { steps: run.bandit.steps, kinds: run.kinds };
    const seed = Number(by_id("seed").value);
    const rate = Number(by_id("rate").value);
    run = { bandit: new bandit.Bandit({ seed, optimizer: optimizer(), rate }), kinds: [kind()] };
    by_id("training-status").textContent = "At the start.";
    show();
  }

  const is_finished = () => run.bandit.steps.length > STEPS;

  function step() {
    run.bandit.step(rules());
    run.kinds.push(kind());
  }

  function tick() {
    step();
    show();
    frame = is_finished() ? null : requestAnimationFrame(tick);
    if (!frame) stopped();
  }

  function pause() {
    if (frame) cancelAnimationFrame(frame);
    frame = null;
    by_id("run").textContent = `Run ${STEPS} steps`;
  }

  function stopped() {
    pause();
    const [first, last] = [run.bandit.steps[0], run.bandit.steps.at(-1)];
    by_id("run").textContent = is_finished() ? `Run ${STEPS} steps` : "Go on";
    by_id("training-status").textContent = `In ${run.bandit.steps.length - 1} steps, entropy went from `
      + `${number(first.entropy)} to ${number(last.entropy)} nats, and the chance of a right answer from `
      + `${number(first.reward)} to ${number(last.reward)}.`;
  }

  function toggle() {
    if (frame) {
      stopped();
      return;
    }
    if (is_finished()) restart();
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      while (!is_finished()) step();
      show();
      stopped();
      return;
    }
    by_id("run").textContent = "Pause";
    by_id("training-status").textContent = `Running with ${described()}.`;
    frame = requestAnimationFrame(tick);
  }

  const described = () => ["GRPO", ...Object.keys(RULES).filter(is_on).map((rule) => NAMES[rule])].join(" + ");

  /** Stretches of a run under one rule, each with the step before it, so that the line has no gaps. */
  function stretches(kinds) {
    const starts = kinds.map((_, i) => i).filter((i) => i > 0 && (i === 1 || kinds[i] !== kinds[i - 1]));
    return starts.map((from, i) => ({ kind: kinds[from], from: from - 1, to: (starts[i + 1] ?? kinds.length) - 1 }));
  }

  function chart(id, value, highest, marks) {
    return page.picture(id, 190, ({ width, height }) => {
      const box = { left: 36, right: width - 16, top: 8, bottom: height - 40 };
      const x = scale(0, STEPS, box.left, box.right);
      const y = scale(0, highest, box.bottom, box.top);
      const lines = ({ steps, kinds }, extra) => stretches(kinds).map(({ kind, from, to }) => element("path", {
        class: `run ${kind} ${extra}`, d: path(steps.slice(from, to + 1).map((at, i) => [x(from + i), y(at[value])])),
      }));
      const { steps } = run.bandit;
      const last = steps.at(-1)[value];
      const title = by_id(id).parentElement.querySelector("figcaption").textContent;
      const x_ticks = [0, 100, 200, 300].map((at) => [x(at), String(at)]);
      const y_ticks = ticks(0, highest, 4).map((at) => [y(at), String(at)]);
      return {
        name: `${title}: ${number(steps[0][value])} at the start, ${number(last)} after ${steps.length - 1} steps.`,
        children: [
          ...page.axes(box, x_ticks, y_ticks, "step"),
          ...marks().flatMap(([at, text]) => [
            element("path", { class: "rule", d: `M${box.left} ${y(at)}H${box.right}` }),
            element("text", { x: box.right, y: y(at) - 4, "text-anchor": "end" }, text),
          ]),
          ...(before ? lines(before, "before") : []),
          ...lines({ steps, kinds: run.kinds }, ""),
          element("circle", { class: `dot ${run.kinds.at(-1)}`, cx: x(steps.length - 1), cy: y(last), r: 4 }),
        ],
      };
    });
  }

  function draw_policy({ width, height }) {
    const rows = run.bandit.logits.map((logits) => theory.log_policy(theory.state(logits)).p);
    const space = (height - 20) / rows.length;
    const x = scale(0, 1, 2, width - 2);
    return {
      name: rows.map((p, q) => `Question ${q + 1}: right answers ${p.slice(0, bandit.RIGHT).map(number).join(", ")}`).join(". "),
      children: rows.flatMap((p, q) => {
        let sum = 0;
        return p.map((p_i, i) => {
          const start = x(sum);
          sum += p_i;
          return element("rect", {
            class: i < bandit.RIGHT ? `right-${i}` : "wrong",
            x: start, y: q * space + 2, width: Math.max(x(sum) - start - 1, 0), height: space - 4,
          });
        });
      }).concat(
        element("text", { x: 2, y: height - 4 }, "0"),
        element("text", { x: width / 2, y: height - 4, "text-anchor": "middle", class: "title" }, "probability"),
        element("text", { x: width - 2, y: height - 4, "text-anchor": "end" }, "1"),
      ),
    };
  }

  const pictures = [
    chart("entropy-chart", "entropy", 2.5, () => (is_on("target") ? [[Number(by_id("target-nats").value), "target"]] : [])),
    chart("reward-chart", "reward", 1, () => []),
    chart("found-chart", "found", 3, () => []),
    page.picture("policy", 190, draw_policy),
  ];

  function show() {
    const { steps } = run.bandit;
    const [now, earlier] = [steps.at(-1), steps.at(-2)];
    const text = {
      step: `${steps.length - 1} of ${STEPS}`,
      entropy: number(now.entropy), reward: number(now.reward), found: number(now.found),
      masked: earlier ? `${now.masked} of ${now.tokens}` : "–",
      coefficient: earlier ? number(now.bonus) : "–",
      "step-predicted": earlier ? `${signed(now.predicted)} nats` : "–",
      "step-exact": earlier ? `${signed(now.entropy - earlier.entropy)} nats` : "–",
    };
    for (const [id, value] of Object.entries(text)) by_id(id).textContent = value;
    by_id("one-step").disabled = is_finished();
    pictures.forEach((redraw) => redraw());
  }

  function show_values() {
    for (const id of Object.values(RULES)) {
      const unit = id === "target-nats" ? " nats" : "";
      by_id(`${id}-value`).textContent = Number(by_id(id).value) + unit;
      by_id(id).setAttribute("aria-valuetext", by_id(id).value + unit);
    }
    by_id("rate-value").textContent = by_id("rate").value;
  }

  function show_rates() {
    Object.assign(by_id("rate"), RATES[optimizer()]);
    show_values();
  }

  by_id("run").addEventListener("click", toggle);
  by_id("again").addEventListener("click", restart);
  by_id("one-step").addEventListener("click", () => {
    pause();
    step();
    show();
    stopped();
  });
  for (const radio of document.querySelectorAll("[name=optimizer]")) {
    radio.addEventListener("change", () => {
      show_rates();
      restart();
    });
  }
  by_id("rate").addEventListener("input", () => {
    show_values();
    restart();
  });
  by_id("seed").addEventListener("change", restart);
  for (const [rule, slider] of Object.entries(RULES)) {
    by_id(rule).addEventListener("change", show);
    by_id(slider).addEventListener("input", () => {
      show_values();
      show();
    });
  }
  show_rates();
  restart();

  return { record: () => run.bandit };
})();
