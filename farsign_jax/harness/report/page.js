// The page without libraries: sorting, filters, themes. Curves are drawn by Vega-Lite.
const all = (query, within = document) => [...within.querySelectorAll(query)];
const kinds = ["method", "aggregator", "attack"];

// Sorting: a header's button sorts its table. A column sorts as numbers where all of its cells
// are numbers of one unit, such as "24.9 ± 4.0", "575 kB" and "1.26 MB", or words without a
// digit, which come last; all others, such as dates and names, sort as text.
const NUMBER = new RegExp(String.raw`^([-+]?(?:inf|\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?) ?`
  + String.raw`(?:([kMGT])(?=B?(?![^\s,;])))?([a-zA-Zµ%×]*)(?![^\s,;])`);
const scales = {k: 1e3, M: 1e6, G: 1e9, T: 1e12};
const keys = texts => {
  const found = texts.map(text => NUMBER.exec(text));
  const units = new Set(found.filter(Boolean).map(parts => parts[3]));
  const numbers = units.size === 1 && texts.every((text, i) => found[i] || !/\d/.test(text));
  return texts.map((text, i) => {
    if (!numbers || !found[i]) return text;
    const [, number, scale] = found[i];
    return Number(number.replaceAll(",", "").replace("inf", "Infinity")) * (scales[scale] ?? 1);
  });
};
const compare = (a, b) =>
  typeof a === typeof b ? (typeof a === "number" ? a - b || 0 : a.localeCompare(b))
                        : typeof a === "number" ? -1 : 1;
const sorted = (texts, items, sign = 1) => {
  const rows = keys(texts.map(text => text.trim())).map((key, i) => [key, items[i]]);
  return rows.sort((a, b) => sign * compare(a[0], b[0])).map(([, item]) => item);
};
for (const button of all("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), table = header.closest("table");
    const sign = header.ariaSort === "ascending" ? -1 : 1;
    for (const other of all("th", table)) other.removeAttribute("aria-sort");
    header.ariaSort = sign > 0 ? "ascending" : "descending";
    const column = header.cellIndex, body = table.tBodies[0];
    const rows = [...body.rows], texts = rows.map(row => row.cells[column].textContent);
    body.append(...sorted(texts, rows, sign));
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
