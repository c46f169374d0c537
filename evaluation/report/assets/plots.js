// The plots of the page: each is described by a spec and drawn by plot.js.

/** Returns the points of the shown methods: xOf returns x of a method at a budget, y is the measure with a key. */
function seriesFor(xOf, key) {
  return [...state.shown].sort((a, b) => a - b).map((method) => {
    const points = DATA.budgets.map((_, budget) => {
      const [x, value] = [xOf(method, budget), valueOf(method, budget, key)];
      if (!(x > 0) || !value) return null;
      const [y, low, high] = value.slice(0, 3).map((part) => (part === null ? null : 100 * part));
      return { x, y, low, high, budget };
    });
    return { method, points: points.filter(Boolean).sort((a, b) => a.x - b.x) };
  }).filter((one) => one.points.length);
}

const tokensOf = (method, budget) => pointOf(method, budget)?.tokens;

function budgetTicks() {
  return [...new Set(DATA.budgets.flatMap((budget) => budget.tokens))].sort((a, b) => a - b);
}

/** Returns the range in percent of an axis into which all marks and intervals fit, whichever methods are shown. */
function range(key) {
  const all = DATA.methods.flatMap((_, method) => DATA.budgets.map((_, budget) => valueOf(method, budget, key)));
  const known = all.filter(Boolean).flatMap(([value, low, high]) => [low ?? value, high ?? value]);
  if (DATA.full?.values[key]) known.push(DATA.full.values[key][0]);
  if (!known.length) return { low: 0, high: 100 };
  const [low, high] = [100 * Math.min(...known), 100 * Math.max(...known)];
  return { low: Math.max(0, 5 * Math.floor(low / 5 - 0.2)), high: Math.min(100, 5 * Math.ceil(high / 5 + 0.2)) };
}

function rules(key) {
  const full = DATA.full?.values[key];
  return full ? [{ y: 100 * full[0], name: DATA.full.name, text: `${DATA.full.name} ${full[3].split(" ")[0]}` }] : [];
}

function drawBudgets() {
  const box = byId("plot-budget");
  plot(box, {
    key: "accuracy", ...range("accuracy"), series: seriesFor(tokensOf, "accuracy"), rules: rules("accuracy"),
    ticks: budgetTicks(),
    xLabel: DATA.tokens_title, yLabel: "accuracy, %",
    label: "Plot: accuracy against visual tokens", legend: box.clientWidth > 460,
  });
}

function drawCosts() {
  const box = byId("plot-cost");
  const cost = measureOf(state.cost);
  if (!cost) return;
  const xOf = (method, budget) => valueOf(method, budget, state.cost)?.[0];
  plot(box, {
    key: state.cost, ...range("accuracy"), series: seriesFor(xOf, "accuracy"), rules: rules("accuracy"),
    xLabel: cost.label, yLabel: "accuracy, %", label: `Plot: accuracy against ${cost.label}`,
  });
}

function drawTypes() {
  for (const type of DATA.types) {
    const key = `type:${type.name}`;
    const spec = {
      key, low: 0, high: 100, small: true, series: seriesFor(tokensOf, key), xLabel: "visual tokens",
      ticks: budgetTicks(),
      label: `Plot: accuracy on ${type.name}`,
      rules: type.chance === null ? [] : [{ y: 100 * type.chance }],
    };
    plot(type.box, spec);
  }
}

function drawAll() {
  drawBudgets();
  drawCosts();
  drawTypes();
}

function fillPlots() {
  const costs = DATA.measures.filter((measure) => measure.axis);
  state.cost = costs.length ? costs[0].key : null;
  const select = byId("cost");
  select.append(...costs.map((cost) => option(cost.key, cost.label, false)));
  select.addEventListener("change", () => {
    state.cost = select.value;
    drawCosts();
  });
  if (!costs.length) select.closest("figure").replaceChildren(element("p", { class: "note" }, "These results contain no costs."));
  for (const type of DATA.types) {
    type.box = element("div", { class: "plot small" });
    const title = element("figcaption", {}, element("span", { class: "long" }, type.name));
    byId("plot-types").append(element("figure", {}, title, type.box));
  }
  const chance = DATA.types.some((type) => type.chance !== null);
  byId("types-note").textContent = `All panels have the same axes${chance ? "; the dotted line is the accuracy of guessing" : ""}.`;
  drawAll();
  listeners.push(drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
}
