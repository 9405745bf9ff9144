// Sorting, filters, plots and themes of the page. Vega-Lite, which is embedded too, draws.
const all = (query, within = document) => [...within.querySelectorAll(query)];
const kinds = ["method", "aggregator", "attack"];
const textOf = element => element.textContent.trim();

// A column holds numbers if all of its cells are numbers of one unit, such as "24.9 ± 4.0",
// "575 kB" and "1.26 MB", or words without a digit, which sort after the numbers. All other
// columns, such as dates and names, hold text.
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
for (const table of all("table")) {
  const body = table.tBodies[0], headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const cells = () => [...body.rows].map(row => row.cells[column]);
    if (keys(cells().map(textOf)).some(key => typeof key === "number"))
      for (const cell of [header, ...cells()]) cell.classList.add("n");
    const button = document.createElement("button");
    button.type = "button";
    if (!textOf(header)) button.ariaLabel = `column ${column + 1}`;
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const sign = header.ariaSort === "ascending" ? -1 : 1;
      for (const other of headers) other.removeAttribute("aria-sort");
      header.ariaSort = sign > 0 ? "ascending" : "descending";
      body.append(...sorted(cells().map(textOf), [...body.rows], sign));
    });
  });
}

// The method, aggregator and attack of the rows and columns of tables, from what the first
// cell, the header and the columns of these names contain.
for (const table of all("main table")) {
  const names = JSON.parse(table.closest("section").dataset.names);
  const headers = [...table.tHead.rows[0].cells].map(textOf);
  for (const row of table.rows) [...row.cells].forEach((cell, i) => {
    Object.assign(cell.dataset, names[`attack ${headers[i]}`]);
    if (cell.tagName === "TH") return;
    if (headers[i] === "attack") Object.assign(row.dataset, names[`attack ${textOf(cell)}`]);
    else if (i === 0 || kinds.includes(headers[i])) Object.assign(row.dataset, names[textOf(cell)]);
  });
}
const boxes = all("#filters input"), sections = all("section[data-curves]");
const shown = names => kinds.every(kind => {
  const box = boxes.find(box => box.name === kind && box.value === names[kind]);
  return !box || box.checked;
});
const data = section => section.data ??= JSON.parse(all("script", section)[0].textContent);
// The curves of a plot along the chosen axes or, where it has none of these, along its own.
const curves = figure => {
  const section = figure.closest("section"), chosen = all("select", section).map(s => s.value);
  const own = data(section).curves.filter(c => c.attack === figure.dataset.attack
    && c.plot === figure.dataset.plot && shown(c));
  const [x, y] = ["x", "y"].map((axis, i) =>
    [chosen[i], ...own.flatMap(c => Object.keys(c[axis]))].find(n => own.some(c => n in c[axis])));
  return {section, x, y, own: own.filter(c => x in c.x && y in c.y)};
};
function filter() {
  for (const element of all("[data-method], [data-aggregator], [data-attack]"))
    element.hidden = !shown(element.dataset);
  const rows = all("main tbody tr"), plots = all("figure[data-plot]");
  for (const figure of plots) figure.hidden ||= curves(figure).own.length === 0;
  const count = some => `${some.filter(e => !e.hidden).length} of ${some.length}`;
  all("#shown")[0].textContent = `${count(rows)} rows, ${count(plots)} plots`;
  plots.forEach(redraw);
}
for (const box of all("#filters input, .axes select")) box.addEventListener("change", filter);
for (const button of all("#filters button")) {
  button.addEventListener("click", () => {
    for (const box of all("input", button.closest("fieldset")))
      box.checked = button.value === "all";
    filter();
  });
}

// Plots are drawn when they come into view, and the others one by one while nothing else is to
// be done, so that a page that is printed, or photographed as a whole, has all of them.
const label = value => typeof value !== "number" ? value ?? "–"
  : value.toLocaleString("en", Number.isInteger(value) ? {} : {maximumSignificantDigits: 4});
async function draw(figure) {
  if (figure.hidden) return;  // the filters have no curve left for it
  const {section, x, y, own} = curves(figure);
  const {spec, runs, ...axes} = structuredClone(data(section));
  for (const {encoding} of spec.layer) {
    Object.assign(encoding.x, axes.x[x]);
    Object.assign(encoding.y, axes.y[y]);
  }
  spec.data.values = own.flatMap(curve => curve.x[x].map((at, i) => {
    const [mean, ...each] = curve.y[y].map(values => values[i]);
    const point = {line: curve.line, x: at, mean};
    const tooltip = {method: curve.line, attack: curve.attack, [axes.x[x].title]: label(at)};
    if (!curve.attack) delete tooltip.attack;
    if (runs.length > 1) tooltip.mean = label(mean);
    each.forEach((value, n) => { point[`run${n}`] = value; tooltip[runs[n]] = label(value); });
    return {...point, tooltip};
  }));
  figure.view?.finalize();
  figure.view = await vegaEmbed(all(".plot", figure)[0], spec, {
    ast: true, actions: false, defaultStyle: false, renderer: "svg",
    tooltip: {disableDefaultStyle: true},
  });
}
const waiting = new Set();
// One after the other, so that what a plot shows is what was chosen last.
const drawn = figure => {
  if (waiting.delete(figure))
    figure.drawing = Promise.resolve(figure.drawing).then(() => draw(figure));
  return figure.drawing;
};
const seen = window.IntersectionObserver && new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) drawn(entry.target);
}, {rootMargin: "200px"});
const visible = () => [...waiting].filter(figure => !figure.hidden);
let idle = false;
async function drawRest() {
  if (idle) return;
  idle = true;
  for (let next; next = visible()[0];) {
    await new Promise(resolve => setTimeout(resolve));
    await drawn(next);
  }
  idle = false;
}
function redraw(figure) {
  waiting.add(figure);
  seen?.unobserve(figure);
  seen?.observe(figure);
  setTimeout(drawRest, 200);
}
addEventListener("beforeprint", () => visible().forEach(drawn));
for (const button of all("button.save")) {
  button.addEventListener("click", () => {
    const section = button.closest("section"), link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(data(section).curves)]));
    link.download = `${section.id}-curves.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

// The theme follows the system until the button is used.
const root = document.documentElement, button = all("#theme")[0];
const system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => root.style.colorScheme ? root.style.colorScheme === "dark" : system.matches;
const relabel = () => { button.textContent = dark() ? "Light" : "Dark"; };
button.addEventListener("click", () => {
  root.style.colorScheme = dark() ? "light" : "dark";
  relabel();
});
system.addEventListener("change", relabel);
relabel();
filter();
