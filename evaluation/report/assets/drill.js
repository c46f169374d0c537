// One question, two compressors: what each answered, and on which tokens.

const drill = { budget: 0, sides: [0, 0], question: 0, type: "", outcome: "", video: "", frames: "all", at: null };
const SIDES = ["A", "B"];
const OUTCOMES = [["", "any"], ["10", "A right, B wrong"], ["01", "A wrong, B right"], ["11", "both right"], ["00", "both wrong"]];
let views = [];

const runsAt = (budget) => DATA.runs.map((run, i) => ({ ...run, i })).filter((run) => run.budget === budget && run.drill);
const nameOf = (run) => `${DATA.rows[run.row].name}${run.seeds > 1 ? `, seed ${run.seed}` : ""}`;
const runOf = (side) => DATA.runs[drill.sides[side]];
const right = (run, question) => bit(run.bits, DATA.drill.questions[question].place);
const chosen = () => DATA.drill.questions[drill.question];

/** Begins with what is asked most: the best row against the baseline, at the budget before the smallest. */
function begin() {
  const budgets = DATA.budgets.map((_, i) => i).filter((i) => runsAt(i).length);
  drill.budget = budgets[Math.max(0, budgets.length - 2)];
  const runs = runsAt(drill.budget).sort((a, b) => a.row - b.row || a.seed - b.seed);
  const fair = runs.filter((run) => DATA.rows[run.row].kind !== "oracle");
  const first = (fair[0] || runs[0]).i;
  const base = runs.find((run) => DATA.rows[run.row].name === DATA.baseline && run.i !== first);
  const other = base || fair.find((run) => run.row !== DATA.runs[first].row) || runs.find((run) => run.i !== first);
  drill.sides = [first, other ? other.i : first];
  const all = [...DATA.drill.questions.keys()];
  drill.question = all.find((i) => right(runOf(0), i) && !right(runOf(1), i)) ?? all[0];
}

function select(id, label, fill, change) {
  const one = make("select", { id, onchange: () => change(one.value) });
  one.append(...fill());
  return make("label", {}, `${label} `, one);
}

function fillSides() {
  SIDES.forEach((side, i) => {
    const runs = runsAt(drill.budget).sort((a, b) => a.row - b.row || a.seed - b.seed);
    const before = runOf(i);
    const same = runs.find((run) => run.row === before.row && run.seed === before.seed)
      || runs.find((run) => run.row === before.row) || runs[Math.min(i, runs.length - 1)];
    drill.sides[i] = same.i;
    byId(`side-${side}`).replaceChildren(...runs.map((run) => option(run.i, nameOf(run), run.i === same.i)));
  });
}

function controls() {
  const redo = (name) => (value) => {
    drill[name] = value;
    list();
  };
  const budgets = () => DATA.budgets.map((budget, i) => (runsAt(i).length ? option(i, budget.label, i === drill.budget) : null));
  const types = () => [option("", "any"), ...DATA.kinds.map((kind, i) => option(i, kind))];
  const videos = () => [option("", "any"), ...DATA.drill.videos.map((video, i) => option(i, video.name))];
  const pick = make("div", { class: "bar" },
    select("drill-budget", "Budget", () => budgets().filter(Boolean), (value) => {
      drill.budget = Number(value);
      fillSides();
      list();
    }),
    ...SIDES.map((side, i) => select(`side-${side}`, side, () => [], (value) => {
      drill.sides[i] = Number(value);
      list();
    })));
  const filters = make("div", { class: "bar" },
    select("drill-type", "Type", types, redo("type")),
    select("drill-outcome", "Outcome", () => OUTCOMES.map(([key, text]) => option(key, text)), redo("outcome")),
    select("drill-video", "Video", videos, redo("video")),
    make("span", { id: "drill-count", class: "quiet", role: "status" }));
  return [pick, make("p", { id: "tally" }), filters];
}

/** How the two compare over all questions, not only those of the list. */
function tally() {
  const [a, b] = [0, 1].map((side) => runOf(side).bits);
  const counts = { 11: 0, 10: 0, "01": 0, "00": 0 };
  for (let i = 0; i < DATA.asked; i++) counts[`${bit(a, i)}${bit(b, i)}`]++;
  byId("tally").textContent = `Of all ${DATA.asked} questions, both answer ${counts[11]} right, only A ${counts[10]}, `
    + `only B ${counts["01"]}, neither ${counts["00"]}. Below are those about the first `
    + `${DATA.drill.videos.length === 1 ? "video" : `${DATA.drill.videos.length} videos`}.`;
}

function matching() {
  const [a, b] = [runOf(0), runOf(1)];
  return DATA.drill.questions.map((_, i) => i).filter((i) => {
    const question = DATA.drill.questions[i];
    return (drill.type === "" || question.type === Number(drill.type))
      && (drill.video === "" || question.video === Number(drill.video))
      && (drill.outcome === "" || `${right(a, i)}${right(b, i)}` === drill.outcome);
  });
}

function verdict(run, question) {
  const good = right(run, question);
  return make("span", { class: good ? "good" : "bad" }, `${good ? "✓" : "✗"} `, make("span", { class: "hear" }, good ? "right: " : "wrong: "),
    make("span", { class: "long" }, DATA.drill.words[run.drill.said[question]]));
}

function list() {
  tally();
  const found = matching();
  if (!found.includes(drill.question) && found.length) drill.question = found[0];
  byId("drill-count").textContent = `${found.length} of ${DATA.drill.questions.length} questions`;
  const rows = found.map((i) => {
    const question = DATA.drill.questions[i];
    const radio = make("input", {
      type: "radio", name: "question", value: i, checked: i === drill.question, "aria-label": question.text,
      onchange: () => {
        drill.question = i;
        show();
      },
    });
    return make("tr", { onclick: () => radio.checked || radio.click() },
      make("td", {}, radio),
      make("td", { class: "wide" }, DATA.drill.videos[question.video].name),
      make("td", { class: "wide long" }, DATA.kinds[question.type]),
      make("td", { class: "long" }, question.text),
      make("td", { class: "wide long" }, question.answer),
      ...[0, 1].map((side) => make("td", {}, verdict(runOf(side), i))));
  });
  if (!rows.length) rows.push(make("tr", {}, make("td", { colspan: 7 }, "No question is like this: choose other filters.")));
  byId("questions").tBodies[0].replaceChildren(...rows);
  const [box, place] = [byId("questions").parentElement, rows[Math.max(0, found.indexOf(drill.question))].offsetTop];
  if (place < box.scrollTop + 40 || place > box.scrollTop + box.clientHeight - 40) box.scrollTop = place - 80;
  show();
}

function stepsOf(video, sets, boxes) {
  const all = video.sheet ? video.sheet.shown : [];
  if (drill.frames === "evidence") return all.filter((step) => boxes.some((box) => box[0] === step));
  if (drill.frames !== "differ") return all;
  const each = video.grid[1] * video.grid[2];
  const differs = (step) => {
    for (let place = step * each; place < (step + 1) * each; place++) {
      if (sets[0].has[place] !== sets[1].has[place]) return true;
    }
    return false;
  };
  return all.filter(differs);
}

const setOf = (run, question) => run.drill.sets[run.drill.kept[question]] || null;
const percent = (share) => `${(100 * share).toFixed(0)} %`;

function facts(run, question, set) {
  const { grid } = DATA.drill.videos[question.video];
  const said = [`${set.count} of ${grid[0] * grid[1] * grid[2]} tokens`];
  const recall = run.drill.recall?.[drill.question];
  if (recall !== null && recall !== undefined) said.push(`${percent(recall)} of the evidence kept`);
  if (set.sizes) said.push("tokens of several originals are shaded");
  return said.join(" · ");
}

/** The panels of the chosen question; the order of calls decides when two questions are chosen at once. */
let latest = 0;
async function show() {
  const call = ++latest;
  byId("panels").setAttribute("aria-busy", "true");
  const question = chosen();
  const video = DATA.drill.videos[question.video];
  byId("asked").replaceChildren(make("span", { class: "long" }, question.text), " ",
    make("span", { class: "quiet" }, `right answer: ${question.answer} · ${video.name} · ${DATA.kinds[question.type]}`));
  byId("video-note").textContent = video.note || "";
  const runs = [runOf(0), runOf(1)];
  const sets = runs.map((run) => setOf(run, drill.question));
  SIDES.forEach((side, i) => {
    byId(`name-${side}`).textContent = `${side}: ${nameOf(runs[i])}`;
    byId(`said-${side}`).replaceChildren(verdict(runs[i], drill.question));
    byId(`facts-${side}`).textContent = sets[i] ? facts(runs[i], question, sets[i]) : "These results do not say what was kept.";
  });
  views = [];
  const image = video.sheet ? await sheetOf(question.video) : null;
  if (call !== latest) return;
  const kept = sets.map((set) => (set ? unpack(set, video.grid) : { has: new Uint8Array(video.grid.reduce((a, b) => a * b)), sizes: new Map(), most: 1 }));
  const steps = stepsOf(video, kept, question.boxes);
  if (!steps.includes(drill.at)) drill.at = null;
  views = image ? kept.map((one) => ({ video, image, kept: one, boxes: question.boxes, steps, at: drill.at })) : [];
  byId("panels").hidden = !image;
  repaint();
  SIDES.forEach((side, i) => {
    const canvas = byId(`frames-${side}`);
    canvas.setAttribute("aria-label", `${nameOf(runs[i])}: ${byId(`facts-${side}`).textContent}. Arrow keys go from frame to frame.`);
  });
  byId("panels").setAttribute("aria-busy", "false");
}

function repaint() {
  views.forEach((view, i) => paint(byId(`frames-${SIDES[i]}`), { ...view, at: drill.at }));
}

/** What the frame under the pointer, or the place in it, holds for both. */
function frameLines(step, place) {
  const { video } = views[0];
  const lines = [`frame ${step} at ${seconds(video, step)}${views[0].boxes.some((box) => box[0] === step) ? ", with evidence" : ""}`];
  views.forEach((view, i) => {
    const each = video.grid[1] * video.grid[2];
    let text = `${SIDES[i]}: ${keptIn(view.kept, video.grid, step)} of ${each} tokens kept`;
    if (place !== null) {
      const size = view.kept.sizes.get(place) || 1;
      text += view.kept.has[place] ? `; here a token${size > 1 ? ` of ${size} originals` : ""}` : "; here none";
    }
    lines.push(text);
  });
  return lines;
}

function panel(side, i) {
  const canvas = make("canvas", { id: `frames-${side}`, role: "img", tabindex: 0 });
  const go = (step, place, beside) => {
    if (drill.at !== step) {
      drill.at = step;
      repaint();
    }
    if (step === null) hush();
    else tell(frameLines(step, place), beside);
  };
  canvas.addEventListener("mousemove", (event) => {
    if (!views.length) return;
    const found = under(canvas, views[i], event);
    go(found ? found.step : null, found && found.place, () => new DOMRect(event.clientX, event.clientY, 8, 8));
  });
  canvas.addEventListener("mouseleave", () => views.length && go(null));
  canvas.addEventListener("blur", () => views.length && go(null));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -canvas.place?.columns, ArrowDown: canvas.place?.columns }[event.key];
    if (!move || !views.length || !views[0].steps.length) return;
    event.preventDefault();
    const { steps } = views[0];
    const now = steps.indexOf(drill.at);
    const next = now < 0 ? 0 : Math.max(0, Math.min(steps.length - 1, now + move));
    const beside = () => {
      const [frame, box] = [canvas.getBoundingClientRect(), canvas.place.boxes[next]];
      return new DOMRect(frame.left + box.x, frame.top + box.y, box.wide, box.high);
    };
    const { top, bottom } = beside();
    if (top < 20 || bottom > window.innerHeight) window.scrollBy(0, top - window.innerHeight / 2);
    go(steps[next], null, beside);
    byId("live").textContent = frameLines(steps[next], null).join("; ");
  });
  return make("section", { class: "side", "aria-labelledby": `name-${side}` },
    make("h3", { id: `name-${side}`, class: "long" }),
    make("p", { class: "said" }, "answers ", make("span", { id: `said-${side}` })),
    make("p", { id: `facts-${side}`, class: "quiet" }),
    make("div", { class: "film" }, canvas));
}

function key(text, ...parts) {
  const picture = draw("svg", { viewBox: "0 0 18 18", class: "key", "aria-hidden": "true" }, ...parts);
  return make("span", { class: "keyed" }, picture, text);
}

function legend() {
  const square = (name) => draw("rect", { x: 1, y: 1, width: 16, height: 16, class: name });
  return make("p", { class: "legend" },
    key("kept", square("k-kept")),
    key("merged: the number says of how many, more is darker", square("k-merged"), draw("text", { x: 9, y: 13, class: "k-text" }, "4")),
    key("dropped, or merged into another", square("k-dropped")),
    key("evidence of the question (◆ above its frames)", square("k-evidence")),
    make("span", { class: "keyed" }, "numbers above frames: seconds, tokens kept"));
}

function fillDrill() {
  const body = byId("drill-body");
  if (!DATA.drill.questions || !DATA.runs.some((run) => run.drill)) {
    body.append(make("p", { class: "note" }, DATA.drill.why || "There is no compressor in these results."));
    return;
  }
  for (const run of DATA.runs) run.bits = bytes(run.right);
  begin();
  const head = make("tr", {}, ...["", "video", "type", "question", "right answer", "A", "B"].map((text, i) =>
    make("th", { scope: "col", class: [1, 2, 4].includes(i) ? "wide" : "" }, text || make("span", { class: "hear" }, "choose"))));
  const table = make("table", { id: "questions" }, make("thead", {}, head), make("tbody"));
  const frames = select("drill-frames", "Frames", () => [option("all", "all"), option("evidence", "with evidence"),
    option("differ", "where A and B differ")], (value) => {
    drill.frames = value;
    show();
  });
  body.append(...controls(),
    make("div", { class: "scroll questions", tabindex: 0, role: "region", "aria-label": "questions" }, table),
    make("p", { id: "asked" }), make("div", { class: "bar" }, frames, make("span", { id: "video-note", class: "quiet" })),
    legend(), make("div", { id: "panels", class: "pair" }, ...SIDES.map(panel)));
  fillSides();
  list();
  let wide = 0;
  new ResizeObserver(() => {
    if (byId("panels").clientWidth === wide) return;
    wide = byId("panels").clientWidth;
    repaint();
  }).observe(byId("panels"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}
