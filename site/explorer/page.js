"use strict";

/* What both parts of the page share: numbers as text, and drawing. */
const page = (() => {
  const by_id = (id) => document.getElementById(id);

  // Enter in a field must not load the page anew.
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());

  /** 10 to a whole power. */
  const ten_to = (power) => `10${[...String(power)].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])).join("")}`;

  /** Three digits, with a true minus sign; powers of ten where zeros would be counted. Rounding's crumbs are 0. */
  function number(x) {
    const size = Math.abs(x);
    if (size < 1e-13) return "0";
    const sign = x < 0 ? "−" : "";
    if (size >= 1e-4) return sign + size.toPrecision(3);
    const [mantissa, power] = size.toExponential(2).split("e");
    return `${sign}${mantissa} × ${ten_to(Number(power))}`;
  }

  const signed = (x) => (x > 1e-13 ? "+" : "") + number(x);

  function element(name, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** Text with parts in sub- and superscript: label([["E"], ["p", "sub"], ["[S]"]], {x, y}). */
  function label(parts, attributes) {
    let back = 0;
    const spans = parts.map(([text, place]) => {
      const shift = { sub: 4, sup: -5 }[place] ?? 0;
      const span = element("tspan", { dy: shift - back, ...(place && { class: "small" }) }, text);
      back = shift;
      return span;
    });
    return element("text", attributes, ...spans);
  }

  const scale = (from, to, start, end) => (x) => start + ((x - from) / (to - from)) * (end - start);

  /** Round numbers between two limits, about `count` of them. */
  function ticks(from, to, count) {
    const rough = (to - from) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let i = Math.ceil(from / step); i * step <= to; i += 1) found.push(Number((i * step).toPrecision(6)));
    return found;
  }

  const minus = (x) => String(x).replace("-", "−");

  /** The line through points. */
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");

  /**
   * A picture in `id` that is drawn anew, as wide as there is room, whenever it changes.
   * draw({width, height}) returns {name, children}: its text for those who do not see it, and what is in it.
   */
  function picture(id, height, draw) {
    const place = by_id(id);
    const redraw = () => {
      const width = place.clientWidth;
      if (!width) return;
      const { name, children } = draw({ width, height });
      place.replaceChildren(element("svg", { role: "img", "aria-label": name, width, height }, ...children));
    };
    new ResizeObserver(redraw).observe(place);
    return redraw;
  }

  /** Axes around a frame: ticks of x and y as [position, text], and the titles of both. */
  function axes({ left, right, top, bottom }, x_ticks, y_ticks, x_title) {
    return [
      ...y_ticks.flatMap(([y, text]) => [
        element("path", { class: "grid", d: `M${left} ${y}H${right}` }),
        element("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, text),
      ]),
      ...x_ticks.flatMap(([x, text]) => [
        element("path", { class: "grid", d: `M${x} ${top}V${bottom}` }),
        element("text", { x, y: bottom + 16, "text-anchor": "middle" }, text),
      ]),
      element("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle", class: "title" }, x_title),
    ];
  }

  return { by_id, ten_to, number, signed, element, label, scale, ticks, minus, path, picture, axes };
})();
