// The headline table: rows by budgets, any measure in it, sorted by any column.

const FIXED = ["name", "kind"]; // columns before the budgets

function fillMeasures() {
  const select = byId("measure");
  const groups = new Map();
  for (const measure of DATA.measures) {
    if (!groups.has(measure.group)) groups.set(measure.group, make("optgroup", { label: measure.group }));
    groups.get(measure.group).append(option(measure.key, measure.label, measure.key === state.measure));
  }
  select.append(...groups.values());
  select.addEventListener("change", () => {
    state.measure = select.value;
    fillTable();
  });
}

function fillRows() {
  const box = byId("rows");
  const kinds = [...new Set(DATA.rows.map((row) => row.kind))];
  const choices = [["all", () => true], ["none", () => false]];
  if (kinds.length > 1) choices.push(...kinds.map((kind) => [kind, (row) => row.kind === kind]));
  const boxes = DATA.rows.map((row, i) =>
    make("input", {
      type: "checkbox", checked: true,
      onchange: (event) => {
        state.shown[event.target.checked ? "add" : "delete"](i);
        changed();
      },
    }));
  const quick = make("div", { class: "quick" });
  for (const [label, want] of choices) {
    const press = () => {
      DATA.rows.forEach((row, i) => {
        boxes[i].checked = want(row);
        state.shown[boxes[i].checked ? "add" : "delete"](i);
      });
      changed();
    };
    quick.append(make("button", { type: "button", onclick: press }, label));
  }
  const chips = make("div", { class: "chips" });
  DATA.rows.forEach((row, i) => {
    const light = (on) => highlight(on ? i : null);
    chips.append(make("label", { onmouseenter: () => light(true), onmouseleave: () => light(false) },
      boxes[i], swatch(i), make("span", { class: "long" }, row.name)));
  });
  box.append(quick, chips);
}

function order() {
  const { column, down } = state.sort;
  const rows = [...state.shown].sort((a, b) => a - b);
  if (column < 0) return rows;
  const key = (row) => {
    if (column < FIXED.length) return DATA.rows[row][FIXED[column]];
    const value = valueOf(row, column - FIXED.length, state.measure);
    return value ? value[0] : null;
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  return rows.sort((a, b) => {
    const [one, other] = [key(a), key(b)];
    if (one === null || other === null) return (one === null) - (other === null);
    return (down ? -1 : 1) * compare(one, other);
  });
}

function sortBy(column) {
  const first = column >= FIXED.length; // numbers begin with the highest, names with a
  state.sort = state.sort.column === column ? { column, down: !state.sort.down } : { column, down: first };
  fillTable();
  byId("table").querySelectorAll("thead button")[column].focus();
  byId("live").textContent = `sorted by ${heads()[column]}, ${state.sort.down ? "descending" : "ascending"}`;
}

const heads = () => ["compressor", "kind", ...DATA.budgets.map((budget) => budget.label)];

function headCell(text, column) {
  const on = state.sort.column === column;
  const arrow = make("span", { class: "arrow", "aria-hidden": "true" }, on ? (state.sort.down ? "▼" : "▲") : "↕");
  const press = make("button", { type: "button", onclick: () => sortBy(column) }, make("span", {}, text), arrow);
  if (column >= FIXED.length) {
    press.firstChild.append(make("small", {}, DATA.budgets[column - FIXED.length].note));
  }
  const sorted = on ? (state.sort.down ? "descending" : "ascending") : "none";
  const name = ["", "wide"][column] ?? "number";
  return make("th", { scope: "col", "aria-sort": sorted, class: name }, press);
}

function bodyCell(row, budget, best) {
  const value = valueOf(row, budget, state.measure);
  if (!value) {
    const self = measureOf(state.measure).against && DATA.rows[row].name === DATA.baseline;
    return make("td", { class: "number quiet" }, self ? "baseline" : "");
  }
  const [main, ...rest] = value[3].split(" [");
  const top = best[budget] === row;
  const cell = make("td", { class: `number${top ? " best" : ""}` }, make("span", { class: "value" }, main));
  if (rest.length) cell.append(make("span", { class: "interval" }, ` [${rest.join(" [")}`));
  if (top) cell.append(make("span", { class: "hear" }, " best of the column"));
  cell.addEventListener("mouseenter", () => tell(lines(row, budget, state.measure), () => cell.getBoundingClientRect()));
  cell.addEventListener("mouseleave", hush);
  return cell;
}

/** The best row of each column, oracles aside: they know the answer's place. */
function bestOf(rows, better) {
  return DATA.budgets.map((_, budget) => {
    const known = rows.filter((row) => DATA.rows[row].kind !== "oracle" && valueOf(row, budget, state.measure));
    const sign = better === "lower" ? -1 : 1;
    const score = (row) => sign * valueOf(row, budget, state.measure)[0];
    return better && known.length > 1 ? known.reduce((a, b) => (score(b) > score(a) ? b : a)) : null;
  });
}

function fillTable() {
  const measure = measureOf(state.measure);
  const rows = order();
  const best = bestOf(rows, measure.better);
  const table = byId("table");
  const head = make("tr", {}, ...heads().map(headCell));
  const body = make("tbody");
  for (const row of rows) {
    const name = make("th", { scope: "row" }, swatch(row), make("span", { class: "long" }, DATA.rows[row].name));
    const line = make("tr", {}, name, make("td", { class: "wide" }, DATA.rows[row].kind),
      ...DATA.budgets.map((_, budget) => bodyCell(row, budget, best)));
    line.addEventListener("mouseenter", () => highlight(row));
    line.addEventListener("mouseleave", () => highlight(null));
    body.append(line);
  }
  if (!rows.length) body.append(make("tr", {}, make("td", { colspan: heads().length }, "No row is selected.")));
  const foot = make("tfoot");
  if (DATA.full) {
    const full = DATA.full.values[state.measure];
    foot.append(make("tr", {}, make("th", { scope: "row" }, DATA.full.name), make("td", { class: "wide" }, "reference"),
      make("td", { class: "number", colspan: Math.max(1, DATA.budgets.length) }, full ? `${full[3]} (without compression)` : "")));
  }
  table.replaceChildren(make("caption", {}, make("span", {}, measure.long)), make("thead", {}, head), body, foot);
  const notes = [measure.note, measure.better && "underlined: the best of a column, oracles aside"];
  byId("measure-note").textContent = notes.filter(Boolean).join("; ");
}
