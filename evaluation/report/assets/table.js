// The table of results: methods by columns, which depend on the view, with any measure, sorted by any column.

const FIXED = ["name", "kind"]; // columns to the left of those of the view

const byBudget = DATA.budgets.map(({ label, note }) => ({ label, note }));
// Each view has columns, and a function that returns the budget and the measure of a method in a column, or null.
const VIEWS = {
  tokens: { title: "equal tokens", columns: byBudget, at: (_, column) => [column, state.measure] },
  flops: {
    title: "equal FLOPs of everything",
    columns: byBudget.map(({ label }) => ({ label, note: `FLOPs of ${label}` })),
    at: (method, column) => {
      const own = DATA.flops.own[method][column];
      return own === null ? null : [own, state.measure];
    },
    note: "each method has the largest of its budgets at which tower, compressor, prefill and answer need at most the FLOPs of the column's tokens without a compressor",
  },
  places: {
    title: "position of the evidence",
    columns: placeKeys("").map(([, label]) => ({ label: label.replace(" %", ""), note: "" })),
    at: (_, column) => [state.placeBudget, (placeKeys(state.measure === "recall" ? "recall_" : "")[column] || [])[0]],
    note: "where the evidence is, in percent of the video, and in the frame; accuracy, or evidence recall if that is shown",
  },
  positions: {
    title: "position in long answers",
    columns: DATA.positions.map(([, label]) => ({ label, note: "" })),
    at: (_, column) => [state.placeBudget, (state.measure.startsWith("loss_at:") ? "" : "added_") + DATA.positions[column][0]],
    better: "lower",
    note: "tokens of the right answer, of answers of more than one token; loss minus that with all tokens, in nats, or the loss if a loss of long answers is shown",
  },
};
const viewOf = () => VIEWS[state.view];
/** Returns [value, low, high, text] of a method in a column of the view, or null. */
const cellOf = (method, column) => {
  const at = viewOf().at(method, column);
  return at && valueOf(method, ...at);
};

/** Returns key and label of the measures by position of the evidence. */
function placeKeys(prefix) {
  return DATA.places.filter(([key]) => (prefix ? key.startsWith(prefix) : !key.startsWith("recall_")));
}

function fillViews() {
  const known = { tokens: true, flops: DATA.flops.limits.length > 0, places: DATA.places.length > 0, positions: DATA.positions.length > 0 };
  const select = byId("view");
  select.append(...Object.keys(VIEWS).filter((name) => known[name]).map((name) => option(name, VIEWS[name].title, name === state.view)));
  select.addEventListener("change", () => {
    state.view = select.value;
    state.sort = { column: -1, down: true };
    fillTable();
  });
  const budget = byId("place-budget");
  budget.append(...DATA.budgets.map(({ label }, i) => option(String(i), label, i === state.placeBudget)));
  budget.addEventListener("change", () => {
    state.placeBudget = Number(budget.value);
    fillTable();
  });
}

function fillMeasures() {
  const select = byId("measure");
  const groups = new Map();
  for (const measure of DATA.measures) {
    if (!groups.has(measure.group)) groups.set(measure.group, element("optgroup", { label: measure.group }));
    groups.get(measure.group).append(option(measure.key, measure.label, measure.key === state.measure));
  }
  select.append(...groups.values());
  select.addEventListener("change", () => {
    state.measure = select.value;
    fillTable();
  });
}

function fillMethods() {
  const box = byId("methods");
  const kinds = [...new Set(DATA.methods.map((method) => method.kind))];
  const choices = [["all", () => true], ["none", () => false]];
  if (kinds.length > 1) choices.push(...kinds.map((kind) => [kind, (method) => method.kind === kind]));
  const boxes = DATA.methods.map((method, i) =>
    element("input", {
      type: "checkbox", checked: state.shown.has(i),
      onchange: (event) => {
        state.shown[event.target.checked ? "add" : "delete"](i);
        notify();
      },
    }));
  const quick = element("div", { class: "quick" });
  for (const [label, want] of choices) {
    const press = () => {
      DATA.methods.forEach((method, i) => {
        boxes[i].checked = want(method);
        state.shown[boxes[i].checked ? "add" : "delete"](i);
      });
      notify();
    };
    quick.append(element("button", { type: "button", onclick: press }, label));
  }
  const chips = element("div", { class: "chips" });
  DATA.methods.forEach((method, i) => {
    const light = (on) => highlight(on ? i : null);
    chips.append(element("label", { onmouseenter: () => light(true), onmouseleave: () => light(false) },
      boxes[i], swatch(i), element("span", { class: "long" }, method.name)));
  });
  box.append(quick, chips);
}

function sortedMethods() {
  const { column, down } = state.sort;
  const methods = [...state.shown].sort((a, b) => a - b);
  if (column < 0) return methods;
  const key = (method) => {
    if (column < FIXED.length) return DATA.methods[method][FIXED[column]];
    const value = cellOf(method, column - FIXED.length);
    return value ? value[0] : null;
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  return methods.sort((a, b) => {
    const [one, other] = [key(a), key(b)];
    if (one === null || other === null) return (one === null) - (other === null);
    return (down ? -1 : 1) * compare(one, other);
  });
}

function sortBy(column) {
  const first = column >= FIXED.length; // numbers start with the highest, names with a
  state.sort = state.sort.column === column ? { column, down: !state.sort.down } : { column, down: first };
  fillTable();
  byId("table").querySelectorAll("thead button")[column].focus();
  byId("live").textContent = `sorted by ${heads()[column]}, ${state.sort.down ? "descending" : "ascending"}`;
}

const heads = () => ["compressor", "kind", ...viewOf().columns.map((column) => column.label)];

function headCell(text, column) {
  const on = state.sort.column === column;
  const arrow = element("span", { class: "arrow", "aria-hidden": "true" }, on ? (state.sort.down ? "▼" : "▲") : "↕");
  const press = element("button", { type: "button", onclick: () => sortBy(column) }, element("span", {}, text), arrow);
  if (column >= FIXED.length) {
    press.firstChild.append(element("small", {}, viewOf().columns[column - FIXED.length].note));
  }
  const sorted = on ? (state.sort.down ? "descending" : "ascending") : "none";
  const name = ["", "wide"][column] ?? "number";
  return element("th", { scope: "col", "aria-sort": sorted, class: name }, press);
}

function bodyCell(method, column, best) {
  const value = cellOf(method, column);
  if (!value) {
    const self = measureOf(state.measure).compares && DATA.methods[method].name === DATA.baseline;
    const left = state.view === "tokens" ? DATA.left_out[method][column] : "";
    return element("td", { class: "number quiet wrap" }, left || (self ? "baseline" : ""));
  }
  const [budget, key] = viewOf().at(method, column);
  const [main, ...rest] = value[3].split(" [");
  const top = best[column] === method;
  const cell = element("td", { class: `number${top ? " best" : ""}` }, element("span", { class: "value" }, main));
  if (rest.length) cell.append(element("span", { class: "interval" }, ` [${rest.join(" [")}`));
  if (state.view === "flops") cell.append(element("span", { class: "own" }, `at ${DATA.budgets[budget].label}`));
  if (top) cell.append(element("span", { class: "visually-hidden" }, " best in this column"));
  cell.addEventListener("mouseenter", () => showTip(tipLines(method, budget, key), () => cell.getBoundingClientRect()));
  cell.addEventListener("mouseleave", hideTip);
  return cell;
}

/** Returns the best method of each column, without oracles, which know the evidence. */
function bestOf(methods, better) {
  return viewOf().columns.map((_, column) => {
    const known = methods.filter((method) => DATA.methods[method].kind !== "oracle" && cellOf(method, column));
    const sign = better === "lower" ? -1 : 1;
    const score = (method) => sign * cellOf(method, column)[0];
    return better && known.length > 1 ? known.reduce((a, b) => (score(b) > score(a) ? b : a)) : null;
  });
}

function fillTable() {
  const measure = measureOf(state.measure);
  const methods = sortedMethods();
  const best = bestOf(methods, viewOf().better || measure.better);
  const table = byId("table");
  table.className = state.view;
  const oneBudget = ["places", "positions"].includes(state.view);
  byId("place-budget-label").hidden = !oneBudget;
  const head = element("tr", {}, ...heads().map(headCell));
  const body = element("tbody");
  for (const method of methods) {
    const name = element("th", { scope: "row" }, swatch(method), element("span", { class: "long" }, DATA.methods[method].name));
    const line = element("tr", {}, name, element("td", { class: "wide" }, DATA.methods[method].kind),
      ...viewOf().columns.map((_, column) => bodyCell(method, column, best)));
    line.addEventListener("mouseenter", () => highlight(method));
    line.addEventListener("mouseleave", () => highlight(null));
    body.append(line);
  }
  if (!methods.length) body.append(element("tr", {}, element("td", { colspan: heads().length }, "No method is selected.")));
  const foot = element("tfoot");
  for (const one of DATA.references) {
    const value = one.values[state.measure];
    foot.append(element("tr", {}, element("th", { scope: "row" }, one.name), element("td", { class: "wide" }, "reference"),
      element("td", { class: "number", colspan: Math.max(1, viewOf().columns.length) }, value && !oneBudget ? `${value[3]} (at every budget)` : "")));
  }
  table.replaceChildren(element("caption", {}, element("span", {}, measure.description)), element("thead", {}, head), body, foot);
  const notes = [viewOf().note, measure.note, measure.better && "underlined: the best of a column, without oracles"];
  byId("measure-note").textContent = notes.filter(Boolean).join("; ");
}
