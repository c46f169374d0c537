// What the other parts stand on. Text out of the data only ever becomes a text node or an attribute, never markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MARKS = [
  "M4,0A4,4,0,1,1,-4,0A4,4,0,1,1,4,0Z", // circle
  "M-3.6,-3.6H3.6V3.6H-3.6Z", // square
  "M0,-5.2L5.2,0L0,5.2L-5.2,0Z", // diamond
  "M0,-4.8L4.8,3.6H-4.8Z", // triangle
  "M0,4.8L4.8,-3.6H-4.8Z", // triangle on its tip
  "M-4.6,-1.7H-1.7V-4.6H1.7V-1.7H4.6V1.7H1.7V4.6H-1.7V1.7H-4.6Z", // plus
  "M0,-5.4L1.5,-1.7L5.2,-1.7L2.3,0.8L3.3,4.6L0,2.4L-3.3,4.6L-2.3,0.8L-5.2,-1.7L-1.5,-1.7Z", // star
  "M-4.4,-2.2L-2.2,-4.4L0,-2.2L2.2,-4.4L4.4,-2.2L2.2,0L4.4,2.2L2.2,4.4L0,2.2L-2.2,4.4L-4.4,2.2L-2.2,0Z", // cross
  "M-4.8,-2H4.8V2H-4.8Z", // lying bar
  "M0,-5L4.7,-1.5L2.9,4H-2.9L-4.7,-1.5Z", // pentagon
];
const COLOURS = 8; // as many as page.css has

const state = {
  shown: new Set(DATA.rows.keys()),
  measure: "accuracy",
  sort: { column: -1, down: true },
  cost: null,
};
const listeners = [];
/** Calls every part again that depends on which rows are shown. */
const changed = () => listeners.forEach((listen) => listen());

/** An element with attributes; children are elements or text, which is never read as markup. */
function make(tag, attributes = {}, ...children) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(one, name, value);
  one.append(...children.filter((child) => child !== null && child !== undefined));
  return one;
}

/** As make, for pictures. */
function draw(tag, attributes = {}, ...children) {
  const one = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) set(one, name, value);
  one.append(...children);
  return one;
}

function set(one, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) one.addEventListener(name.slice(2), value);
  else one.setAttribute(name, value === true ? "" : String(value));
}

/** The mark of a row in its colour: a shape of its own too, so that nobody has to tell colours apart. */
function mark(row) {
  return draw("path", { d: MARKS[row % MARKS.length], class: `mark c${row % COLOURS}` });
}

function swatch(row) {
  return draw("svg", { viewBox: "-7 -7 14 14", class: "swatch", "aria-hidden": "true" }, mark(row));
}

function option(value, text, selected) {
  return make("option", { value, selected }, text);
}

const measureOf = (key) => DATA.measures.find((measure) => measure.key === key);
const pointOf = (row, budget) => (DATA.points[row] || [])[budget] || null;
/** [value, low, high, text] of a row at a budget, or null. */
const valueOf = (row, budget, key) => pointOf(row, budget)?.values[key] || null;

/** All that is known about a row at a budget, a line each. */
function lines(row, budget, key = "accuracy") {
  const point = pointOf(row, budget);
  const said = [`${DATA.rows[row].name} at ${DATA.budgets[budget].label}`];
  const keys = [...new Set([key, "accuracy", "difference", ...DATA.measures.filter((m) => m.hint).map((m) => m.key)])];
  for (const one of keys) {
    const value = point.values[one];
    if (value) said.push(`${measureOf(one).label}: ${value[3]}`);
  }
  return said;
}

const tip = byId("tip");
let where = null; // the tip is told beside
function placeTip() {
  const box = where();
  const { width, height } = tip.getBoundingClientRect();
  const wide = document.documentElement.clientWidth;
  const right = box.right + 10 + width <= wide ? box.right + 10 : box.left - 10 - width;
  tip.style.left = `${Math.max(4, Math.min(right, wide - width - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(box.top - height / 2, window.innerHeight - height - 4))}px`;
}
/** Shows lines beside a rectangle of the window, which a function gives: it moves where the page is scrolled. */
function tell(said, beside) {
  where = beside;
  tip.replaceChildren(...said.map((line, i) => make("div", { class: i ? "" : "strong" }, line)));
  tip.hidden = false;
  placeTip();
}
const hush = () => {
  tip.hidden = true;
};
document.addEventListener("keydown", (event) => event.key === "Escape" && hush());
document.addEventListener("scroll", () => tip.hidden || placeTip(), { capture: true, passive: true });

/** Bytes of a base64 text. */
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
/** Bit number i, the highest of a byte first. */
const bit = (packed, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1;
