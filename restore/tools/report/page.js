// What is chosen, and everything that follows from it.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (name) => document.getElementById(name);
const hidden = new Map(data.overrides.map((key) => [key, new Set()]));
const sorted = { column: null, down: true };

const condition = () => data.conditions[$("condition").value];
const measure = () => condition().measures[$("measure").value];
const base = () => condition().bases[$("against").value];
const against = (at) => base().of[at]; // the place that a row is compared with, or null
const shown = (place) => data.overrides.every((key) => !hidden.get(key).has(data.variants[place].overrides[key]));
const rows = () => condition().rows.map((row, at) => ({ row, at })).filter(({ row }) => row.variant === null || shown(row.variant));
const tone = (row) => row?.variant ?? -1;

const wall = new Wall($("wall"), { image: $("image"), seed: $("seed"), under: $("under"), wipe: $("wipe"), zoom: $("zoom"),
  outline: $("outline"), heat: $("heat"), previous: $("previous"), next: $("next") }, $("link"),
  () => ({ condition: condition(), measure: measure(), rows: rows(),
    elsewhere: data.conditions.find((one) => Object.keys(one.pictures).length)?.label }));

function number(value, digits, signed = false) {
  if (!Number.isFinite(value)) return "–";
  return (signed && value >= 0 ? "+" : "") + value.toFixed(digits).replace("-", "−");
}
function spread([mean, sd] = [null, null], digits) {
  return number(mean, digits) + (Number.isFinite(sd) && sd > 0 ? ` ± ${number(sd, digits)}` : "");
}
// A row's value of one image, the mean over its seeds; NaN where it has none.
function single(row, at) {
  const values = row?.values[measure().name]?.map((seed) => seed[at]).filter(Number.isFinite) ?? [];
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
function chance(p) { return !Number.isFinite(p) ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3); }
function cell(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  return Object.assign(made, attributes);
}

// The table of variants -----------------------------------------------------------------------

function columns() {
  const own = measure(), pair = (row, at) => condition().pairs[own.name][at][against(at)];
  const share = (one, other) => Number.isFinite(one) && other ? 100 * one / other : NaN;
  const other = (at) => condition().rows[against(at)];
  const costs = data.costs.filter(({ name }) => data.variants.some((variant) => variant.costs[name]));
  const cost = (row, name) => row.variant === null ? undefined : data.variants[row.variant].costs[name];
  return [
    { title: data.overrides.length === 1 ? data.overrides[0] : "variant", value: (row) => row.label, text: (row) => row.label },
    { title: "seeds", value: (row) => row.variant === null ? 0 : row.seeds.length,
      text: (row) => row.variant === null ? "–" : String(row.seeds.length) },
    ...condition().measures.map((m) => ({ title: m.title, measure: m, value: (row) => row.means[m.name][0],
      text: (row) => spread(row.means[m.name], m.digits) })),
    { title: `Δ ${own.title.slice(0, -2)}`, value: (row, at) => pair(row, at)?.[0], text: (row, at) => number(pair(row, at)?.[0], own.digits, true) },
    percent(`Δ ${own.title.slice(0, -2)} %`, (row, at) => share(row.means[own.name][0], other(at)?.means[own.name][0]) - 100),
    { title: `${100 * data.level} % interval`, value: (row, at) => pair(row, at)?.[1],
      text: (row, at) => { const p = pair(row, at); return p && Number.isFinite(p[1]) ? `[${number(p[1], own.digits, true)}, ${number(p[2], own.digits, true)}]` : "–"; } },
    ...[["p t images", 3], ["p Wilcoxon images", 4], ["p t seeds", 5]].map(([title, place]) =>
      ({ title, value: (row, at) => pair(row, at)?.[place], text: (row, at) => chance(pair(row, at)?.[place]) })),
    ...costs.map(({ name, title, digits }) => ({ title, value: (row) => cost(row, name)?.[0], text: (row) => spread(cost(row, name), digits) })),
    ...costs.slice(0, 1).map(({ name, title }) => percent(`${title}, % of it`, (row, at) => other(at) && share(cost(row, name)?.[0], cost(other(at), name)?.[0]))),
  ];
}

// Of what a row is compared with; nothing for that one itself.
function percent(title, value) {
  const told = (row, at) => against(at) === at || against(at) === null ? NaN : value(row, at);
  return { title, value: told, text: (row, at) => number(told(row, at), 2, title.startsWith("Δ")) };
}

function drawTable() {
  const every = columns(), head = document.createElement("tr"), table = $("variants");
  every.forEach((column, place) => {
    const th = document.createElement("th"), button = cell("button", column.title);
    th.scope = "col";
    if (sorted.column === column.title) th.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    button.addEventListener("click", () => {
      sorted.down = sorted.column === column.title ? !sorted.down : place > 0;
      sorted.column = column.title;
      drawTable();
      table.querySelectorAll("thead button")[place].focus();
    });
    th.append(button);
    head.append(th);
  });
  const order = rows(), by = every.find((column) => column.title === sorted.column);
  if (by) order.sort((one, two) => compared(by.value(one.row, one.at), by.value(two.row, two.at)));
  const bests = new Map(every.filter((c) => c.measure).map((c) => {
    const values = order.map(({ row }) => c.value(row)).filter(Number.isFinite);
    return [c, c.measure.lower ? Math.min(...values) : Math.max(...values)];
  }));
  const body = order.map(({ row, at }) => {
    const line = document.createElement("tr");
    if (at === against(at)) line.className = "against";
    every.forEach((column, place) => {
      const text = column.text(row, at);
      if (place) return line.append(cell("td", text, { className: bests.has(column) && column.value(row) === bests.get(column) ? "best" : "" }));
      const name = cell("th", text, { scope: "row" }), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colour(tone(row));
      if (row.variant !== null) name.title = data.variants[row.variant].folders.join("\n");
      name.prepend(swatch);
      line.append(name);
    });
    return line;
  });
  const top = document.createElement("thead"), rest = document.createElement("tbody");
  top.append(head);
  rest.append(...body);
  table.replaceChildren(top, rest);
  const facts = condition().facts.join("; ");
  const count = condition().keys.length ? `N = ${condition().keys.length} images` : "";
  $("facts").textContent = [facts, count, ...condition().fewer].filter(Boolean).join("; ");
  $("legend").textContent = `Mean ± standard deviation over seeds. Δ, interval and p: variant minus ${base().label}, over the same seeds and images. ` +
    `Interval: percentile bootstrap of images and seeds together (${data.resamples} resamples). p (two-sided, each of its own comparison, not corrected for their number): ` +
    "paired t and Wilcoxon over images, each the mean over seeds; paired t over seeds, each the mean over images.";
}

function compared(one, two) {
  const blank = (x) => x === null || x === undefined || Number.isNaN(x);
  if (blank(one) || blank(two)) return blank(one) - blank(two);
  const order = typeof one === "string" ? one.localeCompare(two, undefined, { numeric: true }) : one - two;
  return sorted.down ? -order : order;
}

// Charts ---------------------------------------------------------------------------------------

function put(name, drawing) {
  const figure = $(name);
  figure.querySelectorAll("svg, p").forEach((old) => old.remove());
  figure.append(drawing);
}

// A short line as a chart draws a variant's.
function line(place) {
  const made = svg("svg", { width: 24, height: 8 });
  made.append(svg("line", { x1: 0, x2: 24, y1: 4, y2: 4, stroke: colour(place), "stroke-width": 2, "stroke-dasharray": dash(place) }));
  return made;
}

function drawCharts() {
  const own = measure(), visible = rows(), name = $("curve-name").value;
  $("colours").replaceChildren(...data.variants.flatMap((variant, place) => {
    const name = cell("span", ` ${variant.label} `);
    name.prepend(line(place));
    return shown(place) ? [name] : [];
  }));
  const lines = data.variants.map((variant, place) => ({ label: variant.label, place, line: data.curves[name]?.[place] ?? [] }));
  put("curve", chart(lines.filter((one) => one.line.length && shown(one.place)), { x: "step", y: name, empty: "no run holds a curve" }));

  const points = visible.filter(({ row }) => row.variant !== null).map(({ row }) => {
    const [y, sd] = row.means[own.name], variant = data.variants[row.variant];
    return { row, variant, point: { y, low: sd ? y - sd : null, high: sd ? y + sd : null, name: row.label,
      title: `${row.label}: ${spread(row.means[own.name], own.digits)}` } };
  });
  const cost = data.costs[$("cost-name").value];
  put("pareto", chart(points.map(({ row, variant, point }) => ({ label: row.label, place: row.variant,
    points: [{ ...point, x: variant.costs[cost?.name]?.[0], title: `${point.title}; ${cost?.title} ${spread(variant.costs[cost?.name], cost?.digits)}` }] })),
    { x: cost?.title, y: own.title, front: true, lower: own.lower, empty: "no run tells this cost" }));

  const sized = points.filter(({ variant }) => variant.channels !== null);
  const sizes = new Set(sized.map(({ variant }) => variant.channels));
  $("embedding").hidden = sizes.size < 2;
  if (sizes.size > 1) put("embedding", chart(sized.map(({ row, variant, point }) =>
    ({ label: row.label, place: row.variant, points: [{ ...point, x: variant.channels }] })), { x: "channels", y: own.title, log: true }));

  const one = condition().rows[$("scatter-x").value], two = condition().rows[$("scatter-y").value];
  const images = condition().keys.map((key, at) => ({ key, x: single(one, at), y: single(two, at) }));
  put("scatter", chart([{ label: "images", place: tone(two), points: images.map(({ key, x, y }) =>
    ({ x, y, small: true, open: key, title: `${key}: ${number(x, own.digits)}, ${number(y, own.digits)}` })) }],
    { x: one?.label, y: two?.label, diagonal: true, open: openPictures, empty: "no values of single images here" }));
}

// Worst cases ----------------------------------------------------------------------------------

function drawWorst() {
  const own = measure(), [kind, at] = $("worst-kind").value.split("/"), row = condition().rows[at], other = condition().rows[against(at) ?? at];
  $("worst-section").hidden = !condition().keys.length || !row;
  if ($("worst-section").hidden) return;
  const sign = own.lower ? -1 : 1;
  const every = condition().keys.map((key, i) => ({ key, x: single(row, i), y: single(other, i) }))
    .filter(({ x, y }) => Number.isFinite(x) && (kind === "least" || Number.isFinite(y)));
  every.sort((a, b) => sign * (kind === "least" ? a.x - b.x : (a.x - a.y) - (b.x - b.y)));
  const head = document.createElement("tr");
  const alone = row === other;
  head.append(...["image", row.label, ...alone ? [] : [other.label, "difference"]].map((text) => cell("th", text)));
  const lines = every.slice(0, 10).map(({ key, x, y }) => {
    const line = document.createElement("tr"), name = document.createElement("th"), button = cell("button", key);
    button.addEventListener("click", () => openPictures(key));
    name.append(button);
    line.append(name, cell("td", number(x, own.digits)));
    if (!alone) line.append(cell("td", number(y, own.digits)), cell("td", number(x - y, own.digits, true)));
    return line;
  });
  const top = document.createElement("thead"), body = document.createElement("tbody");
  top.append(head);
  body.append(...lines);
  $("worst").replaceChildren(top, body);
}

function openPictures(key) { reveal($("pictures")); wall.open(key); }

// What can be chosen ---------------------------------------------------------------------------

function fillCondition() {
  const now = condition();
  fill($("measure"), now.measures.map((m, i) => [String(i), m.title]));
  fill($("against"), now.bases.map((one, i) => [String(i), one.label]));
  $("against").value = String(now.against);
  fillRows();
}

function fillRows() {
  const visible = rows().map(({ row, at }) => [String(at), row.label]);
  const runs = rows().filter(({ row }) => row.variant !== null);
  const first = !$("scatter-x").options.length;
  fill($("scatter-x"), visible);
  fill($("scatter-y"), visible);
  if (first) {
    const start = base().of.find((at) => at !== null);
    $("scatter-x").value = String(start);
    $("scatter-y").value = String((runs.find(({ at }) => at !== start) ?? runs[0])?.at);
  }
  fill($("worst-kind"), runs.flatMap(({ row, at }) => [[`least/${at}`, `worst of ${row.label}`], [`behind/${at}`, `${row.label} furthest behind the other`]]));
}

function draw() { drawTable(); drawCharts(); drawWorst(); }
function drawAll() { draw(); wall.refresh(); }

function addFilters() {
  for (const key of data.overrides) {
    const group = document.createElement("fieldset");
    group.append(cell("legend", key));
    for (const value of new Set(data.variants.map((variant) => variant.overrides[key]).filter((v) => v !== undefined))) {
      const label = document.createElement("label"), box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
      box.dataset.override = `${key}=${value}`;
      box.addEventListener("change", () => { hidden.get(key)[box.checked ? "delete" : "add"](value); fillRows(); drawAll(); });
      label.append(box, ` ${value}`);
      group.append(label);
    }
    $("filters").append(group);
  }
}

function save(kind) {
  const tables = JSON.parse($("held").firstChild.data)[$("condition").value][$("against").value];
  const text = Object.values(tables).map((table) => table[kind]).join("\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = `tables.${kind}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = dark === "dark" ? "light" : "dark";
}

const KEYS = {
  j: () => wall.step(1), k: () => wall.step(-1), t: toggleTheme,
  "[": () => wipe(-5), "]": () => wipe(5), "+": () => wall.zoomTo(wall.zoom * 1.5), "-": () => wall.zoomTo(wall.zoom / 1.5), 0: () => wall.zoomTo(1),
  h: () => { $("heat").checked = !$("heat").checked; wall.overlays(); },
};
function wipe(by) { $("wipe").value = +$("wipe").value + by; wall.place(); }

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=text], select")) return;
  if (KEYS[event.key]) { event.preventDefault(); KEYS[event.key](); }
});
$("theme").addEventListener("click", toggleTheme);
$("condition").addEventListener("change", () => { fillCondition(); drawAll(); });
$("measure").addEventListener("change", () => { draw(); wall.show(); });
$("against").addEventListener("change", draw);
$("curve-name").addEventListener("change", drawCharts);
$("cost-name").addEventListener("change", drawCharts);
$("scatter-x").addEventListener("change", drawCharts);
$("scatter-y").addEventListener("change", drawCharts);
$("worst-kind").addEventListener("change", drawWorst);
document.querySelectorAll("[data-save]").forEach((button) => button.addEventListener("click", () => save(button.dataset.save)));

fill($("condition"), data.conditions.map((one, i) => [String(i), one.label]));
fill($("curve-name"), Object.keys(data.curves).map((name) => [name, name]));
const told = data.costs.map((cost, i) => [String(i), cost.title]).filter(([i]) => data.variants.some((v) => v.costs[data.costs[i].name]));
fill($("cost-name"), told.length ? told : data.costs.map((cost, i) => [String(i), cost.title]));
$("notes").append(...data.notes.map((note) => cell("li", note)));
addFilters();
fillCondition();
drawTable();

// What is below the table is drawn when it comes near the view; all of it once the file is read.
const below = new Map([[$("charts"), drawCharts], [$("worst-section"), drawWorst], [$("pictures"), () => wall.refresh()]]);
const near = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach((one) => reveal(one.target)), { rootMargin: "50%" });
function reveal(section) {
  const work = below.get(section);
  if (!below.delete(section)) return;
  near.unobserve(section);
  section.classList.remove("later");
  work();
}
function revealAll() { [...below.keys()].forEach(reveal); }
below.forEach((_, section) => near.observe(section));
addEventListener("load", () => setTimeout(revealAll));
addEventListener("beforeprint", revealAll);
