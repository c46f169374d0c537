// The table of results: methods by budgets, with any measure, sorted by any column.

const FIXED = ["name", "kind"]; // columns to the left of the budgets

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
    const value = valueOf(method, column - FIXED.length, state.measure);
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

const heads = () => ["compressor", "kind", ...DATA.budgets.map((budget) => budget.label)];

function headCell(text, column) {
  const on = state.sort.column === column;
  const arrow = element("span", { class: "arrow", "aria-hidden": "true" }, on ? (state.sort.down ? "▼" : "▲") : "↕");
  const press = element("button", { type: "button", onclick: () => sortBy(column) }, element("span", {}, text), arrow);
  if (column >= FIXED.length) {
    press.firstChild.append(element("small", {}, DATA.budgets[column - FIXED.length].note));
  }
  const sorted = on ? (state.sort.down ? "descending" : "ascending") : "none";
  const name = ["", "wide"][column] ?? "number";
  return element("th", { scope: "col", "aria-sort": sorted, class: name }, press);
}

function bodyCell(method, budget, best) {
  const value = valueOf(method, budget, state.measure);
  if (!value) {
    const self = measureOf(state.measure).compares && DATA.methods[method].name === DATA.baseline;
    return element("td", { class: "number quiet wrap" }, DATA.left_out[method][budget] || (self ? "baseline" : ""));
  }
  const [main, ...rest] = value[3].split(" [");
  const top = best[budget] === method;
  const cell = element("td", { class: `number${top ? " best" : ""}` }, element("span", { class: "value" }, main));
  if (rest.length) cell.append(element("span", { class: "interval" }, ` [${rest.join(" [")}`));
  if (top) cell.append(element("span", { class: "visually-hidden" }, " best at this budget"));
  cell.addEventListener("mouseenter", () => showTip(tipLines(method, budget, state.measure), () => cell.getBoundingClientRect()));
  cell.addEventListener("mouseleave", hideTip);
  return cell;
}

/** Returns the best method of each column, without oracles, which know the evidence. */
function bestOf(methods, better) {
  return DATA.budgets.map((_, budget) => {
    const known = methods.filter((method) => DATA.methods[method].kind !== "oracle" && valueOf(method, budget, state.measure));
    const sign = better === "lower" ? -1 : 1;
    const score = (method) => sign * valueOf(method, budget, state.measure)[0];
    return better && known.length > 1 ? known.reduce((a, b) => (score(b) > score(a) ? b : a)) : null;
  });
}

function fillTable() {
  const measure = measureOf(state.measure);
  const methods = sortedMethods();
  const best = bestOf(methods, measure.better);
  const table = byId("table");
  const head = element("tr", {}, ...heads().map(headCell));
  const body = element("tbody");
  for (const method of methods) {
    const name = element("th", { scope: "row" }, swatch(method), element("span", { class: "long" }, DATA.methods[method].name));
    const line = element("tr", {}, name, element("td", { class: "wide" }, DATA.methods[method].kind),
      ...DATA.budgets.map((_, budget) => bodyCell(method, budget, best)));
    line.addEventListener("mouseenter", () => highlight(method));
    line.addEventListener("mouseleave", () => highlight(null));
    body.append(line);
  }
  if (!methods.length) body.append(element("tr", {}, element("td", { colspan: heads().length }, "No method is selected.")));
  const foot = element("tfoot");
  for (const one of DATA.references) {
    const value = one.values[state.measure];
    foot.append(element("tr", {}, element("th", { scope: "row" }, one.name), element("td", { class: "wide" }, "reference"),
      element("td", { class: "number", colspan: Math.max(1, DATA.budgets.length) }, value ? `${value[3]} (at every budget)` : "")));
  }
  table.replaceChildren(element("caption", {}, element("span", {}, measure.description)), element("thead", {}, head), body, foot);
  const notes = [measure.note, measure.better && "underlined: the best at a budget, without oracles"];
  byId("measure-note").textContent = notes.filter(Boolean).join("; ");
}
