"use strict";

/* Part 1: one state, its tokens, and one step. */
const one_state = (() => {
  const { by_id, ten_to, number, signed, element, label, scale, ticks, minus, path } = page;
  const TAIL_SIZES = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];
  const LARGEST_ALPHA = 2;
  const TAIL = "tail";
  const PRESETS = [
    { name: "A long tail", p: { mat: 0.35, sofa: 0.2, floor: 0.06, moon: 0.002 }, tail: 1000, token: "mat", step: 0.5 },
    { name: "In the band", p: { mat: 0.5, sofa: 0.2, floor: 0.1, moon: 0.02 }, tail: 100, token: "sofa", step: 0.3 },
    { name: "Nearly certain", p: { mat: 0.97, sofa: 0.01, floor: 0.005, moon: 0.001 }, tail: 1000, token: "moon", step: 0.5 },
    { name: "A sign that fails", p: { mat: 0.2, sofa: 0.19, floor: 0.18, moon: 0.17 }, tail: 10, token: "mat", step: -1 },
    { name: "Three tokens, by hand", p: { mat: 0.5, sofa: 0.25, floor: 0.25 }, tail: 0, token: "mat", step: 0.01 },
  ];

  // {logits: of each named token and of the whole tail; tail: its size; token: the sampled one; kind; sign and alpha}
  let chosen;

  const names = () => Object.keys(chosen.logits).filter((name) => name !== TAIL || chosen.tail);

  /** What the formulas need: the state, the sampled entry, and for each name the entry of (one of) its tokens. */
  function current() {
    const logits = [];
    const counts = [];
    const entry = {};
    const add = (name, logit, count) => {
      entry[name] ??= logits.length;
      logits.push(logit);
      counts.push(count);
    };
    for (const name of names().filter((name) => name !== TAIL)) add(name, chosen.logits[name], 1);
    if (chosen.tail) {
      const logit = chosen.logits[TAIL] - Math.log(chosen.tail);
      const sampled = chosen.token === TAIL ? 1 : 0; // a step moves one token of the tail apart from the rest
      if (sampled) add(TAIL, logit, sampled);
      if (chosen.tail > sampled) add(TAIL, logit, chosen.tail - sampled);
    }
    const state = theory.state(logits, counts);
    const token = entry[chosen.token];
    const update = chosen.kind === "grpo" ? theory.grpo_logit_update : theory.single_logit_update;
    return { state, token, entry, direction: update(state, token, 1), alpha: chosen.sign * chosen.alpha };
  }

  /** All that is shown of one step. */
  function numbers({ state, token, direction, alpha }) {
    const delta = direction.map((x) => alpha * x);
    const s = theory.discriminator(state);
    const baseline = theory.expected_discriminator(state);
    const first = theory.first_order_change(state, delta);
    return {
      p: theory.log_policy(state).p, s, baseline,
      H: theory.entropy(state), boundary: theory.sign_boundary(state), S: s[token], D: s[token] - baseline,
      first, second: first + theory.second_order_change(state, delta), exact: theory.exact_change(state, delta),
      remainder: theory.remainder(state, delta),
      bound: theory.remainder_bound(alpha, state.counts.reduce((a, b) => a + b), theory.span(state, direction)),
      radius: theory.trust_radius(state, direction),
      band: theory.disagreement_band(state),
    };
  }

  const kind_of = (s, baseline) => (s < 0 ? "rarer" : s < baseline ? "band" : "above");
  const falls_or_rises = (change) => (change < 0 ? "falls" : "rises");
  const direction_of = (change) =>
    Math.abs(change) < 1e-13 ? "–" : `${change < 0 ? "↓" : "↑"} <span class="word">${falls_or_rises(change)}</span>`;
  const of_tail = (name) => (name === TAIL ? (chosen.tail === 1 ? "tail" : "tail, each") : name);

  function mark(kind, x, y) {
    const shapes = {
      rarer: () => element("circle", { r: 5.5 }),
      band: () => element("path", { d: "M0-7 7 0 0 7-7 0Z" }),
      above: () => element("rect", { x: -5.5, y: -5.5, width: 11, height: 11 }),
    };
    const shape = shapes[kind]();
    shape.setAttribute("class", kind);
    shape.setAttribute("transform", `translate(${x} ${y})`);
    return shape;
  }

  function draw_plane({ width, height }) {
    const { entry } = current();
    const { p, s, H, boundary, baseline } = shown;
    const frame = { left: 46, right: width - 14, top: 22, bottom: height - 42 };
    const decades = Math.max(3, Math.ceil(-Math.log10(Math.min(...p)) + 0.1));
    const lowest = Math.min(-Math.exp(-1 - H), ...s);
    const highest = Math.max(baseline, ...s, 0.05);
    const x = scale(-decades, 0, frame.left, frame.right);
    const height_of = highest - lowest;
    const y = scale(lowest - 0.1 * height_of, highest + 0.16 * height_of, frame.bottom, frame.top);
    const curve = Array.from({ length: 200 }, (_, i) => {
      const log_p = (-decades * (199 - i)) / 199 * Math.LN10;
      return [x(log_p / Math.LN10), y(Math.exp(log_p) * (H + log_p))];
    }).filter(([, at]) => at > frame.top);
    const decade = (i) => (i > 3 ? ten_to(-i) : ["1", "0.1", "0.01", "0.001"][i]);
    const x_ticks = Array.from({ length: decades + 1 }, (_, i) => [x(-i), decade(i)]);
    const at_boundary = x(Math.log10(boundary));
    const left_of_line = at_boundary > frame.left + 0.6 * (frame.right - frame.left);
    const places = Object.entries(entry);
    const points = places.map(([name, i]) => ({ name, i, px: x(Math.log10(p[i])), py: y(s[i]) }));
    // Names stand above, on the steep part of the curve at the left, and higher up where another one is in the way.
    const labels = [];
    for (const { name, i, px, py } of [...points].sort((a, b) => b.py - a.py)) {
      const place = s[i] > 0 ? { x: px - 15, y: py + 4, "text-anchor": "end" } : { x: px, y: py - 11, "text-anchor": "middle" };
      while (labels.some(({ x, y }) => Math.abs(x - place.x) < 44 && Math.abs(y - place.y) < 14)) place.y -= 1;
      labels.push({ ...place, name, class: name === chosen.token ? "sampled" : "token" });
    }
    const said = points.map(({ name, i }) => `${name}: p ${number(p[i])}, S ${number(s[i])} nats`).join("; ");
    const beside = left_of_line ? { x: at_boundary - 6, "text-anchor": "end" } : { x: at_boundary + 6 };
    const sampled = points.find(({ name }) => name === chosen.token);
    return {
      name: `Tokens by p and S. ${said}. Lines: p = ${number(boundary)} and S = ${number(baseline)} nats.`,
      children: [
        element("path", { class: "band-area", d: `M${frame.left} ${y(0)}H${frame.right}V${y(baseline)}H${frame.left}Z` }),
        ...axes_of(frame, x_ticks, y, lowest, highest, "probability p (logarithmic)"),
        element("text", { x: 6, y: 13 }, "S (nats)"),
        element("path", { class: "zero", d: `M${frame.left} ${y(0)}H${frame.right}` }),
        element("path", { class: "rule", d: `M${frame.left} ${y(baseline)}H${frame.right}` }),
        element("path", { class: "rule", d: `M${at_boundary} ${frame.top}V${frame.bottom}` }),
        label([["S = E"], ["p", "sub"], ["[S]"]], { x: frame.left + 6, y: y(baseline) - 6 }),
        label([["p = e"], ["−H", "sup"]], { ...beside, y: frame.top - 6 }),
        element("path", { class: "curve", d: path(curve) }),
        element("circle", { class: "ring", cx: sampled.px, cy: sampled.py, r: 11 }),
        ...points.map(({ i, px, py }) => mark(kind_of(s[i], baseline), px, py)),
        ...labels.map(({ name, ...place }) => element("text", place, name)),
      ],
    };
  }

  function axes_of(frame, x_ticks, y, from, to, x_title) {
    return page.axes(frame, x_ticks, ticks(from, to, 4).map((value) => [y(value), minus(value)]), x_title);
  }

  function draw_change({ width, height }) {
    const { state, direction, alpha } = current();
    const frame = { left: 46, right: width - 14, top: 10, bottom: height - 42 };
    const at = (size) => {
      const delta = direction.map((d) => size * d);
      const first = theory.first_order_change(state, delta);
      const second = first + theory.second_order_change(state, delta);
      return { first, second, exact: theory.exact_change(state, delta), bound: (shown.bound / alpha ** 2) * size ** 2 };
    };
    const sizes = Array.from({ length: 121 }, (_, i) => LARGEST_ALPHA * (i / 60 - 1));
    const curves = sizes.map(at);
    const values = curves.flatMap(({ first, exact }) => [first, exact]);
    const margin = 0.12 * Math.max(Math.max(...values) - Math.min(...values), 1e-3);
    const [lowest, highest] = [Math.min(...values) - margin, Math.max(...values) + margin];
    const x = scale(-LARGEST_ALPHA, LARGEST_ALPHA, frame.left, frame.right);
    const y = scale(lowest, highest, frame.bottom, frame.top);
    const inside = (value) => Math.max(lowest, Math.min(highest, value));
    const line = (name) => element("path", {
      class: name, "clip-path": "url(#change-frame)", d: path(curves.map((c, i) => [x(sizes[i]), y(c[name])])),
    });
    const edge = (sign) => curves.map((c, i) => [x(sizes[i]), y(inside(c.first + sign * c.bound))]);
    const reach = Math.min(shown.radius, LARGEST_ALPHA);
    const box = `M${frame.left} ${frame.top}H${frame.right}V${frame.bottom}H${frame.left}Z`;
    const x_ticks = [-2, -1, 0, 1, 2].map((size) => [x(size), minus(size)]);
    const x_title = chosen.kind === "grpo" ? "α (penalty left, reward right)" : "α (pushed down left, up right)";
    return {
      name: `Change of entropy against alpha from −2 to 2. At alpha ${number(alpha)}: exact ${signed(shown.exact)}, `
        + `first order ${signed(shown.first)}, second order ${signed(shown.second)} nats.`,
      children: [
        element("clipPath", { id: "change-frame" }, element("path", { d: box })),
        element("path", { class: "bound", d: `${path([...edge(1), ...edge(-1).reverse()])}Z` }),
        ...axes_of(frame, x_ticks, y, lowest, highest, x_title),
        element("path", { class: "zero", d: `M${frame.left} ${y(0)}H${frame.right}` }),
        element("path", { class: "trusted", d: `M${x(-reach)} ${frame.bottom}H${x(reach)}` }),
        element("path", { class: "rule", d: `M${x(alpha)} ${frame.top}V${frame.bottom}` }),
        line("first"), line("second"), line("exact"),
        element("circle", { class: "first-dot", cx: x(alpha), cy: y(shown.first), r: 4.5 }),
        element("circle", { class: "exact-dot", cx: x(alpha), cy: y(shown.exact), r: 5.5 }),
      ],
    };
  }

  const redraw_plane = page.picture("plane", 270, draw_plane);
  const redraw_change = page.picture("change", 250, draw_change);
  let shown;

  function show() {
    const now = current();
    shown = numbers(now);
    const { p, s, baseline, first, exact, D, S, radius } = shown;
    for (const id of ["H", "boundary", "baseline", "S", "D", "bound"]) by_id(id).textContent = number(shown[id]);
    for (const id of ["first", "second", "exact", "remainder"]) by_id(id).textContent = signed(shown[id]);
    const reach = radius === Infinity ? "100, and beyond" : radius <= 1e-3 ? "0.001, or never" : number(radius);
    by_id("radius").textContent = reach;
    const grpo = chosen.kind === "grpo";
    by_id("first-formula").innerHTML = grpo ? "−<i>α</i> <i>D</i>" : "−<i>α</i> <i>S</i>";
    by_id("up").textContent = grpo ? "reward (advantage above 0)" : "push up";
    by_id("down").textContent = grpo ? "penalise (advantage below 0)" : "push down";

    const doing = grpo ? (chosen.sign > 0 ? "Rewarding" : "Penalising") : chosen.sign > 0 ? "Pushing up" : "Pushing down";
    const name = chosen.token === TAIL ? "a token of the tail" : `“${chosen.token}”`;
    const verdict = first * exact > 0 ? `the first order predicts ${signed(first)}.`
      : `the first order predicts ${signed(first)}, the wrong direction: the step is beyond the trust radius.`;
    const band = !shown.band[now.token] ? ""
      : ` It lies in the band: its S, ${number(S)}, is above zero, but its D, ${number(D)}, below.`;
    const change = `entropy ${falls_or_rises(exact)}, by ${number(Math.abs(exact))} nats`;
    by_id("sentence").textContent = Math.abs(first) < 1e-13
      ? `${doing} ${name}: ${change}; the first order sees no change.`
      : `${doing} ${name}${grpo ? "" : " alone"}: ${change}; ${verdict}${band}`;

    by_id("token-table").tBodies[0].replaceChildren(...Object.entries(now.entry).map(([name, i]) => {
      const row = document.createElement("tr");
      row.className = name === chosen.token ? "sampled" : "";
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = of_tail(name);
      const d = s[i] - baseline;
      row.append(head, ...[number(p[i]), number(s[i]), number(d), direction_of(-s[i]), direction_of(-d)].map((html) => {
        const cell = document.createElement("td");
        cell.innerHTML = html;
        return cell;
      }));
      return row;
    }));
    redraw_plane();
    redraw_change();
  }

  /** Log of the odds of a named token or of the whole tail: what its slider says. */
  function log_odds(name) {
    const others = names().filter((other) => other !== name).map((other) => chosen.logits[other]);
    return chosen.logits[name] - log_sum(others);
  }

  function log_sum(logits) {
    const largest = Math.max(...logits);
    return largest + Math.log(logits.reduce((total, z) => total + Math.exp(z - largest), 0));
  }

  const probability = (name) => 1 / (1 + Math.exp(-log_odds(name)));

  /** Sliders and their values say what is chosen. */
  function show_controls() {
    for (const name of Object.keys(chosen.logits)) {
      const there = names().includes(name);
      const slider = by_id(`p-${name}`);
      by_id(`token-${name}`).disabled = slider.disabled = !there;
      by_id(`token-${name}`).checked = name === chosen.token;
      slider.value = there ? log_odds(name) : slider.min;
      slider.setAttribute("aria-valuetext", there ? number(probability(name)) : "none");
      by_id(`p-${name}-value`).textContent = there ? number(probability(name)) : "none";
    }
    by_id("tail-size").value = TAIL_SIZES.indexOf(chosen.tail);
    by_id("tail-size").setAttribute("aria-valuetext", `${chosen.tail} tokens`);
    by_id("tail-size-value").textContent = chosen.tail.toLocaleString("en");
    by_id("alpha").value = Math.log10(chosen.alpha);
    by_id("alpha").setAttribute("aria-valuetext", number(chosen.alpha));
    by_id("alpha-value").textContent = number(chosen.alpha);
    document.querySelector(`[name=kind][value=${chosen.kind}]`).checked = true;
    document.querySelector(`[name=sign][value="${chosen.sign}"]`).checked = true;
    show();
  }

  function token_row(name) {
    const row = document.createElement("div");
    row.className = "row token";
    const text = name === TAIL ? "the tail" : name;
    row.innerHTML = `
      <label><input type="radio" name="token" id="token-${name}" value="${name}" aria-label="sampled: ${text}"> ${text}</label>
      <input type="range" id="p-${name}" min="-9.2" max="6.9" step="0.1" aria-label="probability of ${text}">
      <output for="p-${name}" id="p-${name}-value"></output>`;
    row.querySelector("[type=radio]").addEventListener("change", () => set({ token: name }));
    row.querySelector("[type=range]").addEventListener("input", (event) => {
      const logit = log_odds(name);
      set({ logits: { ...chosen.logits, [name]: chosen.logits[name] + Number(event.target.value) - logit } });
    });
    return row;
  }

  function set(change) {
    chosen = { ...chosen, ...change };
    if (chosen.token === TAIL && !chosen.tail) chosen.token = names()[0];
    show_controls();
  }

  function start({ p, tail, token, step }) {
    const named = Object.values(p).reduce((a, b) => a + b);
    const logits = Object.fromEntries(Object.entries(p).map(([name, p_i]) => [name, Math.log(p_i)]));
    logits[TAIL] = Math.log(tail ? 1 - named : 0.1);
    by_id("tokens").replaceChildren(...Object.keys(logits).map(token_row));
    chosen = { kind: "grpo", sign: Math.sign(step), alpha: Math.abs(step), logits, tail, token };
    show_controls();
  }

  by_id("tail-size").max = TAIL_SIZES.length - 1;
  by_id("tail-size").addEventListener("input", (event) => set({ tail: TAIL_SIZES[event.target.value] }));
  by_id("alpha").max = Math.log10(LARGEST_ALPHA);
  by_id("alpha").addEventListener("input", (event) => set({ alpha: 10 ** event.target.value }));
  for (const radio of document.querySelectorAll("[name=kind]")) {
    radio.addEventListener("change", () => set({ kind: radio.value }));
  }
  for (const radio of document.querySelectorAll("[name=sign]")) {
    radio.addEventListener("change", () => set({ sign: Number(radio.value) }));
  }
  by_id("presets").replaceChildren(...PRESETS.map((preset) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = preset.name;
    button.addEventListener("click", () => start(preset));
    return button;
  }));
  start(PRESETS[0]);

  return { current, numbers };
})();
