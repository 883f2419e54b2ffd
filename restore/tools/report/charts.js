// Charts as SVG: lines with bands, and points with error bars. Everything they show is an element
// with a title, so that it prints, scales, follows the theme and can be read out and tested.

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a63d2", "#7f7f7f"];
const DASHES = ["", "6 3", "2 2"];
const WIDTH = 460, HEIGHT = 300, LEFT = 56, RIGHT = 12, TOP = 10, BOTTOM = 40;

// By the place of a variant; −1 stands for a method without learning.
function colour(place) { return place < 0 ? "var(--text)" : COLOURS[place % COLOURS.length]; }
function dash(place) { return DASHES[Math.floor(Math.max(0, place) / COLOURS.length) % DASHES.length]; }

function svg(name, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Round numbers between two ends, about `count` of them.
function ticks(low, high, count = 5) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-9; x += step) found.push(x);
  return found;
}

function short(x) {
  const size = Math.abs(x);
  if (size >= 1e9) return `${+(x / 1e9).toPrecision(5)}G`;
  if (size >= 1e6) return `${+(x / 1e6).toPrecision(5)}M`;
  if (size >= 1e4) return `${+(x / 1e3).toPrecision(5)}k`;
  return `${+x.toPrecision(5)}`;
}

function brief(text, most = 40) { return text?.length > most ? `${text.slice(0, most - 1)}…` : text ?? ""; }

// Series: {label, place, line: [[x, y, low, high]…]} or {label, place, points: [{x, y, low, high,
// title, open}]}. Options: x and y (titles), log (of x), diagonal, front (lower x and, if `lower`,
// lower y is better). Returns the drawing, or a sentence where there is nothing to draw.
function chart(series, options = {}) {
  const every = series.flatMap((s) => s.line ?? s.points.map((p) => [p.x, p.y, p.low, p.high]))
    .filter((p) => Number.isFinite(p[0]) && Number.isFinite(p[1]) && (!options.log || p[0] > 0));
  if (!every.length) {
    const sentence = document.createElement("p");
    sentence.className = "quiet";
    sentence.textContent = options.empty ?? "nothing to show";
    return sentence;
  }
  const along = (x) => options.log ? Math.log2(x) : x;
  const xs = every.map((p) => along(p[0])), ys = every.flatMap((p) => [p[1], p[2] ?? p[1], p[3] ?? p[1]]);
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (options.diagonal) [x0, x1] = [y0, y1] = [Math.min(x0, y0), Math.max(x1, y1)];
  const widen = (a, b) => { const m = (b - a) * 0.05 || Math.abs(a) * 0.05 || 1; return [a - m, b + m]; };
  [x0, x1] = widen(x0, x1); [y0, y1] = widen(y0, y1);
  const px = (x) => LEFT + (along(x) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group" });
  const marks = options.log ? [...new Set(every.map((p) => p[0]))].sort((a, b) => a - b) : ticks(x0, x1);
  let end = -Infinity; // of the number before
  for (const x of marks) {
    drawing.append(svg("line", { class: "grid", x1: px(x), x2: px(x), y1: TOP, y2: HEIGHT - BOTTOM }));
    const half = 3.2 * short(x).length;
    if (px(x) - half < end + 4) continue;
    end = px(x) + half;
    drawing.append(svg("text", { x: px(x), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, short(x)));
  }
  for (const y of ticks(y0, y1)) {
    drawing.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y) }));
    drawing.append(svg("text", { x: LEFT - 5, y: py(y) + 4, "text-anchor": "end" }, short(y)));
  }
  const middle = (TOP + HEIGHT - BOTTOM) / 2;
  drawing.append(svg("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, brief(options.x)));
  drawing.append(svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, brief(options.y)));
  if (options.diagonal) drawing.append(svg("line", { class: "faded", x1: px(x0), y1: py(y0), x2: px(x1), y2: py(y1) }));
  if (options.front) drawing.append(front(series, options.lower, px, py));
  const taken = [];
  for (const one of series) one.line ? drawLine(drawing, one, px, py) : drawPoints(drawing, one, px, py, options.open, taken);
  return drawing;
}

function drawLine(drawing, one, px, py) {
  const line = one.line.filter((p) => Number.isFinite(p[1]));
  const stroke = colour(one.place);
  const band = [...line.map((p) => `${px(p[0])},${py(p[3])}`), ...line.map((p) => `${px(p[0])},${py(p[2])}`).reverse()];
  drawing.append(svg("polygon", { class: "band", points: band.join(" "), fill: stroke, "fill-opacity": 0.15 }));
  const path = svg("polyline", { points: line.map((p) => `${px(p[0])},${py(p[1])}`).join(" "), fill: "none",
    stroke, "stroke-width": 1.8, "stroke-dasharray": dash(one.place) });
  path.append(svg("title", {}, one.label));
  drawing.append(path);
}

// `taken` are boxes of names; one that would lie over another is left to its point's title.
function drawPoints(drawing, one, px, py, open, taken) {
  const stroke = colour(one.place);
  if (one.joined) drawing.append(svg("polyline", { fill: "none", stroke,
    points: one.points.map((p) => `${px(p.x)},${py(p.y)}`).join(" ") }));
  for (const p of one.points) {
    if (!Number.isFinite(p.x) || !Number.isFinite(p.y)) continue;
    if (Number.isFinite(p.low)) drawing.append(svg("line", { x1: px(p.x), x2: px(p.x), y1: py(p.low), y2: py(p.high), stroke }));
    const dot = svg("circle", { class: "point", cx: px(p.x), cy: py(p.y), r: p.small ? 3.5 : 5, fill: stroke, "fill-opacity": 0.8 });
    dot.append(svg("title", {}, p.title));
    if (p.open && open) {
      dot.setAttribute("tabindex", 0);
      dot.setAttribute("role", "button");
      dot.setAttribute("aria-label", p.title);
      dot.addEventListener("click", () => open(p.open));
      dot.addEventListener("keydown", (event) => { if (event.key === "Enter") open(p.open); });
    }
    drawing.append(dot);
    if (p.name) {
      const name = brief(p.name, 30), width = 5.6 * name.length; // about as wide as its letters
      const right = px(p.x) + 12 + width > WIDTH, x = px(p.x) + (right ? -8 : 8), y = py(p.y) - 6;
      const left = right ? x - width : x;
      if (taken.some((box) => left < box.left + box.width && box.left < left + width && Math.abs(y - box.y) < 11)) continue;
      taken.push({ left, width, y });
      drawing.append(svg("text", { x, y, "text-anchor": right ? "end" : "start" }, name));
    }
  }
}

// The line through the points that no other beats in both directions.
function front(series, lower, px, py) {
  const points = series.flatMap((s) => s.points).filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y));
  points.sort((a, b) => a.x - b.x || (lower ? a.y - b.y : b.y - a.y));
  const kept = [];
  for (const p of points) if (!kept.length || (lower ? p.y < kept.at(-1).y : p.y > kept.at(-1).y)) kept.push(p);
  const path = kept.map((p, i) => i ? `H${px(p.x)} V${py(p.y)}` : `M${px(p.x)},${py(p.y)}`).join(" ");
  return svg("path", { class: "faded front", d: path });
}
