// The Explorer: linked maps of the same images in several embeddings. widget.js stands in front of this file.

const COLOURS = ["#0072b2", "#d98200", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a7a00", "#8358b8", "#a0522d", "#7a7a7a"];
const GRADES = ["#a63603", "#e6762b", "#b8b8b8", "#6baed6", "#2171b5"];                       // from none to all
const SHAPES = [
  (c, r) => c.arc(0, 0, r, 0, 7), (c, r) => c.rect(-r * 0.9, -r * 0.9, r * 1.8, r * 1.8),
  (c, r) => polygon(c, 3, r * 1.25, -0.25), (c, r) => polygon(c, 4, r * 1.25, 0), (c, r) => polygon(c, 3, r * 1.25, 0.25),
  (c, r) => star(c, 4, r * 1.4, r * 0.5), (c, r) => star(c, 3, r * 1.4, r * 0.45), (c, r) => star(c, 5, r * 1.4, r * 0.6),
  (c, r) => polygon(c, 6, r * 1.15, 0), (c, r) => c.rect(-r * 1.3, -r * 0.45, r * 2.6, r * 0.9),
];
const MODES = { label: "label", prediction: "prediction", right: "right or wrong", purity: "neighbour purity", trust: "map trust" };
const TILES = 120, calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function star(c, n, outer, inner) {
  for (let i = 0; i < 2 * n; i++) {
    const angle = (i / n - 0.5) * Math.PI, r = i % 2 ? inner : outer;
    c.lineTo(r * Math.cos(angle), r * Math.sin(angle));
  }
  c.closePath();
}
function polygon(c, n, r, turn) {
  for (let i = 0; i < n; i++) c.lineTo(r * Math.cos(2 * Math.PI * (i / n + turn)), r * Math.sin(2 * Math.PI * (i / n + turn)));
  c.closePath();
}

// One mark as a small picture, drawn once and copied to every point.
function glyph(style, r, zoom) {
  const size = Math.ceil(4 * r), canvas = h("canvas", { width: size * zoom, height: size * zoom });
  const c = canvas.getContext("2d");
  c.scale(zoom, zoom);
  c.translate(size / 2, size / 2);
  c.beginPath();
  SHAPES[style.shape](c, r);
  c.fillStyle = style.colour;
  c.fill();
  return Object.assign(canvas, { half: size / 2, className: "glyph" });
}

// What the kernel packed, with the arrays of each space beside its name.
function readData(model) {
  const { meta, ...arrays } = unpack(model.get("blob"));
  const spaces = meta.spaces.map((space, j) => {
    const own = ["map", "index", "cosine", "said", "purity", "trust", "views", "viewcos", "frames", "fsaid", "fpurity", "ftrust"];
    return { ...space, ...Object.fromEntries(own.map((name) => [name, arrays[`${name}${j}`]])) };
  });
  return { ...meta, spaces, y: arrays.y, held: arrays.held, sheet: arrays.sheet };
}

// What a map shows at the chosen epoch, or in the chosen layout: positions of the first `count` images, and what is said of them.
function sceneOf(app, space) {
  const { N, M } = app.data, epoch = app.get("epoch");
  if (epoch >= 0 && space.frames) {
    const at = Math.max(0, space.epochs.findLastIndex((own) => own <= epoch));               // each network has epochs of its own
    const part = (array, width = 1) => array.subarray(at * M * width, (at + 1) * M * width);
    const { frames, fsaid, fpurity, ftrust } = space;
    return { count: M, xy: part(frames, 2), said: fsaid && part(fsaid), purity: fpurity && part(fpurity), trust: part(ftrust),
      quality: space.ages[at], key: `epoch ${space.epochs[at]}` };
  }
  const layout = app.get("variant"), { n, d } = app.data.layouts[layout];
  return { count: N, xy: space.map.subarray(layout * N * 2, (layout + 1) * N * 2), said: space.said, purity: space.purity,
    trust: space.trust.subarray(layout * N, (layout + 1) * N), quality: space.qualities[layout], key: `${n}/${d}` };
}

// The style of each point in the chosen colours, and the legend: [{styles}, number of the style by image].
function paint(app, scene) {
  const { y, k, classes, labelled } = app.data, mode = app.get("colour"), counted = { purity: scene.purity, trust: scene.trust }[mode];
  const named = (i) => ({ name: classes[i], colour: COLOURS[i % 10], shape: (i + Math.floor(i / 10)) % 10 });
  if (counted) {
    const grade = (share) => Math.min(4, Math.floor(share * 5));
    const styles = GRADES.map((colour, i) => ({ name: `${20 * i}–${20 * i + 20} %`, colour, shape: 0 }));
    return { styles, of: Uint16Array.from({ length: scene.count }, (_, i) => grade(counted[i] / k)) };
  }
  if (mode === "right" && labelled) {
    const styles = [{ name: "right", colour: "#8aa5b8", shape: 0 }, { name: "wrong", colour: "#d55e00", shape: 5 }];
    return { styles, of: Uint16Array.from({ length: scene.count }, (_, i) => Number(y[i] >= 0 && scene.said[i] !== y[i])) };
  }
  const source = mode === "prediction" && scene.said ? scene.said : y;
  const unlabelled = { name: "no label", colour: "#7a7a7a", shape: 0 };
  return { styles: [...classes.map((_, i) => named(i)), unlabelled],
    of: Uint16Array.from({ length: scene.count }, (_, i) => (source[i] < 0 ? classes.length : source[i])) };
}

function inside(x, y, path) {
  let within = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [xi, yi] = path[i], [xj, yj] = path[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) within = !within;
  }
  return within;
}

// One map: a canvas for the points, one above it for what changes with the mouse, and the numbers that say how far to trust it.
class MapPanel {
  constructor(app, space, number) {
    Object.assign(this, { app, space, number, zoom: 1, centre: [0.5, 0.5], path: null });
    this.points = h("canvas"), this.marks = h("canvas", { className: "marks", tabIndex: 0, role: "img" });
    this.numbers = h("div", { className: "soft numbers" });
    this.box = h("div", { className: "box" }, this.points, this.marks);
    const button = (text, label, factor) => h("button", { textContent: text, "aria-label": `${label} ${space.name}`, title: label,
      onclick: () => this.zoomBy(factor) });
    const buttons = h("span", {}, button("+", "zoom in on", 1.5), button("−", "zoom out of", 1 / 1.5));
    this.element = h("section", { className: "map", "aria-label": `map of ${space.name}` },
      h("div", { className: "head" }, h("strong", { textContent: space.name }), buttons), this.box, this.numbers);
    this.listen();
  }

  listen() {
    const on = (name, f) => this.marks.addEventListener(name, f);
    on("pointerdown", (e) => this.press(e));
    on("pointermove", (e) => this.move(e));
    on("pointerup", (e) => this.release(e));
    on("pointercancel", () => { this.path = this.pan = null; this.drawMarks(); });
    on("pointerleave", () => this.app.hover(-1));
    on("keydown", (e) => this.app.key(e, this.number));
    on("wheel", (e) => { if (e.ctrlKey || e.metaKey) { e.preventDefault(); this.zoomBy(e.deltaY < 0 ? 1.2 : 1 / 1.2, this.at(e)); } });
  }

  at(e) { const box = this.marks.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; }
  unit([x, y]) {
    const s = this.size * this.zoom;
    return [(x - this.width / 2) / s + this.centre[0], (y - this.height / 2) / s + this.centre[1]];
  }
  screen(u, v) {
    const s = this.size * this.zoom;
    return [(u - this.centre[0]) * s + this.width / 2, (v - this.centre[1]) * s + this.height / 2];
  }
  spot(i) { return this.screen(this.shown[2 * i], this.shown[2 * i + 1]); }

  press(e) {
    const touch = e.pointerType === "touch";
    this.start = this.at(e);
    if (e.button > 0) return;
    if (touch && !this.app.lassoing) return;
    this.marks.setPointerCapture(e.pointerId);
    if (e.shiftKey) this.pan = { from: this.start, centre: this.centre };
    else this.path = [this.start];
  }

  move(e) {
    const spot = this.at(e);
    if (this.pan) {
      const s = this.size * this.zoom, { from, centre } = this.pan;
      this.centre = [centre[0] - (spot[0] - from[0]) / s, centre[1] - (spot[1] - from[1]) / s];
      return this.draw();
    }
    if (!this.path) return this.app.hover(this.nearest(spot), this, e);
    const last = this.path.at(-1);
    if (Math.hypot(spot[0] - last[0], spot[1] - last[1]) > 3) { this.path.push(spot); this.app.hover(-1); this.drawMarks(); }
  }

  release(e) {
    const path = this.path, spot = this.at(e), still = this.start && Math.hypot(spot[0] - this.start[0], spot[1] - this.start[1]) < 5;
    this.path = this.pan = null;
    if (path?.length > 3) this.app.select(this.caught(path));
    else if (still && !e.shiftKey) { const i = this.nearest(spot); if (i >= 0) this.app.pick(i, this.number); }
    this.drawMarks();
  }

  caught(path) {
    const found = [];
    for (let i = 0; i < this.scene.count; i++) { const [x, y] = this.spot(i); if (inside(x, y, path)) found.push(i); }
    return found;
  }

  nearest([x, y]) {
    let best = 14 ** 2, found = -1;
    for (let i = 0; i < this.scene.count; i++) {
      const [px, py] = this.spot(i), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < best) { best = distance; found = i; }
    }
    return found;
  }

  zoomBy(factor, about = [this.width / 2, this.height / 2]) {
    const [u, v] = this.unit(about), next = Math.min(40, Math.max(1, this.zoom * factor)), step = this.zoom / next;
    this.centre = next === 1 ? [0.5, 0.5] : [u + (this.centre[0] - u) * step, v + (this.centre[1] - v) * step];
    this.zoom = next;
    this.draw();
  }

  resize() {
    this.width = Math.max(160, this.box.clientWidth);
    this.height = Math.min(this.width, 420);
    this.size = Math.min(this.width, this.height) - 20;
    this.scale = devicePixelRatio || 1;
    for (const canvas of [this.points, this.marks]) {
      Object.assign(canvas, { width: this.width * this.scale, height: this.height * this.scale });
      Object.assign(canvas.style, { width: `${this.width}px`, height: `${this.height}px` });
    }
    this.box.style.height = `${this.height}px`;
  }

  // Go to the scene that the controls ask for; the points walk there unless the reader wants no motion.
  show() {
    const scene = sceneOf(this.app, this.space), to = Float32Array.from(scene.xy, (v) => v / 65535), from = this.shown;
    this.scene = scene;
    this.look = paint(this.app, scene);
    this.describe();
    cancelAnimationFrame(this.frame);
    const still = !from || from.length !== to.length || calm() || this.key === scene.key;
    this.key = scene.key;
    if (still) { this.shown = to; return this.draw(); }
    const begin = performance.now();
    const step = (now) => {
      const part = Math.min(1, (now - begin) / 500), ease = part * part * (3 - 2 * part);
      this.shown = part === 1 ? to : to.map((v, i) => from[i] + (v - from[i]) * ease);
      this.draw();
      if (part < 1) this.frame = requestAnimationFrame(step);
    };
    this.frame = requestAnimationFrame(step);
  }

  describe() {
    const { trustworthiness, silhouette, knn } = this.scene.quality;
    const parts = [`trustworthiness ${trustworthiness.toFixed(3)}`];
    if (knn !== undefined) parts.unshift(`kNN ${percent(knn)}`);
    if (silhouette !== undefined) parts.push(`silhouette ${silhouette.toFixed(2)}`);
    this.numbers.textContent = parts.join(" · ");
    const text = `${this.scene.count} images in ${this.space.name}, ${parts.join(", ")}. Click or use the arrow keys`;
    this.marks.setAttribute("aria-label", text);
  }

  draw() {
    const c = this.points.getContext("2d"), chosen = this.app.chosen, many = this.scene.count > 3000;
    c.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    const marks = this.look.styles.map((style) => glyph(style, (many ? 2 : 3) * Math.min(2, Math.sqrt(this.zoom)), this.scale));
    const put = (i) => {
      const mark = marks[this.look.of[i]], [x, y] = this.spot(i), size = 2 * mark.half;
      c.drawImage(mark, x - mark.half, y - mark.half, size, size);
    };
    c.globalAlpha = chosen.size ? 0.16 : 0.85;
    for (let i = 0; i < this.scene.count; i++) if (!chosen.size || !chosen.has(i)) put(i);
    c.globalAlpha = 1;
    for (const i of chosen) if (i < this.scene.count) put(i);
    this.drawMarks();
  }

  drawMarks() {
    const c = this.marks.getContext("2d"), css = getComputedStyle(this.app.root), ink = css.getPropertyValue("--ink").trim();
    const colour = css.getPropertyValue("--mark").trim();
    c.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    const ring = (i, r, width, stroke = ink) => {
      if (i < 0 || i >= this.scene.count) return;
      const [x, y] = this.spot(i);
      Object.assign(c, { lineWidth: width, strokeStyle: stroke });
      c.beginPath();
      c.arc(x, y, r, 0, 7);
      c.stroke();
    };
    this.drawNeighbours(c, colour, ring);
    this.drawViews(c, ink);
    for (const guest of this.app.guests) this.drawGuest(c, guest, ink);
    ring(this.app.get("pick"), 8, 2.5);
    ring(this.app.pointed, 7, 1.5);
    if (this.path) {
      Object.assign(c, { lineWidth: 1.5, strokeStyle: ink, fillStyle: `${colour}22` });
      c.beginPath();
      this.path.forEach(([x, y]) => c.lineTo(x, y));
      c.closePath();
      c.fill();
      c.stroke();
    }
  }

  drawNeighbours(c, colour, ring) {
    const pick = this.app.get("pick");
    if (pick < 0 || pick >= this.scene.count || this.app.probing) return;
    const [x, y] = this.spot(pick);
    for (const i of this.app.near(this.space, pick)) {
      if (i >= this.scene.count) continue;
      Object.assign(c, { lineWidth: 0.8, strokeStyle: colour });
      c.beginPath();
      c.moveTo(x, y);
      c.lineTo(...this.spot(i));
      c.stroke();
      ring(i, 4.5, 1.5, colour);
    }
  }

  drawViews(c, ink) {
    const { space, app } = this, pick = app.get("pick");
    if (!app.probing || pick < 0 || !space.views || this.scene.key !== app.home) return;
    const V = app.data.views;
    for (let v = 0; v < V; v++) {
      const at = pick * V + v, [x, y] = this.screen(space.views[2 * at] / 255, space.views[2 * at + 1] / 255);
      Object.assign(c, { fillStyle: GRADES[Math.min(4, Math.floor((space.viewcos[at] / 255) * 5))], strokeStyle: ink, lineWidth: 1 });
      this.stamp(c, x, y, () => polygon(c, 4, 6, 0));
    }
  }

  stamp(c, x, y, outline) {
    c.save();
    c.translate(x, y);
    c.beginPath();
    outline();
    c.fill();
    c.stroke();
    c.restore();
  }

  drawGuest(c, guest, ink) {
    const layout = this.app.get("variant"), place = guest.places[this.number];
    if (!place || this.scene.count !== this.app.data.N) return;
    const [x, y] = this.screen(place[layout][0], place[layout][1]);
    Object.assign(c, { fillStyle: "#ffd400", strokeStyle: ink, lineWidth: 1.5 });
    this.stamp(c, x, y, () => star(c, 5, 10, 4.5));
  }
}

// All state and what changes it. The kernel, the controls, the address and the keyboard meet here.
class Explorer {
  constructor(model, sheet, data) {
    Object.assign(this, { model, sheet, data, live: model.get("live"), pointed: -1, step: -1 });
    Object.assign(this, { guests: [], sheets: {}, lassoing: false, probing: false });
    this.first = Object.fromEntries(["colour", "variant", "epoch", "pick", "selected"].map((key) => [key, model.get(key)]));
    const { n, d } = data.layouts[data.home];
    this.home = `${n}/${d}`;
    this.chosen = new Set(model.get("selected"));
    this.root = h("div", { className: "simclr explorer" });
    this.panels = data.spaces.map((space, number) => new MapPanel(this, space, number));
    this.build();
  }

  get(key) { return this.model.get(key); }
  set(key, value) { this.model.set(key, value); this.model.save_changes(); }

  build() {
    this.tip = h("div", { className: "tip", hidden: true });
    this.said = h("div", { className: "unseen", "aria-live": "polite" });
    this.legend = h("div", { className: "legend bar", "aria-label": "legend" });
    this.facts = h("div", { className: "facts" });
    this.caught = h("div", { className: "caught" });
    this.status = h("div", { className: "soft status" });
    const maps = h("div", { className: "maps", "data-count": this.panels.length }, ...this.panels.map((panel) => panel.element));
    const below = h("div", { className: "below" }, this.facts, this.caught);
    this.root.append(this.controls(), maps, this.legend, this.ageBar() ?? "", this.status, below, this.tip, this.said);
    if (this.live) this.welcome();
  }

  controls() {
    const { layouts, labelled, views } = this.data;
    const choice = (label, options, key, read = (v) => v) => {
      const select = h("select", { onchange: () => this.set(key, read(select.value)) },
        ...options.map(([value, text]) => h("option", { value, textContent: text })));
      this[`${key}Choice`] = select;
      return h("label", {}, label, select);
    };
    const modes = Object.entries(MODES).filter(([mode]) => labelled || mode === "label" || mode === "trust");
    const values = (key) => [...new Set(layouts.map((l) => l[key]))];
    const numbers = (key, label) => {
      const select = h("select", { onchange: () => this.relayout() }, ...values(key).map((v) => h("option", { value: v, textContent: v })));
      this[`${key}Choice`] = select;
      return h("label", {}, label, select);
    };
    this.box = h("input", { type: "search", placeholder: "class, name or #number", "aria-label": "find a class, a name or a number",
      onchange: () => this.find(this.box.value) });
    this.lasso = h("button", { textContent: "lasso", "aria-pressed": "false", className: "touch", onclick: () => this.toggleLasso() });
    this.probe = h("button", { textContent: `${views} views`, "aria-pressed": "false", hidden: !views,
      title: "where augmented views of the picked image land", onclick: () => this.toggleProbe() });
    const grid = layouts.length > 1 ? [numbers("n", "n_neighbors"), numbers("d", "min_dist")] : [];
    return h("div", { className: "bar controls" }, choice("colour", modes, "colour"), ...grid, this.box, this.lasso, this.probe,
      h("button", { textContent: "clear", onclick: () => this.clear() }));
  }

  relayout() {
    const [n, d] = ["n", "d"].map((key) => Number(this[`${key}Choice`].value));
    const exact = this.data.layouts.findIndex((l) => l.n === n && l.d === d);
    this.set("epoch", -1);
    this.set("variant", exact < 0 ? this.data.home : exact);
  }

  // The epochs: slider, play, and the kNN accuracy under it. null where no run kept snapshots.
  ageBar() {
    const { epochs } = this.data;
    if (!epochs.length) return null;
    const oninput = () => this.toAge(Number(this.age.value));
    this.age = h("input", { type: "range", min: 0, max: epochs.length, step: 1, "aria-label": "epoch", oninput });
    this.play = h("button", { textContent: "▶ play", onclick: () => this.togglePlay() });
    this.ageText = h("output", {});
    const line = this.ageLine();
    return h("div", { className: "ages" }, this.play, h("div", { className: "track" }, this.age, line ?? ""), this.ageText);
  }

  ageLine() {
    const spaces = this.data.spaces.filter((s) => s.frames && s.ages[0].knn !== undefined);
    if (!spaces.length) return null;
    const make = (tag, props) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
      return node;
    };
    const svg = make("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", class: "line" });
    const all = spaces.flatMap((s) => s.ages.map((a) => a.knn)), low = Math.min(...all), high = Math.max(...all);
    svg.setAttribute("aria-label", `kNN accuracy from ${percent(all[0])} to ${percent(all.at(-1))}`);
    const { epochs } = this.data;
    spaces.forEach((space, j) => {
      const x = (i) => (100 * epochs.indexOf(space.epochs[i])) / epochs.length, y = (knn) => 27 - (24 * (knn - low)) / (high - low || 1);
      const points = space.ages.map((age, i) => `${x(i)},${y(age.knn)}`).join(" ");
      const look = { fill: "none", stroke: COLOURS[j], "stroke-width": 1.6, "vector-effect": "non-scaling-stroke" };
      svg.append(make("polyline", { points, ...look }));
    });
    return svg;
  }

  toAge(step) { this.set("epoch", this.data.epochs[step] ?? -1); }

  togglePlay() {
    if (this.timer) { clearInterval(this.timer); this.timer = null; this.play.textContent = "▶ play"; return; }
    const last = this.data.epochs.length - 1;
    let step = this.data.epochs.indexOf(this.get("epoch"));
    if (step < 0 || step >= last) { step = 0; this.toAge(0); }
    this.play.textContent = "❚❚ pause";
    this.timer = setInterval(() => { this.toAge(++step); if (step >= last) this.togglePlay(); }, 1100);
  }

  // Everything that can be changed from outside ends here.
  listen() {
    const shown = () => { this.panels.forEach((panel) => panel.show()); this.refresh(); };
    const picked = () => { this.step = -1; this.showPick(); this.panels.forEach((panel) => panel.drawMarks()); this.toAddress(); };
    const selected = () => {
      this.chosen = new Set(this.get("selected"));
      this.panels.forEach((panel) => panel.draw());
      this.showCaught();
    };
    this.ears = { "change:colour": shown, "change:variant": shown, "change:epoch": shown, "change:pick": picked,
      "change:selected": selected, "msg:custom": (message, buffers) => this.hear(message, buffers) };
    for (const [event, ear] of Object.entries(this.ears)) this.model.on(event, ear);
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.root);
    this.unfollow = followTheme(this.root, () => this.panels.forEach((panel) => panel.scene && panel.draw()));
    if (!this.live && location.protocol !== "about:") {
      this.onhash = () => this.fromAddress();
      addEventListener("hashchange", this.onhash);
    }
  }

  fit() {
    if (this.root.clientWidth === this.fitted) return;
    this.fitted = this.root.clientWidth;
    this.panels.forEach((panel) => { panel.resize(); if (panel.scene) panel.draw(); });
  }

  start() {
    this.listen();
    this.fit();
    this.panels.forEach((panel) => panel.show());
    if (this.onhash) this.fromAddress();
    this.refresh();
    this.showPick();
    this.showCaught();
  }

  stop() {
    clearInterval(this.timer);
    this.watch.disconnect();
    this.unfollow();
    if (this.onhash) removeEventListener("hashchange", this.onhash);
    for (const sheet of [this.sheet, ...Object.values(this.sheets)]) sheet.free();
    for (const [event, ear] of Object.entries(this.ears)) this.model.off(event, ear);
  }

  refresh() {
    const { layouts, epochs, N, M } = this.data, layout = layouts[this.get("variant")], at = epochs.indexOf(this.get("epoch"));
    this.colourChoice.value = this.get("colour");
    if (this.nChoice) { this.nChoice.value = layout.n; this.dChoice.value = layout.d; }
    if (this.age) {
      this.age.value = at < 0 ? epochs.length : at;
      const text = at < 0 ? "all images" : `epoch ${epochs[at]}, ${M} of ${N} images`;
      this.ageText.textContent = text;
      this.age.setAttribute("aria-valuetext", text);
    }
    this.showLegend();
    this.toAddress();
  }

  showLegend() {
    const { styles, of } = this.panels[0].look, mode = this.get("colour");
    const used = new Set(of), named = mode === "label" || mode === "prediction";
    const word = { purity: "neighbours in its class: ", trust: "neighbours kept on the map: " }[mode] ?? "";
    this.legend.replaceChildren(word, ...styles.map((style, number) => {
      if (!used.has(number)) return null;
      const mark = glyph(style, 5, 2);
      Object.assign(mark.style, { width: "18px", height: "18px" });
      const onclick = () => named && this.selectStyle(number);
      return h(named ? "button" : "span", { className: "entry", onclick }, mark, style.name);
    }).filter(Boolean));
  }

  selectStyle(number) {
    const { of } = this.panels[0].look, found = [];
    of.forEach((style, i) => { if (style === number) found.push(i); });
    this.select(found);
  }

  near(space, i) { return space.index.subarray(i * this.data.k, (i + 1) * this.data.k); }
  classOf(i) { const c = this.data.y[i]; return c < 0 ? "no label" : this.data.classes[c]; }
  title(i) { return this.data.names?.[i] ?? `#${i}`; }
  caption(i) { return `${this.title(i)}, ${this.classOf(i)}`; }
  tile(i, size) { return tileOf(this.sheet, this.data.tile, this.data.columns, i, size, this.caption(i)); }

  hover(i, panel, e) {
    if (i === this.pointed) return;
    this.pointed = i;
    this.panels.forEach((p) => p.drawMarks());
    this.tip.hidden = i < 0 || !panel;
    if (this.tip.hidden) return;
    const said = panel.scene.said ? ` · neighbours say ${this.data.classes[panel.scene.said[i]]}` : "";
    this.tip.replaceChildren(this.tile(i, 64), h("div", {}, `${this.title(i)} · ${this.classOf(i)}${said}`));
    this.tip.dataset.image = i;
    const box = this.root.getBoundingClientRect(), left = Math.min(e.clientX - box.left + 14, box.width - 190);
    Object.assign(this.tip.style, { left: `${Math.max(0, left)}px`, top: `${e.clientY - box.top + 14}px` });
  }

  pick(i, number = 0) {
    this.walking = number;
    this.set("pick", i);
  }

  showPick() {
    const i = this.get("pick"), { spaces, k, held } = this.data;
    if (!(i >= 0 && i < this.data.N)) {
      return this.facts.replaceChildren(h("p", { className: "soft" },
        "Click a point for its nearest neighbours, draw around some for what they have in common. ",
        "Shift and drag moves a map, + and − zoom."));
    }
    const part = held ? (held[i] ? " · held out" : " · in the training set") : "";
    const head = h("div", { className: "picked" }, this.tile(i, 96), h("div", {}, h("strong", { textContent: this.classOf(i) }),
      h("div", { className: "soft" }, `${this.title(i)}${part}`)));
    this.facts.replaceChildren(head, ...spaces.map((space, j) => this.row(space, j, i)));
    const first = spaces[0], shared = this.data.labelled ? `, ${first.purity[i]} of ${k} neighbours in ${first.name} share its label` : "";
    this.said.textContent = `${this.title(i)}, ${this.classOf(i)}${shared}`;
    if (this.live && this.probing) this.model.send({ ask: "views", image: i });
  }

  // The neighbours of an image in one space: pictures, cosines, and the wrong ones outlined.
  row(space, j, i) {
    const { k, y, labelled, classes, views } = this.data;
    const share = labelled && y[i] >= 0 ? `${space.purity[i]}/${k} share its label, they say ${classes[space.said[i]]}` : "";
    const tiles = Array.from(this.near(space, i), (other, rank) => {
      const cosine = (space.cosine[i * k + rank] / 1000).toFixed(2), wrong = labelled && y[i] >= 0 && y[other] !== y[i];
      return h("button", { className: wrong ? "near wrong" : "near", "data-image": other, onclick: () => this.pick(other, j),
        "aria-label": `neighbour ${rank + 1}, ${this.classOf(other)}, cosine ${cosine}` }, this.tile(other, 36), cosine);
    });
    const seen = this.probing && space.views ? this.viewFacts(space, i, views) : null;
    const head = h("div", {}, h("b", { textContent: space.name }), h("span", { className: "soft" }, ` ${share}`));
    return h("div", { className: "row", "data-space": j }, head, h("div", { className: "tiles" }, ...tiles), seen);
  }

  viewFacts(space, i, views) {
    const cosines = Array.from(space.viewcos.subarray(i * views, (i + 1) * views), (v) => v / 255).sort((a, b) => b - a);
    const mean = cosines.reduce((a, b) => a + b, 0) / views;
    const where = this.panels[0].scene.key === this.home ? "" : ` (drawn on the map of ${this.home})`;
    const span = `mean ${mean.toFixed(2)}, from ${cosines.at(-1).toFixed(2)} to ${cosines[0].toFixed(2)}`;
    return h("div", { className: "soft seen" }, `cosine of ${views} views with the image: ${span}${where}`);
  }

  // `text` found them; the lasso and the legend find what the address cannot say.
  select(found, text = "") {
    this.box.value = text;
    this.set("selected", found);
    this.toAddress();
  }

  showCaught() {
    const found = this.get("selected"), { y, classes, labelled, spaces } = this.data;
    if (!found.length) return this.caught.replaceChildren();
    const counts = new Map();
    for (const i of found) counts.set(y[i], (counts.get(y[i]) ?? 0) + 1);
    const word = (c) => classes[c] ?? "no label";
    const meter = (c, n) => h("meter", { max: found.length, value: n, "aria-label": `${word(c)}: ${n}` });
    const ranked = [...counts].sort((a, b) => b[1] - a[1]);
    const bars = ranked.map(([c, n]) => h("div", { className: "count" }, h("span", {}, word(c)), meter(c, n), h("span", {}, String(n))));
    const right = (space) => found.filter((i) => space.said[i] === y[i]).length;
    const scores = labelled ? `neighbours are right: ${spaces.map((s) => `${s.name} ${percent(right(s) / found.length)}`).join(", ")}` : "";
    const grid = h("div", { className: "tiles" }), more = h("button", { textContent: "more", onclick: () => this.fill(grid, more, found) });
    const head = h("div", {}, h("b", { textContent: `${found.length} images` }), h("span", { className: "soft" }, ` ${scores}`));
    this.caught.replaceChildren(head, h("div", { className: "counts" }, ...(labelled ? bars : [])), grid, more);
    this.fill(grid, more, found);
    this.said.textContent = `${found.length} images selected, ${ranked[0][1]} of them ${word(ranked[0][0])}`;
  }

  fill(grid, more, found) {
    const start = grid.childElementCount;
    grid.append(...found.slice(start, start + TILES).map((i) =>
      h("button", { className: "near", "data-image": i, "aria-label": this.caption(i), onclick: () => this.pick(i) }, this.tile(i, 32))));
    more.hidden = grid.childElementCount >= found.length;
  }

  find(text) {
    const word = text.trim().toLowerCase(), { classes, names, N, y } = this.data;
    if (!word) return this.clear();
    const number = Number(word.replace(/^#/, "")), exact = classes.findIndex((name) => name.toLowerCase() === word);
    const ofClass = (c) => Array.from(y.keys()).filter((i) => y[i] === c);
    const like = classes.findIndex((name) => name.toLowerCase().startsWith(word));
    const named = names ? names.flatMap((name, i) => (name.toLowerCase().includes(word) ? [i] : [])) : [];
    const valid = /^#?\d+$/.test(word) && number < N;
    if (exact >= 0 && !word.startsWith("#")) this.select(ofClass(exact), text);
    else if (valid) this.pick(number);
    else if (like >= 0) this.select(ofClass(like), text);
    else if (named.length) this.select(named, text);
    else return this.tell(`nothing here is called “${text}”: give a class, part of a file name, or # and a number below ${N}`);
    this.tell("");
    this.toAddress();
  }

  tell(text) { this.status.textContent = text; if (text) this.said.textContent = text; }

  clear() {
    this.guests = [];
    this.probing = false;
    this.probe.setAttribute("aria-pressed", "false");
    this.tell("");
    this.select([]);
    this.set("pick", -1);
    this.showPick();
  }

  toggleLasso() {
    this.lassoing = !this.lassoing;
    this.lasso.setAttribute("aria-pressed", String(this.lassoing));
    this.root.classList.toggle("lassoing", this.lassoing);
  }

  toggleProbe() {
    this.probing = !this.probing;
    this.probe.setAttribute("aria-pressed", String(this.probing));
    if (this.probing && this.get("pick") < 0) this.tell("pick an image first");
    this.showPick();
    this.panels.forEach((panel) => panel.drawMarks());
    this.toAddress();
  }

  // Left and right look along the neighbours, up and down go to another space, Enter moves to the one looked at, Escape clears.
  key(e, number) {
    const keys = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 0, ArrowDown: 0, Enter: 0, Escape: 0 };
    if (!(e.key in keys)) return;
    e.preventDefault();
    if (e.key === "Escape") return this.clear();
    const { spaces, k } = this.data;
    if (this.get("pick") < 0) return this.pick(this.get("selected")[0] ?? 0, number);
    this.walking ??= number;
    const turn = { ArrowUp: spaces.length - 1, ArrowDown: 1 }[e.key] ?? 0;
    this.walking = (this.walking + turn) % spaces.length;
    if (e.key === "Enter" && this.step >= 0) return this.pick(this.near(spaces[this.walking], this.get("pick"))[this.step], this.walking);
    this.step = Math.min(k - 1, Math.max(0, this.step + keys[e.key]));
    this.lookAt();
  }

  lookAt() {
    const space = this.data.spaces[this.walking], pick = this.get("pick"), i = this.near(space, pick)[this.step];
    this.pointed = i;
    this.panels.forEach((panel) => panel.drawMarks());
    const cosine = (space.cosine[pick * this.data.k + this.step] / 1000).toFixed(2);
    this.said.textContent = `${space.name}, neighbour ${this.step + 1} of ${this.data.k}: ${this.caption(i)}, cosine ${cosine}`;
    this.facts.querySelectorAll(".near").forEach((tile) => tile.classList.remove("looked"));
    this.facts.querySelector(`[data-space="${this.walking}"]`)?.querySelectorAll(".near")[this.step]?.classList.add("looked");
  }

  // The address says what is shown, so that a link can: #pick=42&epoch=8&colour=trust&layout=50/0.1&find=cat&views=1
  // What it does not name is as at the start, when the page was saved.
  fromAddress() {
    const asked = new URLSearchParams(location.hash.slice(1)), { layouts, epochs, N } = this.data, { first } = this;
    const number = (key) => (asked.has(key) ? Number(asked.get(key).match(/^\d+$/) ?? -1) : first[key]);
    this.set("colour", Object.hasOwn(MODES, asked.get("colour")) ? asked.get("colour") : first.colour);
    const layout = layouts.findIndex(({ n, d }) => `${n}/${d}` === asked.get("layout"));
    this.set("variant", layout < 0 ? first.variant : layout);
    const wish = number("epoch"), pick = number("pick"), find = asked.get("find") ?? "";
    this.set("epoch", wish < 0 || !epochs.length ? -1 : epochs.reduce((a, b) => (Math.abs(b - wish) < Math.abs(a - wish) ? b : a)));
    this.select(first.selected, find);
    if (find) this.find(find);
    if (pick !== this.get("pick")) this.pick(pick < N ? pick : -1);
    if ((asked.get("views") === "1") !== this.probing && this.data.views) this.toggleProbe();
  }

  toAddress() {
    if (!this.onhash) return;
    const { n, d } = this.data.layouts[this.get("variant")], asked = new URLSearchParams();
    const moved = (key) => this.get(key) !== this.first[key];
    for (const key of ["pick", "epoch", "colour"]) if (moved(key)) asked.set(key, this.get(key));
    if (moved("variant")) asked.set("layout", `${n}/${d}`);
    if (this.box.value) asked.set("find", this.box.value);
    if (this.probing) asked.set("views", 1);
    const text = asked.toString().replaceAll("%2F", "/");
    if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname);
  }

  // With a kernel: pictures of the views, and images of the reader's own.
  welcome() {
    const file = h("input", { type: "file", accept: "image/*", multiple: true, onchange: () => this.offer(file.files) });
    this.root.querySelector(".controls").append(h("label", { title: "or drop it here" }, "your image", file));
    this.root.addEventListener("dragover", (e) => e.preventDefault());
    this.root.addEventListener("drop", (e) => { e.preventDefault(); this.offer(e.dataTransfer.files); });
  }

  async offer(files) {
    for (const file of files) this.model.send({ ask: "place", name: file.name }, undefined, [await file.arrayBuffer()]);
  }

  showViews({ tile, columns, labels }, sheet) {
    this.facts.querySelector(".views")?.remove();
    this.facts.append(h("div", { className: "tiles views" }, ...labels.map((label, i) => tileOf(sheet, tile, columns, i, 40, label))));
  }

  async hear(message, buffers) {
    if (message.error) return this.tell(message.error);
    const bytes = buffers[0].buffer ? buffers[0] : new Uint8Array(buffers[0]);
    const sheet = await spriteSheet(bytes, message.tile, message.columns);
    if (message.tell === "views" && !(this.probing && message.image === this.get("pick"))) return sheet.free();
    this.sheets[message.tell]?.free();
    this.sheets[message.tell] = sheet;
    if (message.tell === "views") return this.showViews(message, sheet);
    this.guests.push(message);
    const row = ({ space, text, near }) => {
      const tiles = near.map((i) => h("button", { className: "near", onclick: () => this.pick(i) }, this.tile(i, 36)));
      const says = h("div", {}, h("b", { textContent: space }), ` ${text}`);
      return h("div", { className: "row" }, says, h("div", { className: "tiles" }, ...tiles));
    };
    const large = tileOf(sheet, message.tile, message.columns, 0, 96, message.labels[0]);
    const head = h("div", { className: "picked guest" }, large, h("strong", { textContent: message.labels[0] }));
    this.facts.replaceChildren(head, ...message.rows.map(row));
    this.said.textContent = `${message.labels[0]} placed: ${message.rows.map((r) => `${r.space} ${r.text}`).join(", ")}`;
    this.panels.forEach((panel) => panel.drawMarks());
  }
}

async function render({ model, el }) {
  const data = readData(model), sheet = await spriteSheet(data.sheet, data.tile, data.columns);
  const app = new Explorer(model, sheet, data);
  el.append(app.root);
  app.start();
  el.explorer = app;
  return () => app.stop();
}

export default { render };
