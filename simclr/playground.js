// NT-Xent playground. All numbers are computed here, in double precision, from the float32 projections in the buffer.

const COLD = 0.02, HOT = 2, STEPS = 200, SHOWN = 11;
const BUGS = [["", "as in Eq. 1"], ["interleaved", "views interleaved"], ["diagonal", "diagonal left in"], ["lengths", "not normalised"]];
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const RING = "#ff9f1c";
const TEMPERATURES = Array.from({ length: 41 }, (_, k) => COLD * (HOT / COLD) ** (k / 40));

// Cosines of all 2N rows, first views and then second views; with `raw`, their dot products.
function similarities(z1, z2, raw = false) {
  const [N, D] = z1.shape, n = 2 * N, rows = new Float64Array(n * D), sim = new Float64Array(n * n);
  rows.set(z1);
  rows.set(z2, N * D);
  for (let i = 0; i < n && !raw; i++) {
    const row = rows.subarray(i * D, (i + 1) * D), length = Math.max(1e-12, Math.sqrt(row.reduce((sum, v) => sum + v * v, 0)));
    row.forEach((v, d) => { row[d] = v / length; });
  }
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) {
    let dot = 0;
    for (let d = 0; d < D; d++) dot += rows[i * D + d] * rows[j * D + d];
    sim[i * n + j] = sim[j * n + i] = dot;
  }
  return sim;
}

// The row that the loss takes for the partner of each: N places on. Interleaved, row k of view v lies at place 2k + v instead.
function partnersOf(N, bug) {
  return Array.from({ length: 2 * N }, (_, i) => {
    if (bug !== "interleaved") return (i + N) % (2 * N);
    const place = (2 * (i % N) + Math.floor(i / N) + N) % (2 * N);
    return Math.floor(place / 2) + (place % 2) * N;
  });
}

function logSumExp(values) {
  const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return top === -Infinity ? top : top + Math.log(values.reduce((sum, v) => sum + Math.exp(v - top), 0));
}

// One row of Eq. 1: its loss, whether it finds its partner, and how its push is spread. Logarithms, so that nothing underflows.
function studyRow(sim, y, tau, bug, partner, i) {
  const n = partner.length, N = n / 2, at = (j) => sim[i * n + j] / tau;
  const negatives = Array.from({ length: n }, (_, j) => j).filter((j) => j !== partner[i] && (j !== i || bug === "diagonal"));
  const same = negatives.filter((j) => j !== i && y[j % N] >= 0 && y[j % N] === y[i % N]);
  const push = logSumExp(negatives.map(at)), all = logSumExp([push, at(partner[i])]), log = logSumExp(same.map(at));
  const entropy = push - negatives.reduce((sum, j) => sum + Math.exp(at(j) - push) * at(j), 0);
  const hit = negatives.every((j) => at(j) < at(partner[i]) || (at(j) === at(partner[i]) && j > partner[i]));
  return { all, hit, loss: all - at(partner[i]), push: push - all, same: log - all, share: Math.exp(log - push),
    effective: Math.exp(entropy), even: same.length / negatives.length };
}

// Everything that is shown at one temperature. The push as a whole is weighted by force: rows that have won their bet hardly push.
function study(sim, y, tau, bug = "") {
  const N = y.length, n = 2 * N, partner = partnersOf(N, bug);
  const rows = partner.map((_, i) => studyRow(sim, y, tau, bug, partner, i)), mean = (f) => rows.reduce((sum, r) => sum + f(r), 0) / n;
  const p = sim.map((s, k) => (k % (n + 1) || bug === "diagonal" ? Math.exp(s / tau - rows[Math.floor(k / n)].all) : 0));
  const force = p.map((v, k) => (v - (partner[Math.floor(k / n)] === k % n)) / (n * tau));
  return { N, n, tau, bug, sim, partner, rows, p, force, loss: mean((r) => r.loss), top1: mean((r) => Number(r.hit)),
    share: Math.exp(logSumExp(rows.map((r) => r.same)) - logSumExp(rows.map((r) => r.push))),
    effective: mean((r) => r.effective), even: mean((r) => r.even) };
}

// How many push on a row: all but itself and its partner.
const pushersOf = ({ n, bug }) => n - (bug === "diagonal" ? 1 : 2);

// simclr.loss.loss_bounds: what a perfect model scores, and one that tells nothing apart.
const lossBounds = (N, tau) => [Math.log1p(2 * (N - 1) * Math.exp(-N / ((N - 1) * tau))), Math.log(2 * N - 1)];

const percent = (v) => `${(100 * v).toFixed(1)} %`;
const place = (tau) => Math.min(1, Math.max(0, Math.log(tau / COLD) / Math.log(HOT / COLD)));
const temperatureAt = (share) => Number((COLD * (HOT / COLD) ** share).toPrecision(3));
const colourOf = (root, name) => getComputedStyle(root).getPropertyValue(name);

function heat(v) {
  const t = Math.min(0.9999, Math.max(0, v)) * 4, k = Math.floor(t);
  return `rgb(${VIRIDIS[k].map((c, i) => Math.round(c + (VIRIDIS[k + 1][i] - c) * (t - k))).join()})`;
}

function canvasOf(width, height, props) {
  const canvas = h("canvas", { width: 2 * width, height: 2 * height, style: { width: `${width}px` }, ...props });
  canvas.getContext("2d").scale(2, 2);
  return canvas;
}

// Buttons of which one is pressed; names are pairs of key and text.
function choice(label, names, get, set) {
  const buttons = names.map(([key, name]) => h("button", { type: "button", onclick: () => set(key) }, name));
  const element = h("div", { className: "bar", role: "group", "aria-label": label }, h("span", { className: "soft" }, label), ...buttons);
  return { element, draw: () => names.forEach(([key], k) => buttons[k].setAttribute("aria-pressed", String(key === get()))) };
}

function temperatureControl(get, set) {
  const slider = h("input", { type: "range", min: 0, max: STEPS, step: 1, "aria-label": "temperature, logarithmic" });
  const box = h("input", { type: "number", min: 0, step: "any", "aria-label": "temperature" });
  const wrong = h("span", { className: "wrong", role: "alert" });
  slider.addEventListener("input", () => set(temperatureAt(Number(slider.value) / STEPS)));
  box.addEventListener("input", () => {
    const good = Number.isFinite(box.valueAsNumber) && box.valueAsNumber > 0;
    wrong.textContent = good ? "" : "temperature must be a number above 0";
    box.setAttribute("aria-invalid", String(!good));
    if (good) set(box.valueAsNumber);
  });
  const draw = () => {
    slider.value = Math.round(STEPS * place(get()));
    slider.setAttribute("aria-valuetext", String(get()));
    if (box.valueAsNumber === get()) return;
    Object.assign(box, { value: get() }).setAttribute("aria-invalid", "false");
    wrong.textContent = "";
  };
  return { element: h("div", { className: "bar tau" }, h("span", { className: "soft" }, "temperature τ"), slider, box, wrong), draw };
}

function readout() {
  const part = (name) => { const value = h("b"), text = h("span", { className: "soft" }, name);
    return [value, h("div", { className: "number" }, value, text), text]; };
  const [[loss, a], [top1, b], [share, c], [effective, d, most]] = ["loss, nats", "of rows find their partner",
    "of the push falls on the same class", ""].map(part);
  d.title = "exponential of the entropy of a row's push, mean over rows";
  const dot = h("i"), low = h("span"), high = h("span");
  const gauge = h("div", { className: "gauge" }, low, h("div", { className: "track" }, dot), high);
  const why = h("p", { className: "why" }), status = h("p", { className: "unseen", role: "status", "aria-live": "polite" });
  const draw = (now) => {
    const [floor, ceiling] = lossBounds(now.N, now.tau), within = (now.loss - floor) / (ceiling - floor);
    loss.textContent = now.loss.toFixed(3);
    top1.textContent = percent(now.top1);
    share.textContent = percent(now.share);
    effective.textContent = now.effective.toFixed(1);
    most.textContent = `of ${pushersOf(now)} negatives count`;
    low.textContent = `floor ${floor.toFixed(3)}`;
    high.textContent = `ceiling ${ceiling.toFixed(3)}`;
    dot.style.left = `${100 * Math.min(1, Math.max(0, within))}%`;
    why.textContent = reason(now);
    status.textContent = `Temperature ${now.tau}: loss ${now.loss.toFixed(4)} nats, ` +
      `floor ${floor.toFixed(4)}, ceiling ${ceiling.toFixed(4)}. ` +
      `${percent(now.top1)} find their partner. ${percent(now.share)} of the push falls on the same class. ` +
      `${now.effective.toFixed(1)} of ${pushersOf(now)} negatives count. ${why.textContent}`;
  };
  return { element: h("div", {}, h("div", { className: "numbers" }, a, b, c, d), gauge, why, status), draw };
}

// What a bug does to the loss, and why that is wrong. In numbers, from the rows that are shown.
function reason({ bug, loss, N, n, p, rows, top1, good, longer, length }) {
  const mean = (f) => percent(rows.reduce((sum, _, i) => sum + f(i), 0) / n);
  const head = `Broken: ${loss.toFixed(3)} instead of ${good.toFixed(3)}. `;
  if (bug === "interleaved") return `${head}The rows lie as 1a 1b 2a 2b, but the loss looks ${N} places on, as if all first views ` +
    `came first. Each row pulls another image, and ${mean((i) => p[i * n + ((i + N) % n)])} of its stake, on its real partner, now pushes.`;
  if (bug === "diagonal") return `${head}Each row may name itself, at cosine 1, and lays ${mean((i) => p[i * n + i])} of its stake ` +
    `there. The partner can never get more: no model scores below log 2 = 0.693, and ${percent(top1)} of rows name their partner.`;
  if (bug === "lengths") return `${head}A dot product grows with the length of z, ${length.toFixed(1)} on average: length acts as a ` +
    `second temperature. The same directions at twice the length score ${longer.toFixed(3)}. Floor and ceiling do not hold.`;
  return "";
}

const nameOf = ({ N, meta, y }, i) => `${i % N + 1}${i < N ? "a" : "b"}, ${y[i % N] < 0 ? "no label" : `class ${meta.classes[y[i % N]]}`}`;

// The softmax matrix, rows by class: blocks on the diagonal show images of one class, a ring marks each partner.
function matrixView(data, order, set, hover) {
  const n = order.length, cell = Math.max(4, Math.floor(430 / n)), edge = 30, size = n * cell;
  const canvas = canvasOf(size + edge, size + edge, { className: "matrix", tabIndex: 0, role: "group" });
  const note = h("p", { className: "soft note" });
  const at = (e) => {
    const box = canvas.getBoundingClientRect(), k = (v, span) => Math.floor(((v / span) * (size + edge) - edge) / cell);
    const [i, j] = [k(e.clientY - box.top, box.height), k(e.clientX - box.left, box.width)];
    return order[i] === undefined ? null : [order[i], order[j]];
  };
  canvas.addEventListener("pointermove", (e) => hover(at(e)));
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (e) => { const found = at(e); if (found) set(found[0]); });
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -n, End: n }[e.key];
    if (!step) return;
    e.preventDefault();
    set(order[Math.min(n - 1, Math.max(0, order.indexOf(now.pinned) + step))]);
  });
  let now;
  const draw = (next) => {
    now = next;
    drawMatrix(canvas, now, data, order, cell, edge);
    const j = now.cell ?? now.partner[now.anchor], role = j === now.anchor ? "itself"
      : j !== now.partner[now.anchor] ? "a negative" : now.bug === "interleaved" ? "which it takes for its partner" : "its partner";
    const stake = percent(now.p[now.anchor * n + j]);
    note.textContent = `Row ${nameOf(data, now.anchor)}: ${stake} of its stake lies on ${nameOf(data, j)}, ${role}.`;
    canvas.setAttribute("aria-label", `Softmax matrix of ${n} rows; arrow keys choose the anchor. ${note.textContent}`);
  };
  const key = h("div", { className: "key soft" }, "stake 0", h("i"), "1 (colour by its square root; ring: partner)");
  return { element: h("div", {}, h("h3", {}, "Who bets on whom"), canvas, key, note), draw };
}

function drawMatrix(canvas, now, { y, N, meta }, order, cell, edge) {
  const g = canvas.getContext("2d"), n = order.length, size = n * cell, ink = colourOf(canvas, "--ink");
  g.clearRect(0, 0, size + edge, size + edge);
  g.font = "11px system-ui, sans-serif";
  order.forEach((i, a) => order.forEach((j, b) => {
    if (i === j && now.bug !== "diagonal") return;
    g.fillStyle = heat(Math.sqrt(now.p[i * n + j]));
    g.fillRect(edge + b * cell, edge + a * cell, cell, cell);
    if (now.partner[i] !== j) return;
    g.strokeStyle = RING;
    g.lineWidth = 1.5;
    g.strokeRect(edge + b * cell + 1, edge + a * cell + 1, cell - 2, cell - 2);
  }));
  g.strokeStyle = "#e0e0e0";
  g.fillStyle = ink;
  g.lineWidth = 1;
  for (let a = 0, b = 0; a < n; a = b) {
    while (b < n && y[order[b] % N] === y[order[a] % N]) b++;
    const from = edge + a * cell, length = (b - a) * cell, label = y[order[a] % N];
    const name = label < 0 ? "?" : [...meta.classes[label]].slice(0, 4).join("");
    g.strokeRect(from, from, length, length);
    g.textAlign = "center";
    g.fillText(name, from + length / 2, edge - 8, length);
    g.textAlign = "right";
    g.fillText(name, edge - 6, from + length / 2 + 4, edge - 8);
  }
  const row = edge + order.indexOf(now.anchor) * cell;
  g.strokeStyle = colourOf(canvas, "--mark");
  g.lineWidth = 2;
  g.strokeRect(edge - 2, row - 1, size + 2, cell + 1);
}

// The forces on one anchor: partner and hardest negatives as tiles, each with a bar as high as its part of the pull (= all of the push).
function forceView(data, sheet, set) {
  const { meta } = data, [head, tiles, rest] = ["anchor", "tiles", "note"].map((className) => h("div", { className }));
  const draw = (now) => {
    const { anchor: i, n } = now, force = (j) => now.force[i * n + j], partner = now.partner[i], pull = -force(partner);
    const same = (j) => j !== i && data.y[j % now.N] >= 0 && data.y[j % now.N] === data.y[i % now.N];
    const pushers = Array.from({ length: n }, (_, j) => j).filter((j) => j !== partner && (j !== i || now.bug === "diagonal"));
    pushers.sort((a, b) => now.sim[i * n + b] - now.sim[i * n + a]);
    const part = (j) => Math.exp(now.sim[i * n + j] / now.tau - now.rows[i].all - now.rows[i].push);
    const tile = (j, size) => tileOf(sheet, meta.tile, meta.columns, j, size, nameOf(data, j));
    const column = (j, share, kind, word) => {
      const bar = h("span", { className: "space" }, h("i", { style: { height: `${100 * share}%` } }));
      const props = { type: "button", className: `column ${kind}`, onclick: () => set(j) };
      props["aria-label"] = `${word} ${percent(share)}: row ${nameOf(data, j)}`;
      props.title = `${Math.abs(force(j)).toPrecision(3)} nats per unit of cosine`;
      return h("button", props, bar, tile(j, 34), h("span", {}, percent(share)), h("small", {}, word));
    };
    const focused = tiles.matches(":focus-within");
    head.replaceChildren(tile(i, 60), h("div", {}, h("b", {}, `Row ${nameOf(data, i)}`), h("br"),
      `pulled with ${pull.toPrecision(3)} nats per unit of cosine; all pushes together are as strong`));
    const word = (j) => (j === i ? "itself" : j % now.N === i % now.N ? "own view" : same(j) ? "same" : "push");
    const hardest = pushers.slice(0, SHOWN).map((j) => column(j, part(j), same(j) ? "same" : "push", word(j)));
    tiles.replaceChildren(column(partner, 1, "pull", "pull"), ...hardest);
    if (focused) tiles.firstChild.focus();
    const others = pushers.slice(SHOWN), left = others.reduce((sum, j) => sum + part(j), 0), row = now.rows[i];
    rest.textContent = `${others.length ? `${others.length} more push with ${percent(left)} together. ` : ""}` +
      `On the same class: ${percent(row.share)} of this row's push (even push: ${percent(row.even)}). ` +
      `${row.effective.toFixed(1)} of ${pushers.length} negatives count.`;
  };
  return { element: h("div", { className: "forces" }, h("h3", {}, "Who pulls, who pushes"), head, tiles, rest), draw };
}

// Three curves against temperature, the present one marked; a click moves it.
function curveView(title, of, set) {
  const W = 280, H = 150, canvas = canvasOf(W, H, { className: "curve", role: "img" });
  canvas.addEventListener("click", (e) => {
    const box = canvas.getBoundingClientRect();
    set(temperatureAt(Math.min(1, Math.max(0, (((e.clientX - box.left) / box.width) * W - 40) / (W - 50)))));
  });
  const draw = (now) => {
    const g = canvas.getContext("2d"), { lines, top, mark, text } = of(now);
    const x = (tau) => 40 + (W - 50) * place(tau), y = (v) => 125 - (115 * v) / top;
    g.clearRect(0, 0, W, H);
    g.font = "11px system-ui, sans-serif";
    g.fillStyle = colourOf(canvas, "--soft");
    g.strokeStyle = colourOf(canvas, "--line");
    g.lineWidth = 1;
    g.setLineDash([]);
    g.strokeRect(40, 10, W - 50, 115);
    g.textAlign = "center";
    for (const t of [0.02, 0.1, 0.5, 2]) g.fillText(t, Math.min(W - 8, x(t)), 140);
    g.textAlign = "right";
    for (const v of [0, top / 2, top]) g.fillText(Number(v.toPrecision(2)), 36, y(v) + 4);
    g.save();
    g.beginPath();
    g.rect(40, 9, W - 50, 117);
    g.clip();
    for (const { values, colour, dash } of lines) {
      g.strokeStyle = colourOf(canvas, colour);
      g.lineWidth = 2;
      g.setLineDash(dash);
      g.beginPath();
      values.forEach((v, k) => g.lineTo(x(TEMPERATURES[k]), y(v)));
      g.stroke();
    }
    g.restore();
    g.strokeStyle = g.fillStyle = colourOf(canvas, "--ink");
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(x(now.tau), 10);
    g.lineTo(x(now.tau), 125);
    g.stroke();
    g.beginPath();
    g.arc(x(now.tau), Math.max(10, y(mark)), 4, 0, 7);
    g.fill();
    canvas.setAttribute("aria-label", `${title} against temperature: ${text}`);
  };
  return { element: h("figure", {}, h("figcaption", {}, title), canvas), draw };
}

const CURVES = {
  "Loss, nats (dotted: floor and ceiling)": (now) => ({
    top: Math.ceil(Math.max(lossBounds(now.N, 1)[1], ...now.curve.map((s) => Math.min(s.loss, 8)))),
    mark: now.loss, text: now.loss.toFixed(3),
    lines: [...[0, 1].map((k) => ({ values: TEMPERATURES.map((t) => lossBounds(now.N, t)[k]), colour: "--soft", dash: [2, 3] })),
      { values: now.curve.map((s) => s.loss), colour: "--mark", dash: [] }] }),
  "Push on the same class (dashed: this row)": (now) => ({ top: 1, mark: now.share, text: percent(now.share), lines: [
    { values: TEMPERATURES.map(() => now.even), colour: "--soft", dash: [2, 3] },
    { values: now.curve.map((s) => s.rows[now.anchor].share), colour: "--bad", dash: [6, 4] },
    { values: now.curve.map((s) => s.share), colour: "--mark", dash: [] }] }),
  "Negatives that count (dashed: this row)": (now) => ({ top: pushersOf(now), mark: now.effective, text: now.effective.toFixed(1), lines: [
    { values: now.curve.map((s) => s.rows[now.anchor].effective), colour: "--bad", dash: [6, 4] },
    { values: now.curve.map((s) => s.effective), colour: "--mark", dash: [] }] }),
};

// What a checkpoint and a bug have to show at any temperature; kept, since hovering asks again and again.
function laboratory(data) {
  const kept = {}, keep = (key, make) => (kept[key] ??= make());
  return (checkpoint, tau, bug) => {
    const k = Math.max(0, data.meta.checkpoints.indexOf(checkpoint)), [z1, z2] = [data[`z${k}a`], data[`z${k}b`]], raw = bug === "lengths";
    const sim = keep(`sim ${k} ${raw}`, () => similarities(z1, z2, raw)), cosine = keep(`sim ${k} false`, () => similarities(z1, z2));
    if (kept.now?.k === k && kept.now.tau === tau && kept.now.bug === bug) return kept.now;
    const curve = keep(`curve ${k} ${bug}`, () => TEMPERATURES.map((t) => study(sim, data.y, t, bug))), now = study(sim, data.y, tau, bug);
    const length = sim.reduce((sum, s, c) => sum + (c % (now.n + 1) ? 0 : Math.sqrt(s)), 0) / now.n;
    return (kept.now = { ...now, k, curve, length, good: study(cosine, data.y, tau).loss, longer: study(sim, data.y, tau / 4, bug).loss });
  };
}

async function render({ model, el }) {
  const data = unpack(model.get("blob")), { meta, y } = data, N = (data.N = y.length), look = laboratory(data);
  const sheet = await spriteSheet(data.sheet, meta.tile, meta.columns), order = Array.from({ length: 2 * N }, (_, i) => i);
  order.sort((i, j) => y[i % N] - y[j % N] || i % N - j % N || i - j);
  const get = (key) => model.get(key), set = (key) => (value) => { model.set(key, value); model.save_changes(); };
  let hovered = null;
  const hover = (found) => { if (String(found) !== String(hovered)) { hovered = found; update(); } };
  const controls = [choice("weights", meta.checkpoints.map((name) => [name, name]), () => get("checkpoint"), set("checkpoint")),
    temperatureControl(() => get("temperature"), set("temperature")), choice("break it", BUGS, () => get("broken"), set("broken"))];
  const curves = Object.entries(CURVES).map(([title, of]) => curveView(title, of, set("temperature")));
  const views = [readout(), matrixView(data, order, set("anchor"), hover), forceView(data, sheet, set("anchor")), ...curves];
  const [numbers, matrix, forces] = views.map((view) => view.element);
  const root = h("div", { className: "simclr playground" }, ...controls.map((c) => c.element), numbers,
    h("div", { className: "two" }, matrix, forces), h("div", { className: "curves" }, ...curves.map((c) => c.element)));
  const update = () => {
    const now = { ...look(get("checkpoint"), get("temperature"), get("broken")), pinned: get("anchor") };
    Object.assign(now, { anchor: hovered?.[0] ?? get("anchor"), cell: hovered?.[1] });
    [...controls, ...views].forEach((view) => view.draw(now));
    if (get("loss") !== now.loss) set("loss")(now.loss);
  };
  const heard = ["temperature", "anchor", "checkpoint", "broken"].map((key) => `change:${key}`);
  heard.forEach((event) => model.on(event, update));
  el.replaceChildren(root);
  update();
  const unfollow = followTheme(root, update);
  return () => { heard.forEach((event) => model.off(event, update)); unfollow(); sheet.free(); };
}

export default { render };
