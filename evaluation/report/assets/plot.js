// A plot: lines with marks and intervals, hints, and arrow keys that go from mark to mark.

const GAP = { left: 46, top: 10, bottom: 40 };

/** Dims all methods but one in every plot; null shows all alike. */
function highlight(method) {
  for (const line of document.querySelectorAll(".series")) {
    line.classList.toggle("dim", method !== null && line.dataset.method !== String(method));
  }
}

function niceStep(span, wanted) {
  const rough = span / wanted;
  const ten = 10 ** Math.floor(Math.log10(rough));
  return ten * [1, 2, 5, 10].find((factor) => factor * ten >= rough);
}

function linearTicks(low, high, wanted) {
  const step = niceStep(high - low || 1, wanted);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high, wanted) {
  const span = Math.log10(high / low);
  const factors = span < 1.2 ? [1, 1.5, 2, 3, 5, 7] : span < 3 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    ticks.push(...factors.map((factor) => factor * 10 ** power));
  }
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  const every = Math.ceil(inside.length / wanted);
  return inside.filter((_, i) => i % every === 0);
}

const short = (x) => {
  const [size, suffix] = [[1e12, "T"], [1e9, "G"], [1e6, "M"]].find(([size]) => Math.abs(x) >= size) || [1, ""];
  return `${Number((x / size).toPrecision(3))}${suffix}`;
};

/** Returns functions from values to positions in the picture: logarithmic in x, linear in y. */
function scales(spec, width, height) {
  const right = spec.names ? 118 : 12;
  const xs = spec.series.flatMap((one) => one.points.map((point) => point.x));
  const pad = 1.12;
  const [low, high] = xs.length ? [Math.min(...xs) / pad, Math.max(...xs) * pad] : [1, 10];
  const inner = width - GAP.left - right;
  const x = (value) => GAP.left + (inner * Math.log(value / low)) / Math.log(high / low);
  const tall = height - GAP.top - GAP.bottom;
  const y = (value) => GAP.top + (tall * (spec.high - value)) / (spec.high - spec.low);
  return { x, y, low, high, right: width - right };
}

function axes(spec, scale, width, height) {
  const parts = [];
  const bottom = height - GAP.bottom;
  for (const tick of linearTicks(spec.low, spec.high, spec.small ? 4 : 7)) {
    const y = scale.y(tick);
    parts.push(svgElement("line", { x1: GAP.left, x2: scale.right, y1: y, y2: y, class: "grid" }));
    parts.push(svgElement("text", { x: GAP.left - 7, y: y + 4, class: "end" }, short(tick)));
  }
  let free = -Infinity;
  for (const tick of spec.ticks || logTicks(scale.low, scale.high, width / 70)) {
    const [x, text] = [scale.x(tick), short(tick)];
    parts.push(svgElement("line", { x1: x, x2: x, y1: bottom, y2: bottom + 4, class: "axis" }));
    const half = 3.6 * text.length + 3;
    if (x - half < free) continue;
    free = x + half;
    parts.push(svgElement("text", { x, y: bottom + 17, class: "middle" }, text));
  }
  parts.push(svgElement("line", { x1: GAP.left, x2: scale.right, y1: bottom, y2: bottom, class: "axis" }));
  parts.push(svgElement("text", { x: (GAP.left + scale.right) / 2, y: height - 6, class: "middle title" }, spec.xLabel));
  if (!spec.small) {
    const middle = (GAP.top + bottom) / 2;
    parts.push(svgElement("text", { transform: `translate(11 ${middle}) rotate(-90)`, class: "middle title" }, spec.yLabel));
  }
  for (const { y } of spec.rules || []) {
    const at = scale.y(y);
    parts.push(svgElement("line", { x1: GAP.left, x2: scale.right, y1: at, y2: at, class: "rule" }));
  }
  return parts;
}

function seriesOf(one, scale, spec, shift) {
  const group = svgElement("g", { class: `series c${one.method % COLOURS} ${DATA.methods[one.method].kind}`, "data-method": one.method });
  const place = (point) => ({ x: scale.x(point.x) + shift, y: scale.y(point.y) });
  const path = one.points.map((point, i) => `${i ? "L" : "M"}${place(point).x.toFixed(1)},${place(point).y.toFixed(1)}`);
  if (path.length > 1) group.append(svgElement("path", { d: path.join(""), class: "line" }));
  for (const point of one.points) {
    const { x, y } = place(point);
    const hint = tipLines(one.method, point.budget, spec.key);
    const mine = svgElement("g", { class: "point", tabindex: -1, role: "img", "aria-label": hint.join("; ") });
    if (point.low !== null && !spec.small) {
      const [top, low] = [scale.y(point.high), scale.y(point.low)];
      mine.append(svgElement("path", { d: `M${x},${top}V${low}M${x - 3},${top}h6M${x - 3},${low}h6`, class: "bar" }));
    }
    const shape = svgElement("g", { transform: `translate(${x.toFixed(2)} ${y.toFixed(2)})` });
    shape.append(svgElement("circle", { r: 11, class: "reach" }), svgElement("circle", { r: 8, class: "ring" }), marker(one.method));
    mine.append(shape);
    const show = () => {
      highlight(one.method);
      showTip(hint, () => shape.getBoundingClientRect());
    };
    const hide = () => {
      highlight(null);
      hideTip();
    };
    for (const [event, act] of Object.entries({ mouseenter: show, focus: show, mouseleave: hide, blur: hide })) {
      mine.addEventListener(event, act);
    }
    mine.spot = { method: one.method, budget: point.budget, x, y };
    group.append(mine);
  }
  return group;
}

/** Creates the names at the right ends of the lines, moved apart where they would overlap. */
function names(spec, scale, height) {
  const ends = spec.series.map((one) => {
    const last = one.points.reduce((a, b) => (b.x > a.x ? b : a));
    return { name: DATA.methods[one.method].name, method: one.method, x: scale.x(last.x), y: scale.y(last.y), at: scale.y(last.y) };
  });
  ends.push(...(spec.rules || []).map(({ y, name }) => ({ name, x: scale.right - 8, y: scale.y(y), at: scale.y(y) })));
  ends.sort((a, b) => a.at - b.at);
  const room = 12.5;
  ends.forEach((end, i) => {
    end.at = Math.max(end.at, i ? ends[i - 1].at + room : GAP.top + 4);
  });
  for (let i = ends.length - 1, floor = height - GAP.bottom; i >= 0; i--, floor = ends[i + 1].at - room) {
    ends[i].at = Math.min(ends[i].at, floor);
  }
  return ends.map((end) => {
    const text = end.name.length > 15 ? `${end.name.slice(0, 14)}…` : end.name;
    const own = end.method === undefined ? { class: "all" } : { class: `series c${end.method % COLOURS}`, "data-method": end.method };
    return svgElement("g", { ...own, "aria-hidden": "true" },
      svgElement("path", { d: `M${end.x + 8},${end.y}L${scale.right + 2},${end.at}`, class: "lead" }),
      svgElement("text", { x: scale.right + 5, y: end.at + 4, class: "name" }, text));
  });
}

/** Handles arrow keys: left and right along a method, up and down between the methods at a budget. */
function travel(event, picture) {
  const way = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
  const now = event.target.closest(".point");
  if (!way || !now) return;
  event.preventDefault();
  const along = event.key === "ArrowLeft" || event.key === "ArrowRight";
  const all = [...picture.querySelectorAll(".point")];
  const near = along ? all.filter(({ spot }) => spot.method === now.spot.method)
    : all.filter(({ spot }) => spot.budget === now.spot.budget);
  near.sort(({ spot: a }, { spot: b }) => (along ? a.x - b.x : a.y - b.y || a.method - b.method));
  const next = near[near.indexOf(now) + way];
  if (!next) return;
  all.forEach((one) => one.setAttribute("tabindex", one === next ? 0 : -1));
  next.focus();
}

/** Fills a box with a plot of its size; see plots.js for the fields of a spec. */
function plot(box, spec) {
  const [width, height] = [Math.max(220, box.clientWidth), box.clientHeight];
  const scale = scales(spec, width, height);
  const picture = svgElement("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": spec.label });
  picture.append(...axes(spec, scale, width, height));
  const spread = spec.small ? 0 : Math.min(2.2, 26 / Math.max(1, spec.series.length));
  spec.series.forEach((one, i) => {
    const shift = spec.spread ? (i - (spec.series.length - 1) / 2) * spread : 0; // so that the bars do not overlap
    picture.append(seriesOf(one, scale, spec, shift));
  });
  if (spec.names) picture.append(...names(spec, scale, height));
  else if (!spec.small) {
    for (const { y, text } of spec.rules || []) {
      picture.append(svgElement("text", { x: scale.right - 2, y: scale.y(y) - 4, class: "ruled end" }, text));
    }
  }
  if (!spec.series.length) picture.append(svgElement("text", { x: width / 2, y: height / 2, class: "middle" }, "no method is selected"));
  picture.querySelector(".point")?.setAttribute("tabindex", 0);
  picture.addEventListener("keydown", (event) => travel(event, picture));
  box.replaceChildren(picture);
}
