// Data, elements and hints, which all other parts use. Text of the data becomes a text node or an attribute, never markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SHAPES = {
  circle: "M4,0A4,4,0,1,1,-4,0A4,4,0,1,1,4,0Z",
  square: "M-3.6,-3.6H3.6V3.6H-3.6Z",
  diamond: "M0,-5.2L5.2,0L0,5.2L-5.2,0Z",
  "triangle-up": "M0,-4.8L4.8,3.6H-4.8Z",
  "triangle-down": "M0,4.8L4.8,-3.6H-4.8Z",
  cross: "M-4.6,-1.7H-1.7V-4.6H1.7V-1.7H4.6V1.7H1.7V4.6H-1.7V1.7H-4.6Z",
  star: "M0,-5.4L1.5,-1.7L5.2,-1.7L2.3,0.8L3.3,4.6L0,2.4L-3.3,4.6L-2.3,0.8L-5.2,-1.7L-1.5,-1.7Z",
  x: "M-4.4,-2.2L-2.2,-4.4L0,-2.2L2.2,-4.4L4.4,-2.2L2.2,0L4.4,2.2L2.2,4.4L0,2.2L-2.2,4.4L-4.4,2.2L-2.2,0Z",
  pentagon: "M0,-5L4.7,-1.5L2.9,4H-2.9L-4.7,-1.5Z",
};

const state = {
  shown: new Set(DATA.first),
  measure: DATA.headline,
  view: "tokens",
  placeBudget: Math.max(0, DATA.budgets.length - 2),
  sort: { column: -1, down: true },
  cost: null,
};
const listeners = [];
/** Updates every part that depends on which methods are shown. */
const notify = () => listeners.forEach((listen) => listen());

/** Creates an HTML element. Children are elements or texts; a text is never parsed as markup. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Creates an SVG element. */
function svgElement(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  node.append(...children);
  return node;
}

function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else node.setAttribute(name, value === true ? "" : String(value));
}

/** Creates the mark of a method. It has its own shape, so that colours need not be distinguished. */
function marker(method) {
  const { symbol, color } = DATA.methods[method];
  return svgElement("path", { d: SHAPES[symbol], class: `mark c${color}` });
}

function swatch(method) {
  return svgElement("svg", { viewBox: "-7 -7 14 14", class: "swatch", "aria-hidden": "true" }, marker(method));
}

function option(value, text, selected) {
  return element("option", { value, selected }, text);
}

const measureOf = (key) => DATA.measures.find((measure) => measure.key === key);
const pointOf = (method, budget) => (DATA.points[method] || [])[budget] || null;
/** Returns [value, low, high, text] of a method at a budget, or null. */
const valueOf = (method, budget, key) => pointOf(method, budget)?.values[key] || null;

/** Returns the lines of the hint for a method at a budget: a given measure, the accuracy, and those declared as hints. */
function tipLines(method, budget, key = "accuracy") {
  const point = pointOf(method, budget);
  const lines = [`${DATA.methods[method].name} at ${DATA.budgets[budget].label}`];
  const keys = [...new Set([key, "accuracy", "difference", ...DATA.measures.filter((m) => m.hint).map((m) => m.key)])];
  for (const one of keys) {
    const value = point.values[one];
    if (value) lines.push(`${measureOf(one).label}: ${value[3]}`);
  }
  return lines;
}

const tip = byId("tip");
let tipAnchor = null; // function that returns the rectangle next to which the hint is shown
function positionTip() {
  const box = tipAnchor();
  const { width, height } = tip.getBoundingClientRect();
  const wide = document.documentElement.clientWidth;
  const right = box.right + 10 + width <= wide ? box.right + 10 : box.left - 10 - width;
  tip.style.left = `${Math.max(4, Math.min(right, wide - width - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(box.top - height / 2, window.innerHeight - height - 4))}px`;
}
/** Shows a hint next to the rectangle that a function returns; it is called again when the page is scrolled. */
function showTip(lines, anchor) {
  tipAnchor = anchor;
  tip.replaceChildren(...lines.map((line, i) => element("div", { class: i ? "" : "strong" }, line)));
  tip.hidden = false;
  positionTip();
}
const hideTip = () => {
  tip.hidden = true;
};
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
document.addEventListener("scroll", () => tip.hidden || positionTip(), { capture: true, passive: true });

/** Decodes a base64 text to bytes. */
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
/** Returns bit number i; the first bit is the highest of the first byte. */
const bit = (packed, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1;
