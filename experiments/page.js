// The page without libraries: sorting, filters, themes. Curves are drawn by Vega-Lite.
const all = (query, within = document) => [...within.querySelectorAll(query)];
const kinds = ["method", "aggregator", "attack"];

// Sorting: a header's button sorts its table, as numbers where there are some.
const key = cell => {
  const number = parseFloat(cell.textContent.trim().replaceAll(",", ""));
  return Number.isNaN(number) ? cell.textContent.trim() : number;
};
const compare = (a, b) =>
  typeof a === typeof b ? (typeof a === "number" ? a - b : a.localeCompare(b))
                        : typeof a === "number" ? -1 : 1;
for (const button of all("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), table = header.closest("table");
    const sign = header.ariaSort === "ascending" ? -1 : 1;
    for (const other of all("th", table)) other.removeAttribute("aria-sort");
    header.ariaSort = sign > 0 ? "ascending" : "descending";
    const column = header.cellIndex, body = table.tBodies[0];
    const rows = [...body.rows].map(row => [key(row.cells[column]), row]);
    body.append(...rows.sort((a, b) => sign * compare(a[0], b[0])).map(([, row]) => row));
  });
}

// Filters: what belongs to a method, aggregator or attack says so in a data attribute.
const boxes = all("#filters input"), sections = all("section[data-curves]");
const shown = names => kinds.every(kind => {
  const box = boxes.find(box => box.name === kind && box.value === names[kind]);
  return !box || box.checked;
});
const data = section => section.data ??= JSON.parse(all("script", section)[0].textContent);
// What a plot shows: its cells, along the chosen axes or, where it has none of these, its own.
const curves = figure => {
  const section = figure.closest("section"), chosen = all("select", section).map(s => s.value);
  const own = data(section).cells.filter(c => c.attack === figure.dataset.attack
    && c.plot === figure.dataset.plot && shown(c));
  const [x, y] = ["x", "y"].map((axis, i) =>
    [chosen[i], ...own.flatMap(c => Object.keys(c[axis]))].find(n => own.some(c => n in c[axis])));
  return {section, x, y, own: own.filter(c => x in c.x && y in c.y)};
};
function filter() {
  const told = all("[data-method], [data-aggregator], [data-attack]");
  for (const element of told) element.hidden = !shown(element.dataset);
  for (const figure of all("figure[data-plot]"))
    figure.hidden = figure.hidden || curves(figure).own.length === 0;
  const rows = all("main tbody tr"), plots = all("figure[data-plot]");
  const count = some => `${some.filter(e => !e.hidden).length} of ${some.length}`;
  all("#shown")[0].textContent = `${count(rows)} rows, ${count(plots)} plots`;
  plots.forEach(redraw);
}
for (const box of boxes) box.addEventListener("change", filter);
for (const button of all("#filters button")) {
  button.addEventListener("click", () => {
    for (const box of all("input", button.closest("fieldset")))
      box.checked = button.value === "all";
    filter();
  });
}

// Curves are drawn when they come into view.
const say = value => typeof value !== "number" ? value ?? "–"
  : value.toLocaleString("en", Number.isInteger(value) ? {} : {maximumSignificantDigits: 4});
async function draw(figure) {
  const {section, x, y, own} = curves(figure);
  const {spec, runs, ...axes} = structuredClone(data(section));
  for (const {encoding} of spec.layer) {
    Object.assign(encoding.x, axes.x[x]);
    Object.assign(encoding.y, axes.y[y]);
  }
  spec.data.values = own.flatMap(cell => cell.x[x].map((at, i) => {
    const [mean, ...each] = cell.y[y].map(values => values[i]), point = {line: cell.line, x: at, mean};
    const told = {method: cell.line, attack: cell.attack, [axes.x[x].title]: say(at)};
    if (!cell.attack) delete told.attack;
    if (runs.length > 1) told.mean = say(mean);
    each.forEach((value, n) => { point[`run${n}`] = value; told[runs[n]] = say(value); });
    return {...point, told};
  }));
  figure.view?.finalize();
  figure.view = await vegaEmbed(all(".plot", figure)[0], spec, {
    ast: true, actions: false, defaultStyle: false, renderer: "svg",
    tooltip: {disableDefaultStyle: true},
  });
}
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
}, {rootMargin: "200px"});
function redraw(figure) {
  seen.unobserve(figure);
  seen.observe(figure);
}
for (const section of sections) {
  for (const select of all("select", section))
    select.addEventListener("change", filter);
  all("button.save", section)[0].addEventListener("click", () => {
    const link = document.createElement("a");
    const {cells} = data(section);
    link.href = URL.createObjectURL(new Blob([JSON.stringify(cells)]));
    link.download = `${section.id}-curves.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

// Light or dark: as the system says, until the button says otherwise.
const root = document.documentElement, button = all("#theme")[0];
const system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => root.style.colorScheme ? root.style.colorScheme === "dark" : system.matches;
const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
button.addEventListener("click", () => {
  root.style.colorScheme = dark() ? "light" : "dark";
  label();
});
system.addEventListener("change", label);
label();
filter();
