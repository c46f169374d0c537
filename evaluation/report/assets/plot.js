// One plot, drawn by plotly: lines with symbols and intervals, hints, and arrow keys that move from mark to mark.

let Plotly = null; // set by loadPlotly

/** Decompresses plotly's script, which is part of the page, and runs it; the policy of the page permits exactly it. */
async function loadPlotly() {
  const packed = bytes(byId("plotly").textContent);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = await new Response(stream).text();
  // Its maps, of which this page has none, would add a style sheet that the policy forbids, unless it is there already.
  for (const [, id] of script.matchAll(/getElementById\("([0-9a-f]{64})"\)/g)) document.head.append(element("template", { id }));
  document.head.append(element("script", {}, script));
  Plotly = window.Plotly;
}

/** Returns a text in which plotly finds no markup. */
const literal = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const drawn = new Map(); // box of each plot -> its spec

/** Dims all methods but one in the large plots; null shows all alike. */
function highlight(method) {
  for (const [box, spec] of drawn) {
    if (spec.small || !spec.series.length) continue;
    const opacity = spec.series.map((one) => (method === null || one.method === method ? 1 : 0.15));
    Plotly.restyle(box, { opacity }, [...opacity.keys()]);
  }
}

function traceOf(one, spec) {
  const method = DATA.methods[one.method];
  const [color, points] = [cssColor(`c${method.color}`), one.points];
  const trained = method.kind === "trained";
  return {
    type: "scatter", mode: "lines+markers", name: literal(method.name),
    x: points.map((point) => point.x), y: points.map((point) => point.y),
    text: points.map((point) => tipLines(one.method, point.budget, spec.key).map(literal).join("<br>")),
    hovertemplate: "%{text}<extra></extra>",
    line: { color, dash: method.dash, width: trained ? 2.6 : 1.5 },
    marker: { color, symbol: method.symbol, size: spec.small ? 6 : 9 },
    error_y: {
      type: "data", symmetric: false, visible: !spec.small && points.some((point) => point.low !== null),
      array: points.map((point) => (point.high ?? point.y) - point.y),
      arrayminus: points.map((point) => point.y - (point.low ?? point.y)), thickness: 1, width: 3,
    },
  };
}

function layoutOf(spec) {
  const axis = { gridcolor: cssColor("line"), linecolor: cssColor("quiet"), zeroline: false, automargin: true, fixedrange: true };
  const rule = (y) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { dash: "dot", width: 1.5, color: cssColor("quiet") } });
  const ticks = spec.ticks ? { tickmode: "array", tickvals: spec.ticks, ticktext: spec.ticks.map(String) } : { nticks: 6, exponentformat: "SI" };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: cssColor("ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
    margin: { l: spec.small ? 36 : 52, r: 8, t: 8, b: spec.small ? 40 : 52 },
    xaxis: { ...axis, ...ticks, type: "log", title: { text: literal(spec.xLabel), standoff: 8 } },
    yaxis: { ...axis, range: [spec.low, spec.high], title: { text: spec.small ? "" : literal(spec.yLabel) }, nticks: spec.small ? 4 : 8 },
    shapes: (spec.rules || []).map((one) => rule(one.y)),
    annotations: (spec.rules || []).filter((one) => one.text).map((one) => ({
      text: literal(one.text), xref: "paper", x: 0, xanchor: "left", y: one.y, yanchor: "bottom", showarrow: false,
      font: { size: 11, color: cssColor("quiet") },
    })),
    showlegend: Boolean(spec.legend), legend: { orientation: "v", x: 1.02, y: 1, font: { size: 12 } },
    hovermode: "closest", hoverlabel: { align: "left", bgcolor: cssColor("ink"), font: { color: cssColor("paper"), size: 13 } },
    dragmode: false,
  };
}

/** Draws a plot. Left and right move along a method, up and down between the methods at a budget. */
function plot(box, spec) {
  const first = !drawn.has(box);
  drawn.set(box, spec);
  Plotly.react(box, spec.series.map((one) => traceOf(one, spec)), layoutOf(spec), { displayModeBar: false, responsive: true });
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", spec.label);
  box.tabIndex = spec.series.length ? 0 : -1;
  box.spot = null;
  if (first) {
    box.addEventListener("keydown", (event) => travel(event, box));
    box.addEventListener("focus", () => spec.series.length && showSpot(box, box.spot || startOf(drawn.get(box))));
    box.addEventListener("blur", () => Plotly.Fx.unhover(box));
  }
}

const startOf = (spec) => ({ curve: 0, budget: spec.series[0].points[0].budget });

function showSpot(box, spot) {
  const series = drawn.get(box).series[spot.curve];
  const index = series.points.findIndex((point) => point.budget === spot.budget);
  if (index < 0) return;
  box.spot = spot;
  Plotly.Fx.hover(box, [{ curveNumber: spot.curve, pointNumber: index }]);
  byId("live").textContent = tipLines(series.method, spot.budget, drawn.get(box).key).join("; ");
}

function travel(event, box) {
  const way = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
  const { series } = drawn.get(box);
  if (event.key === "Escape") Plotly.Fx.unhover(box);
  if (!way || !series.length) return;
  event.preventDefault();
  const spot = box.spot || startOf(drawn.get(box));
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    const { points } = series[spot.curve];
    const next = points[points.findIndex((point) => point.budget === spot.budget) + way];
    if (next) showSpot(box, { ...spot, budget: next.budget });
    return;
  }
  const yOf = (curve) => series[curve].points.find((point) => point.budget === spot.budget)?.y;
  const ranked = [...series.keys()].filter((curve) => yOf(curve) !== undefined).sort((a, b) => yOf(b) - yOf(a));
  const next = ranked[ranked.indexOf(spot.curve) + way];
  if (next !== undefined) showSpot(box, { ...spot, curve: next });
}
