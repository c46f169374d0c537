// Fills the page from top to bottom.

function fillProvenance() {
  const box = byId("provenance");
  for (const group of DATA.provenance) {
    const facts = element("dl");
    for (const [name, value] of group.facts) {
      facts.append(element("dt", {}, name), element("dd", { class: "long" }, value));
    }
    box.append(element("details", {}, element("summary", {}, group.title), facts));
  }
}

function fillVerdict() {
  const points = DATA.summary.points.map(([budget, text]) =>
    element("li", {}, element("strong", {}, `${budget}: `), element("span", { class: "long" }, text)));
  byId("verdict").hidden = !points.length;
  byId("verdict").append(element("ul", {}, ...points), element("p", { class: "quiet" }, DATA.summary.caution));
}

byId("folder").textContent = DATA.folder;
byId("title").textContent = DATA.title;
byId("about").textContent = DATA.about;
fillVerdict();
fillMethods();
fillMeasures();
fillViews();
fillTable();
listeners.push(fillTable);
fillQuestions();
fillProvenance();
loadPlotly().then(fillPlots, (error) => {
  byId("plots-note").textContent = `This browser cannot draw the plots (${error}); the table has the same numbers.`;
}).finally(() => {
  document.documentElement.dataset.ready = "yes";
});
