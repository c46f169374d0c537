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

byId("title").textContent = DATA.title;
byId("about").textContent = DATA.about;
fillMethods();
fillMeasures();
fillTable();
listeners.push(fillTable);
fillPlots();
fillQuestions();
fillProvenance();
document.documentElement.dataset.ready = "yes";
