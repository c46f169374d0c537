// Fills the page, from top to bottom.

function fillOrigin() {
  const box = byId("origin");
  for (const group of DATA.origin) {
    const facts = make("dl");
    for (const [name, value] of group.facts) {
      facts.append(make("dt", {}, name), make("dd", { class: "long" }, value));
    }
    box.append(make("details", {}, make("summary", {}, group.title), facts));
  }
}

byId("title").textContent = DATA.title;
byId("about").textContent = DATA.about;
fillRows();
fillMeasures();
fillTable();
listeners.push(fillTable);
fillPlots();
fillDrill();
fillOrigin();
document.documentElement.dataset.ready = "yes";
