// The wall of pictures: one image as every variant restored it, wiped and zoomed together, and
// from where in the reference each place took its texture.

class Wall {
  // `state()` tells what the page has chosen: {condition, measure, rows (visible, with their
  // places), elsewhere (name of other results that have pictures)}.
  constructor(root, controls, line, state) {
    Object.assign(this, { root, controls, line, state, zoom: 1, x: 0, y: 0, panels: [], probe: null });
    controls.wipe.addEventListener("input", () => this.place());
    controls.zoom.addEventListener("input", () => this.zoomTo(+controls.zoom.value));
    for (const box of [controls.outline, controls.heat]) box.addEventListener("change", () => this.overlays());
    for (const list of [controls.image, controls.seed, controls.under]) list.addEventListener("change", () => this.show());
    controls.previous.addEventListener("click", () => this.step(-1));
    controls.next.addEventListener("click", () => this.step(1));
    addEventListener("resize", () => this.draw());
  }

  // New lists to choose from, keeping what is chosen where it is still there.
  refresh() {
    const { condition, rows } = this.state(), keys = Object.keys(condition.pictures);
    document.querySelector("#wall-tools").hidden = !keys.length;
    fill(this.controls.image, keys.map((key) => [key, key]));
    const seeds = [...new Set(rows.flatMap(({ row }) => row.variant === null ? [] : row.seeds))];
    fill(this.controls.seed, seeds.map((seed) => [String(seed), seed === null ? "–" : String(seed)]));
    fill(this.controls.under, [["target", "target"], ["low", "low"],
      ...rows.filter(({ row }) => row.variant !== null).map(({ row, at }) => [String(at), row.label])]);
    this.show();
  }

  open(key) {
    if (![...this.controls.image.options].some((option) => option.value === key)) return;
    this.controls.image.value = key;
    this.show();
    document.querySelector("#pictures").scrollIntoView({ block: "start" });
  }

  step(by) {
    const list = this.controls.image, count = list.options.length;
    if (!count) return;
    list.selectedIndex = (list.selectedIndex + by + count) % count;
    this.show();
  }

  show() {
    const { condition, rows, elsewhere } = this.state(), entry = condition.pictures[this.controls.image.value];
    this.root.replaceChildren();
    this.panels = [];
    this.probe = null;
    this.line.textContent = "";
    clearTimeout(this.waiting);
    this.root.ariaBusy = entry !== undefined && !here(last(entry));
    if (!entry) {
      this.line.textContent = elsewhere ? `No pictures of these results; there are some of: ${elsewhere}`
        : "No pictures: evaluate with save=true (restore evaluate weights=RUN save=true) and name its folder too.";
      return;
    }
    if (this.root.ariaBusy === "true") {
      this.line.textContent = "reading the pictures …";
      this.waiting = setTimeout(() => this.show(), 30);
      return;
    }
    this.lines = svg("svg", { "aria-hidden": "true" });
    entry.references.forEach((name, place) =>
      this.add({ caption: entry.references.length > 1 ? `reference ${place + 1}` : "reference", picture: name, reference: place }));
    if (entry.shown.low !== undefined) this.add({ caption: "low", picture: entry.shown.low });
    const restored = rows.flatMap(({ row, at }) => {
      const seed = Math.max(0, row.seeds.findIndex((s) => String(s) === this.controls.seed.value));
      const one = entry.restored[`${at}/${seed}`];
      return one ? [{ row, at, one, seed }] : [];
    });
    const chosen = this.controls.under.value;
    const under = entry.shown[chosen] ?? restored.find(({ at }) => String(at) === chosen)?.one.picture;
    for (const { row, at, one, seed } of restored) {
      const told = this.told(row, seed, this.controls.image.value);
      this.add({ caption: row.label + told, picture: one.picture, under, choices: one.index === undefined ? null : new Choices(one), row: at });
    }
    if (entry.shown.target !== undefined) this.add({ caption: "target", picture: entry.shown.target });
    this.mask = entry.shown.mask;
    this.root.append(this.lines);
    this.place();
    this.overlays();
  }

  told(row, seed, key) {
    const { condition, measure } = this.state(), at = condition.keys.indexOf(key);
    const value = row.values[measure.name]?.[seed]?.[at];
    return Number.isFinite(value) ? ` · ${value.toFixed(measure.digits)}` : "";
  }

  add(panel) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const view = document.createElement("div"), stack = document.createElement("div");
    caption.textContent = panel.caption;
    view.className = panel.reference === undefined ? "view" : "view fixed";
    if (panel.reference !== undefined) figure.className = "fixed";
    stack.className = "stack";
    view.tabIndex = 0;
    view.setAttribute("role", "img");
    view.setAttribute("aria-label", panel.caption);
    stack.append(picture(panel.caption, panel.picture));
    if (panel.under !== undefined) {
      const over = picture(""), edge = document.createElement("div");
      over.className = "over";
      edge.className = "edge";
      stack.append(over, edge);
    }
    view.append(stack);
    figure.append(caption, view);
    this.root.append(figure);
    Object.assign(panel, { figure, view, stack });
    this.panels.push(panel);
    this.listen(panel);
  }

  listen(panel) {
    const { view } = panel;
    let from = null;
    view.addEventListener("pointerdown", (event) => {
      this.trace(panel, this.inside(panel, event)); // a finger that taps does not move
      from = { x: event.clientX, y: event.clientY, wipe: +this.controls.wipe.value, at: [this.x, this.y] };
      view.setPointerCapture(event.pointerId);
    });
    for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, () => { from = null; });
    view.addEventListener("pointermove", (event) => {
      const box = view.getBoundingClientRect();
      if (from && panel.reference === undefined) {
        const dx = (event.clientX - from.x) / box.width, dy = (event.clientY - from.y) / box.height;
        if (this.zoom > 1) this.moveTo(from.at[0] + dx, from.at[1] + dy);
        else if (panel.under !== undefined) { this.controls.wipe.value = from.wipe + 100 * dx; this.place(); }
      }
      this.trace(panel, this.inside(panel, event));
    });
    view.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch" && document.activeElement !== view) this.trace(panel, null);
    });
    view.addEventListener("wheel", (event) => {
      if (!event.ctrlKey || panel.reference !== undefined) return; // a plain wheel scrolls the page
      event.preventDefault();
      this.zoomTo(this.zoom * Math.exp(-event.deltaY / 300), event, panel);
    }, { passive: false });
    view.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!move || !panel.choices) return;
      event.preventDefault();
      const [h, w] = panel.choices.size, at = this.probe?.panel === panel ? this.probe.at : [h >> 1, w >> 1];
      const next = [clamp(at[0] + move[0], 0, h - 1), clamp(at[1] + move[1], 0, w - 1)];
      this.trace(panel, [(next[0] + 0.5) / h, (next[1] + 0.5) / w]);
    });
  }

  // Where in the picture the pointer is, as shares of its height and width.
  inside(panel, event) {
    const box = panel.view.getBoundingClientRect();
    const u = (event.clientX - box.left) / box.width, v = (event.clientY - box.top) / box.height;
    return [(v - this.y) / this.zoom, (u - this.x) / this.zoom];
  }

  zoomTo(zoom, event, panel) {
    const before = this.zoom;
    let u = 0.5, v = 0.5;
    if (event) {
      const box = panel.view.getBoundingClientRect();
      u = (event.clientX - box.left) / box.width; v = (event.clientY - box.top) / box.height;
    }
    this.zoom = clamp(zoom, 1, 12);
    this.controls.zoom.value = this.zoom;
    this.moveTo(u - (u - this.x) * this.zoom / before, v - (v - this.y) * this.zoom / before);
  }

  moveTo(x, y) {
    this.x = clamp(x, 1 - this.zoom, 0);
    this.y = clamp(y, 1 - this.zoom, 0);
    this.place();
  }

  // Zoom, place and wipe are one for all panels.
  place() {
    for (const [name, value] of [["zoom", this.zoom], ["x", this.x], ["y", this.y], ["wipe", this.controls.wipe.value]])
      this.root.style.setProperty(`--${name}`, value);
    const wipe = +this.controls.wipe.value;
    for (const { stack, under } of this.panels.filter((panel) => panel.under !== undefined)) {
      const over = stack.querySelector(".over"), edge = stack.querySelector(".edge");
      if (wipe > 0 && !over.hasAttribute("src")) over.src = source(under);
      edge.style.left = `${wipe}%`;
      edge.hidden = wipe === 0;
    }
    this.root.style.touchAction = this.zoom > 1 ? "none" : "";
    this.draw();
  }

  overlays() {
    for (const { stack } of this.panels) stack.querySelectorAll("canvas").forEach((c) => c.remove());
    const traced = this.probe?.panel ?? this.panels.find((panel) => panel.choices);
    if (this.controls.heat.checked) {
      for (const panel of this.panels) {
        if (panel.choices) panel.stack.append(scores(panel.choices));
        if (panel.reference !== undefined && traced) panel.stack.append(uses(traced.choices, panel.reference));
      }
    }
    const turn = this.turn = {}; // by the time that a mask is decoded there may be another
    if (!this.controls.outline.checked || this.mask === undefined) return;
    const mask = picture("", this.mask);
    mask.decode().then(() => {
      if (turn !== this.turn) return;
      const drawn = outline(mask);
      for (const panel of this.panels) if (panel.row !== undefined || panel.caption === "target") panel.stack.append(copy(drawn));
    });
  }

  trace(panel, at) {
    const inside = at && at.every((x) => x >= 0 && x < 1);
    if (!panel.choices || !inside) {
      if (this.probe) { this.probe = null; this.line.textContent = ""; this.draw(); }
      return;
    }
    const [h, w] = panel.choices.size;
    const changed = this.probe?.panel !== panel;
    this.probe = { panel, at: [Math.floor(at[0] * h), Math.floor(at[1] * w)] };
    if (changed && this.controls.heat.checked) this.overlays();
    this.draw();
  }

  // The nine places whose patches overlap where the pointer is, and a line to the middle one.
  draw() {
    if (!this.lines) return;
    this.lines.replaceChildren();
    if (!this.probe) return;
    const { panel, at } = this.probe, wall = this.root.getBoundingClientRect();
    const found = sources(panel.choices, ...at);
    for (const source of found) {
      const target = this.panels.find((p) => p.reference === source.reference);
      if (!target) continue;
      const box = target.view.getBoundingClientRect(), [rows, columns] = panel.choices.grids[source.reference];
      const cell = { width: box.width / columns, height: box.height / rows };
      cell.x = box.left - wall.left + source.column * cell.width;
      cell.y = box.top - wall.top + source.row * cell.height;
      this.lines.append(svg("rect", { ...cell, class: source.middle ? "middle" : "" }));
      if (!source.middle) continue;
      const own = panel.view.getBoundingClientRect(), [h, w] = panel.choices.size;
      const u = this.x + (at[1] + 0.5) / w * this.zoom, v = this.y + (at[0] + 0.5) / h * this.zoom;
      this.lines.append(svg("line", { x1: own.left - wall.left + u * own.width, y1: own.top - wall.top + v * own.height,
        x2: cell.x + cell.width / 2, y2: cell.y + cell.height / 2 }));
      const several = panel.choices.grids.length > 1 ? ` ${source.reference + 1}` : "";
      const score = panel.choices.score[at[0] * w + at[1]] / 255;
      this.line.textContent = `${panel.caption}: row ${at[0]}, column ${at[1]} of the low picture ← reference${several}, row ${source.row}, column ${source.column}; score ${score.toFixed(2)}`;
    }
  }
}

function clamp(x, low, high) { return Math.min(high, Math.max(low, x)); }

function fill(list, options) {
  const before = list.value;
  list.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === before)) list.value = before;
}

// An element for a picture, or for one that comes when it is needed.
function picture(alt, name) {
  const made = new Image();
  made.decoding = "async";
  made.draggable = false;
  made.alt = alt;
  if (name !== undefined) made.src = source(name);
  return made;
}

// What is held stands behind the script, in comments, the first of which has the tables to save. Of
// a large page the browser still reads them while the first are looked at.
const comment = (name) => document.getElementById("held")?.childNodes[name + 1];
function here(name) { return Boolean(comment(name)); }
function held(name) { return comment(name).data; }

function source(name) { return `data:image/webp;base64,${held(name).trim()}`; }

function bytes(name) { return Uint8Array.from(atob(held(name)), (c) => c.charCodeAt(0)); }

// The last of everything held that an image needs.
function last({ shown, references, restored }) {
  const each = Object.values(restored).flatMap(({ picture, index, score }) => [picture, index ?? 0, score ?? 0]);
  return Math.max(...Object.values(shown), ...references, ...each);
}

// From where each place took its texture, decoded when first asked for.
class Choices {
  constructor(one) { Object.assign(this, { one, size: one.size, grids: one.grids }); }
  get score() { return this.scores ??= bytes(this.one.score); }
  get index() {
    if (!this.places) {
      const index = bytes(this.one.index), count = this.size[0] * this.size[1];
      this.places = index.length === 2 * count ? new Uint16Array(index.buffer) : new Uint32Array(index.buffer);
    }
    return this.places;
  }
}

// A position counted through all references as {reference, row, column}.
function located(grids, index) {
  for (let reference = 0; reference < grids.length; reference++) {
    const [rows, columns] = grids[reference];
    if (index < rows * columns) return { reference, row: Math.floor(index / columns), column: index % columns };
    index -= rows * columns;
  }
  return null;
}

// What overlaps at a place: for each offset d, the choice of the place at −d, moved by d.
function sources({ size: [h, w], grids, index }, row, column) {
  const found = [];
  for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) {
    const y = row - dy, x = column - dx;
    if (y < 0 || x < 0 || y >= h || x >= w) continue;
    const from = located(grids, index[y * w + x]), [rows, columns] = grids[from.reference];
    from.row += dy; from.column += dx; from.middle = !dy && !dx;
    if (from.row >= 0 && from.column >= 0 && from.row < rows && from.column < columns) found.push(from);
  }
  return found;
}

// A canvas with each value (0 to 1) as a colour over what is below.
function heat(height, width, value) {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  canvas.width = width; canvas.height = height;
  const picture = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const v = value(i);
    picture.data.set([255 * Math.min(1, 2 * v), 255 * Math.max(0, 2 * v - 1), 120 * (1 - v), v > 0 ? 150 : 0], 4 * i);
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

function scores({ size: [h, w], score }) {
  const low = Math.min(...score), high = Math.max(...score);
  return heat(h, w, (i) => 0.02 + 0.98 * (score[i] - low) / Math.max(1, high - low));
}

// How often each place of a reference was chosen.
function uses({ grids, index }, reference) {
  const [rows, columns] = grids[reference], counts = new Float32Array(rows * columns);
  for (const one of index) {
    const at = located(grids, one);
    if (at.reference === reference) counts[at.row * columns + at.column] += 1;
  }
  const most = Math.log1p(Math.max(...counts)) || 1;
  return heat(rows, columns, (i) => Math.log1p(counts[i]) / most);
}

// The pixels of holes that touch one outside.
function outline(mask) {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d", { willReadFrequently: true });
  const w = canvas.width = mask.naturalWidth, h = canvas.height = mask.naturalHeight;
  context.drawImage(mask, 0, 0);
  const from = context.getImageData(0, 0, w, h).data, made = context.createImageData(w, h);
  const hole = (x, y) => x >= 0 && y >= 0 && x < w && y < h && from[4 * (y * w + x)] > 127;
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++)
    if (hole(x, y) && !(hole(x - 1, y) && hole(x + 1, y) && hole(x, y - 1) && hole(x, y + 1)))
      made.data.set([255, 60, 120, 255], 4 * (y * w + x));
  context.putImageData(made, 0, 0);
  return canvas;
}

function copy(drawn) {
  const canvas = document.createElement("canvas");
  canvas.width = drawn.width; canvas.height = drawn.height;
  canvas.getContext("2d").drawImage(drawn, 0, 0);
  canvas.className = "outline";
  return canvas;
}
