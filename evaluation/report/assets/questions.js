// Single questions: what two methods answered, and which tokens each kept.

const choice = { budget: 0, sides: [0, 0], question: 0, type: "", outcome: "", video: "", frames: "all", at: null };
const SIDES = ["A", "B"];
const OUTCOMES = [["", "any"], ["10", "A right, B wrong"], ["01", "A wrong, B right"], ["11", "both right"], ["00", "both wrong"]];
let views = [];

const runsAt = (budget) => DATA.runs.map((run, i) => ({ ...run, i })).filter((run) => run.budget === budget && run.detail);
const nameOf = (run) => `${DATA.methods[run.method].name}${run.seeds > 1 ? `, seed ${run.seed}` : ""}`;
const runOf = (side) => DATA.runs[choice.sides[side]];
const isRight = (run, question) => bit(run.bits, DATA.detail.questions[question].number);
const chosenQuestion = () => DATA.detail.questions[choice.question];

/** Chooses the best method and the baseline at the second smallest budget, and a question that only the former answers. */
function chooseDefaults() {
  const budgets = DATA.budgets.map((_, i) => i).filter((i) => runsAt(i).length);
  choice.budget = budgets[Math.max(0, budgets.length - 2)];
  const runs = runsAt(choice.budget).sort((a, b) => a.method - b.method || a.seed - b.seed);
  const fair = runs.filter((run) => DATA.methods[run.method].kind !== "oracle");
  const first = (fair[0] || runs[0]).i;
  const base = runs.find((run) => DATA.methods[run.method].name === DATA.baseline && run.i !== first);
  const other = base || fair.find((run) => run.method !== DATA.runs[first].method) || runs.find((run) => run.i !== first);
  choice.sides = [first, other ? other.i : first];
  const all = [...DATA.detail.questions.keys()];
  choice.question = all.find((i) => isRight(runOf(0), i) && !isRight(runOf(1), i)) ?? all[0];
}

function select(id, label, fill, change) {
  const one = element("select", { id, onchange: () => change(one.value) });
  one.append(...fill());
  return element("label", {}, `${label} `, one);
}

function fillSides() {
  SIDES.forEach((side, i) => {
    const runs = runsAt(choice.budget).sort((a, b) => a.method - b.method || a.seed - b.seed);
    const before = runOf(i);
    const same = runs.find((run) => run.method === before.method && run.seed === before.seed)
      || runs.find((run) => run.method === before.method) || runs[Math.min(i, runs.length - 1)];
    choice.sides[i] = same.i;
    byId(`side-${side}`).replaceChildren(...runs.map((run) => option(run.i, nameOf(run), run.i === same.i)));
  });
}

function controls() {
  const filterBy = (name) => (value) => {
    choice[name] = value;
    listQuestions();
  };
  const budgets = () => DATA.budgets.map((budget, i) => (runsAt(i).length ? option(i, budget.label, i === choice.budget) : null));
  const types = () => [option("", "any"), ...DATA.question_types.map((kind, i) => option(i, kind))];
  const videos = () => [option("", "any"), ...DATA.detail.videos.map((video, i) => option(i, video.name))];
  const selection = element("div", { class: "bar" },
    select("question-budget", "Budget", () => budgets().filter(Boolean), (value) => {
      choice.budget = Number(value);
      fillSides();
      listQuestions();
    }),
    ...SIDES.map((side, i) => select(`side-${side}`, side, () => [], (value) => {
      choice.sides[i] = Number(value);
      listQuestions();
    })));
  const filters = element("div", { class: "bar" },
    select("question-type", "Type", types, filterBy("type")),
    select("question-outcome", "Outcome", () => OUTCOMES.map(([key, text]) => option(key, text)), filterBy("outcome")),
    select("question-video", "Video", videos, filterBy("video")),
    element("span", { id: "question-count", class: "quiet", role: "status" }));
  return [selection, element("p", { id: "tally" }), filters];
}

/** Shows how the two compare on all questions, not only on those of the list. */
function showTally() {
  const [a, b] = [0, 1].map((side) => runOf(side).bits);
  const counts = { 11: 0, 10: 0, "01": 0, "00": 0 };
  for (let i = 0; i < DATA.asked; i++) counts[`${bit(a, i)}${bit(b, i)}`]++;
  byId("tally").textContent = `Of all ${DATA.asked} questions, both answer ${counts[11]} right, only A ${counts[10]}, `
    + `only B ${counts["01"]}, neither ${counts["00"]}. Listed below are those about the first `
    + `${DATA.detail.videos.length === 1 ? "video" : `${DATA.detail.videos.length} videos`}.`;
}

function matchingQuestions() {
  const [a, b] = [runOf(0), runOf(1)];
  return DATA.detail.questions.map((_, i) => i).filter((i) => {
    const question = DATA.detail.questions[i];
    return (choice.type === "" || question.type === Number(choice.type))
      && (choice.video === "" || question.video === Number(choice.video))
      && (choice.outcome === "" || `${isRight(a, i)}${isRight(b, i)}` === choice.outcome);
  });
}

function verdict(run, question) {
  const good = isRight(run, question);
  return element("span", { class: good ? "good" : "bad" },
    `${good ? "✓" : "✗"} `, element("span", { class: "visually-hidden" }, good ? "right: " : "wrong: "),
    element("span", { class: "long" }, DATA.detail.answer_texts[run.detail.said[question]]));
}

function listQuestions() {
  showTally();
  const found = matchingQuestions();
  if (!found.includes(choice.question) && found.length) choice.question = found[0];
  byId("question-count").textContent = `${found.length} of ${DATA.detail.questions.length} questions`;
  const rows = found.map((i) => {
    const question = DATA.detail.questions[i];
    const radio = element("input", {
      type: "radio", name: "question", value: i, checked: i === choice.question, "aria-label": question.text,
      onchange: () => {
        choice.question = i;
        showQuestion();
      },
    });
    return element("tr", { onclick: () => radio.checked || radio.click() },
      element("td", {}, radio),
      element("td", { class: "wide" }, DATA.detail.videos[question.video].name),
      element("td", { class: "wide long" }, DATA.question_types[question.type]),
      element("td", { class: "long" }, question.text),
      element("td", { class: "wide long" }, question.answer),
      ...[0, 1].map((side) => element("td", {}, verdict(runOf(side), i))));
  });
  if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: 7 }, "No question matches: choose other filters.")));
  byId("questions").tBodies[0].replaceChildren(...rows);
  const [box, top] = [byId("questions").parentElement, rows[Math.max(0, found.indexOf(choice.question))].offsetTop];
  if (top < box.scrollTop + 40 || top > box.scrollTop + box.clientHeight - 40) box.scrollTop = top - 80;
  showQuestion();
}

function stepsOf(video, sets, boxes) {
  const all = video.mosaic ? video.mosaic.shown : [];
  if (choice.frames === "evidence") return all.filter((step) => boxes.some((box) => box[0] === step));
  if (choice.frames !== "differ") return all;
  const perFrame = video.grid[1] * video.grid[2];
  const differs = (step) => {
    for (let token = step * perFrame; token < (step + 1) * perFrame; token++) {
      if (sets[0].isKept[token] !== sets[1].isKept[token]) return true;
    }
    return false;
  };
  return all.filter(differs);
}

const keptSetOf = (run, question) => run.detail.sets[run.detail.kept[question]] || null;
const percent = (share) => `${(100 * share).toFixed(0)} %`;

function keptFacts(run, question, set) {
  const { grid } = DATA.detail.videos[question.video];
  const said = [`${set.count} of ${grid[0] * grid[1] * grid[2]} tokens${run.inside ? " enter the language model" : ""}`];
  const recall = run.detail.recall?.[choice.question];
  if (recall !== null && recall !== undefined) said.push(`${percent(recall)} of the evidence ${run.inside ? "enters" : "kept"}`);
  if (set.sizes) said.push("merged tokens are shaded");
  return said.join(" · ");
}

/** Shows the chosen question. If another one is chosen while an image is decoded, only the latest call continues. */
let latestCall = 0;
async function showQuestion() {
  const call = ++latestCall;
  byId("panels").setAttribute("aria-busy", "true");
  const question = chosenQuestion();
  const video = DATA.detail.videos[question.video];
  byId("asked").replaceChildren(element("span", { class: "long" }, question.text), " ",
    element("span", { class: "quiet" }, `right answer: ${question.answer} · ${video.name} · ${DATA.question_types[question.type]}`));
  byId("video-note").textContent = video.note || "";
  const runs = [runOf(0), runOf(1)];
  const sets = runs.map((run) => keptSetOf(run, choice.question));
  SIDES.forEach((side, i) => {
    byId(`name-${side}`).textContent = `${side}: ${nameOf(runs[i])}`;
    byId(`said-${side}`).replaceChildren(verdict(runs[i], choice.question));
    byId(`facts-${side}`).textContent = sets[i] ? keptFacts(runs[i], question, sets[i]) : "These results do not contain the kept tokens.";
  });
  views = [];
  const image = video.mosaic ? await mosaicOf(question.video) : null;
  if (call !== latestCall) return;
  const nothing = () => ({ isKept: new Uint8Array(video.grid.reduce((a, b) => a * b)), sizes: new Map(), largest: 1 });
  const kept = sets.map((set) => (set ? unpack(set, video.grid) : nothing()));
  const steps = stepsOf(video, kept, question.boxes);
  if (!steps.includes(choice.at)) choice.at = null;
  views = image ? kept.map((one) => ({ video, image, kept: one, boxes: question.boxes, steps, at: choice.at })) : [];
  byId("panels").hidden = !image;
  repaint();
  SIDES.forEach((side, i) => {
    const canvas = byId(`frames-${side}`);
    canvas.setAttribute("aria-label", `${nameOf(runs[i])}: ${byId(`facts-${side}`).textContent}. Use the arrow keys to move between frames.`);
  });
  byId("panels").setAttribute("aria-busy", "false");
}

function repaint() {
  views.forEach((view, i) => paint(byId(`frames-${SIDES[i]}`), { ...view, at: choice.at }));
}

/** Returns the lines of the hint for a frame, or for a token of it: what both methods kept there. */
function frameLines(step, token) {
  const { video } = views[0];
  const lines = [`frame ${step} at ${seconds(video, step)}${views[0].boxes.some((box) => box[0] === step) ? ", with evidence" : ""}`];
  views.forEach((view, i) => {
    const perFrame = video.grid[1] * video.grid[2];
    let text = `${SIDES[i]}: ${keptIn(view.kept, video.grid, step)} of ${perFrame} tokens kept`;
    if (token !== null) {
      const size = view.kept.sizes.get(token) || 1;
      text += view.kept.isKept[token] ? `; here a kept token${size > 1 ? ` of ${size} originals` : ""}` : "; none here";
    }
    lines.push(text);
  });
  return lines;
}

function panel(side, i) {
  const canvas = element("canvas", { id: `frames-${side}`, role: "img", tabindex: 0 });
  const pointAt = (step, token, anchor) => {
    if (choice.at !== step) {
      choice.at = step;
      repaint();
    }
    if (step === null) hideTip();
    else showTip(frameLines(step, token), anchor);
  };
  canvas.addEventListener("mousemove", (event) => {
    if (!views.length) return;
    const found = positionUnder(canvas, views[i], event);
    pointAt(found ? found.step : null, found && found.token, () => new DOMRect(event.clientX, event.clientY, 8, 8));
  });
  canvas.addEventListener("mouseleave", () => views.length && pointAt(null));
  canvas.addEventListener("blur", () => views.length && pointAt(null));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -canvas.layout?.columns, ArrowDown: canvas.layout?.columns }[event.key];
    if (!move || !views.length || !views[0].steps.length) return;
    event.preventDefault();
    const { steps } = views[0];
    const now = steps.indexOf(choice.at);
    const next = now < 0 ? 0 : Math.max(0, Math.min(steps.length - 1, now + move));
    const anchor = () => {
      const [frame, box] = [canvas.getBoundingClientRect(), canvas.layout.boxes[next]];
      return new DOMRect(frame.left + box.x, frame.top + box.y, box.wide, box.high);
    };
    const { top, bottom } = anchor();
    if (top < 20 || bottom > window.innerHeight) window.scrollBy(0, top - window.innerHeight / 2);
    pointAt(steps[next], null, anchor);
    byId("live").textContent = frameLines(steps[next], null).join("; ");
  });
  return element("section", { class: "side", "aria-labelledby": `name-${side}` },
    element("h3", { id: `name-${side}`, class: "long" }),
    element("p", { class: "said" }, "answers ", element("span", { id: `said-${side}` })),
    element("p", { id: `facts-${side}`, class: "quiet" }),
    element("div", { class: "frames" }, canvas));
}

function legendItem(text, ...parts) {
  const picture = svgElement("svg", { viewBox: "0 0 18 18", class: "key", "aria-hidden": "true" }, ...parts);
  return element("span", { class: "keyed" }, picture, text);
}

function legend() {
  const square = (name) => svgElement("rect", { x: 1, y: 1, width: 16, height: 16, class: name });
  return element("p", { class: "legend" },
    legendItem("kept", square("k-kept")),
    legendItem("merged (number of originals; darker: more)", square("k-merged"), svgElement("text", { x: 9, y: 13, class: "k-text" }, "4")),
    legendItem("dropped, or merged into another token", square("k-dropped")),
    legendItem("evidence of the question (◆ above its frames)", square("k-evidence")),
    element("span", { class: "keyed" }, "above each frame: time and number of kept tokens"));
}

function fillQuestions() {
  const body = byId("questions-body");
  if (!DATA.detail.questions || !DATA.runs.some((run) => run.detail)) {
    body.append(element("p", { class: "note" }, DATA.detail.reason || "These results contain no compressed videos."));
    return;
  }
  for (const run of DATA.runs) run.bits = bytes(run.right);
  chooseDefaults();
  const head = element("tr", {}, ...["", "video", "type", "question", "right answer", "A", "B"].map((text, i) =>
    element("th", { scope: "col", class: [1, 2, 4].includes(i) ? "wide" : "" }, text || element("span", { class: "visually-hidden" }, "choose"))));
  const table = element("table", { id: "questions" }, element("thead", {}, head), element("tbody"));
  const frames = select("question-frames", "Frames", () => [option("all", "all"), option("evidence", "with evidence"),
    option("differ", "where A and B differ")], (value) => {
    choice.frames = value;
    showQuestion();
  });
  body.append(...controls(),
    element("div", { class: "scroll questions", tabindex: 0, role: "region", "aria-label": "questions" }, table),
    element("p", { id: "asked" }), element("div", { class: "bar" }, frames, element("span", { id: "video-note", class: "quiet" })),
    legend(), element("div", { id: "panels", class: "pair" }, ...SIDES.map(panel)));
  fillSides();
  listQuestions();
  let width = 0;
  new ResizeObserver(() => {
    if (byId("panels").clientWidth === width) return;
    width = byId("panels").clientWidth;
    repaint();
  }).observe(byId("panels"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}
