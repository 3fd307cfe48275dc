// The augmentation studio. The views and, on a page without a kernel, the encoder are computed here; simclr/studio.py is the reference.

const PAIRS = 32, CHUNK = 7;                        // pairs on the plot; pairs between two looks at the clock
const LUMA = [0.2989, 0.587, 0.114].map((weight) => weight / 0.9999);
const percent = (v) => `${Math.round(100 * v)} %`;
const SLIDERS = [
  ["min_crop_scale", "smallest crop", 0.01, 1, 0.01, percent], ["jitter_strength", "colour jitter", 0, 2, 0.05, (v) => v.toFixed(2)],
  ["grey_prob", "greyed", 0, 1, 0.05, percent], ["blur_prob", "blurred", 0, 1, 0.05, percent],
  ["rotate_degrees", "rotated up to", 0, 180, 5, (v) => `${v.toFixed(0)}°`], ["flip_prob", "mirrored", 0, 1, 0.05, percent],
];
const SETTINGS = SLIDERS.map(([name]) => name);

// ---- Draws: SimCLRAugment.draw with a generator that a seed and a number start, so that moving one slider changes nothing else.

function stream(seed, number) {                     // mulberry32
  let a = Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca6b);
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function drawBox(random, smallest, size) {          // top, left, height, width in pixels
  const tries = Array.from({ length: 10 }, () => [random(), random()]), [down, right] = [random(), random()];
  for (const [u, v] of tries) {
    const area = (smallest + (1 - smallest) * u) * size * size, ratio = (3 / 4) * (16 / 9) ** v;
    const width = Math.round(Math.sqrt(area * ratio)), height = Math.round(Math.sqrt(area / ratio));
    if (width < 1 || height < 1 || width > size || height > size) continue;
    return [Math.floor(down * (size - height + 1)), Math.floor(right * (size - width + 1)), height, width];
  }
  return [0, 0, size, size];
}

function drawView(random, s, size) {                // every number is drawn, needed or not: the streams stay in step
  const box = drawBox(random, s.min_crop_scale, size), low = Math.max(0, 1 - 0.8 * s.jitter_strength), high = 1 + 0.8 * s.jitter_strength;
  const factors = [random(), random(), random()].map((u) => low + (high - low) * u);
  const turn = 0.2 * s.jitter_strength * (2 * random() - 1), jittered = random() < 0.8;
  const blurred = random() < s.blur_prob, sigma = 0.1 + 1.9 * random(), angle = s.rotate_degrees * (2 * random() - 1);
  const flip = random() < s.flip_prob, keys = [random(), random(), random(), random()], grey = random() < s.grey_prob;
  const order = [0, 1, 2, 3].sort((i, j) => keys[i] - keys[j]);
  return { box, flip, jitter: jittered ? [...factors, turn] : [1, 1, 1, 0], order, grey, sigma: blurred ? sigma : 0, angle };
}

// Triples of views: two of the picture, one of another. Pairs of a triple: the first two are partners, the first and third are not.
function plan(settings, image, seed, count, size) {
  const images = [], draws = [];
  for (let k = 0; k < PAIRS; k++) {
    const other = (image + 1 + Math.floor(stream(seed, 4 * k + 3)() * (count - 1))) % count;
    for (let i = 0; i < 3; i++) {
      images.push(i < 2 ? image : other);
      draws.push(drawView(stream(seed, 4 * k + i), settings, size));
    }
  }
  return { images, draws };
}

// ---- Views: SimCLRAugment.apply.

function resizeMatrix(start, length, size) {        // (size, size), rows sum to 1; a crop is never larger than the view, so none is shrunk
  const matrix = new Float64Array(size * size), scale = length / size;
  for (let i = 0; i < size; i++) {
    let sum = 0;
    for (let j = start; j < start + length; j++) {
      const weight = Math.max(0, 1 - Math.abs(j + 0.5 - (i + 0.5) * scale - start));
      sum += matrix[i * size + j] = weight;
    }
    for (let j = start; j < start + length; j++) matrix[i * size + j] /= sum;
  }
  return matrix;
}

function blurMatrix(sigma, size) {                  // a kernel of a tenth of the size, odd, at least 3; mirrored at the edges
  const kernel = Math.min(Math.max(3, Math.floor(Math.round(size * 0.1) / 2) * 2 + 1), 2 * size - 1), half = (kernel - 1) / 2;
  const weight = Array.from({ length: kernel }, (_, k) => Math.exp(-0.5 * ((k - half) / Math.max(sigma, 1e-3)) ** 2));
  const matrix = new Float64Array(size * size), sum = weight.reduce((a, b) => a + b);
  for (let i = 0; i < size; i++) {
    weight.forEach((w, k) => { matrix[i * size + size - 1 - Math.abs(size - 1 - Math.abs(i + k - half))] += w / sum; });
  }
  return matrix;
}

function multiply(a, b, n, turned = false) {        // (n, n) each; `turned` takes b transposed
  const out = new Float64Array(n * n), [down, right] = turned ? [1, n] : [n, 1];
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < n; k++) {
      const left = a[i * n + k];
      if (left) for (let j = 0; j < n; j++) out[i * n + j] += left * b[k * down + j * right];
    }
  }
  return out;
}

function rotate(x, n, degrees) {                    // one channel; counter-clockwise, bilinear, the edge repeated
  const out = new Float64Array(n * n), turn = (degrees * Math.PI) / 180, c = Math.cos(turn), s = Math.sin(turn), middle = (n - 1) / 2;
  const inside = (v) => Math.min(Math.max(v, 0), n - 1);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const px = inside(c * (j - middle) - s * (i - middle) + middle), py = inside(s * (j - middle) + c * (i - middle) + middle);
      const left = Math.floor(px), top = Math.floor(py), right = inside(left + 1), below = inside(top + 1), u = px - left, v = py - top;
      out[i * n + j] = (1 - v) * ((1 - u) * x[top * n + left] + u * x[top * n + right])
        + v * ((1 - u) * x[below * n + left] + u * x[below * n + right]);
    }
  }
  return out;
}

function colourSteps([brightness, , saturation, turn], C) {   // matrices of brightness, contrast (its scale comes later), saturation, hue
  const grid = (f) => Array.from({ length: C }, (_, i) => Array.from({ length: C }, (_, j) => f(i, j)));
  const eye = (v) => grid((i, j) => (i === j ? v : 0)), luma = C === 3 ? LUMA : [1];
  const hue = C === 3 ? grid((i, j) => (1 + 2 * Math.cos(2 * Math.PI * (turn - (i - j) / 3))) / 3) : eye(1);
  return { steps: [eye(brightness), null, grid((i, j) => saturation * (i === j) + (1 - saturation) * luma[j]), hue], eye, grid, luma };
}

function colourMap(mean, draw) {                    // matrix and offset: a colour becomes matrix · colour + offset
  const C = mean.length, { steps, eye, grid, luma } = colourSteps(draw.jitter, C), contrast = draw.jitter[1];
  const times = (a, b) => grid((i, j) => a[i].reduce((sum, v, k) => sum + v * b[k][j], 0));
  const on = (a, v) => a.map((row) => row.reduce((sum, w, k) => sum + w * v[k], 0));
  let matrix = eye(1), offset = mean.map(() => 0);
  for (const k of draw.order) {
    const now = on(matrix, mean).map((v, i) => v + offset[i]);
    const pull = k === 1 ? (1 - contrast) * now.reduce((sum, v, i) => sum + v * luma[i], 0) : 0;
    const step = steps[k] ?? eye(contrast);
    matrix = times(step, matrix);
    offset = on(step, offset).map((v) => v + pull);
  }
  const grey = grid((_, j) => luma[j]);
  return draw.grey ? [times(grey, matrix), on(grey, offset)] : [matrix, offset];
}

function viewOf(bytes, C, size, draw) {             // bytes (C, size, size) and a draw to a view on [0, 1], Float32Array of the same shape
  const area = size * size, [top, left, height, width] = draw.box;
  let rows = resizeMatrix(top, height, size), columns = resizeMatrix(left, width, size);
  if (draw.flip) columns = columns.map((_, k) => columns[(size - 1 - Math.floor(k / size)) * size + (k % size)]);
  const sharp = Array.from({ length: C }, (_, c) => {
    let x = Float64Array.from(bytes.subarray(c * area, (c + 1) * area), (v) => v / 255);
    if (draw.angle) x = rotate(x, size, draw.angle);
    return multiply(multiply(rows, x, size), columns, size, true);
  });
  const [matrix, offset] = colourMap(sharp.map((x) => x.reduce((a, b) => a + b) / area), draw);
  const blur = draw.sigma > 0 ? blurMatrix(draw.sigma, size) : null;
  const soft = blur ? sharp.map((x) => multiply(multiply(blur, x, size), blur, size, true)) : sharp;
  return Float32Array.from({ length: C * area }, (_, k) => {
    const i = Math.floor(k / area), at = k % area;
    return Math.min(1, Math.max(0, soft.reduce((sum, x, j) => sum + matrix[i][j] * x[at], offset[i])));
  });
}

// ---- The encoder: run_steps. Features lie as (view, row, column, channel), weights as (output, row, column, channel).

function fromHalf(bits) {                           // a half-precision float
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function network(lab) {                             // the steps of `shrink`, weights as numbers again
  return lab.meta.steps.map((step, k) => {
    const raw = lab[`w${k}`], scale = lab[`s${k}`], each = raw.length / raw.shape[0];
    const number = raw instanceof Uint16Array ? fromHalf : (v) => v;
    const weight = Float32Array.from(raw, (v, i) => number(v) * scale[Math.floor(i / each)]);
    return { ...step, outputs: raw.shape[0], kernel: raw.shape[1], weight, bias: lab[`b${k}`] };
  });
}

// What lies under the kernel at one place, zeros beyond the edge.
function gather(patch, { data, C, H, W }, n, top, left, kernel) {
  for (let ky = 0, at = 0; ky < kernel; ky++) {
    for (let kx = 0; kx < kernel; kx++, at += C) {
      const row = top + ky, column = left + kx, from = ((n * H + row) * W + column) * C;
      if (row < 0 || row >= H || column < 0 || column >= W) patch.fill(0, at, at + C);
      else for (let c = 0; c < C; c++) patch[at + c] = data[from + c];
    }
  }
}

// All outputs at one place, four at a time, so that each number of the patch is read once for four products.
function products(out, to, patch, { weight, bias, outputs }) {
  const D = patch.length;
  let o = 0;
  for (; o + 3 < outputs; o += 4) {
    const p = o * D, q = p + D, r = q + D, s = r + D;
    let a = bias[o], b = bias[o + 1], c = bias[o + 2], d = bias[o + 3];
    for (let k = 0; k < D; k++) {
      const v = patch[k];
      a += v * weight[p + k]; b += v * weight[q + k]; c += v * weight[r + k]; d += v * weight[s + k];
    }
    out[to + o] = a; out[to + o + 1] = b; out[to + o + 2] = c; out[to + o + 3] = d;
  }
  for (; o < outputs; o++) {
    let a = bias[o];
    for (let k = 0; k < D; k++) a += patch[k] * weight[o * D + k];
    out[to + o] = a;
  }
}

function convolve(x, step) {                        // x {data, N, H, W, C} to the same with as many channels as the step has outputs
  const { kernel, stride, padding, outputs } = step;
  const [H, W] = [x.H, x.W].map((side) => Math.floor((side + 2 * padding - kernel) / stride) + 1);
  const data = new Float32Array(x.N * H * W * outputs), patch = new Float32Array(kernel * kernel * x.C);
  for (let place = 0; place < x.N * H * W; place++) {
    const column = place % W, row = Math.floor(place / W) % H;
    gather(patch, x, Math.floor(place / (H * W)), row * stride - padding, column * stride - padding, kernel);
    products(data, place * outputs, patch, step);
  }
  return { data, N: x.N, H, W, C: outputs };
}

function pool({ data, N, H, W, C }) {               // mean over rows and columns
  const out = new Float32Array(N * C), area = H * W;
  for (let k = 0; k < data.length; k++) out[Math.floor(k / (area * C)) * C + (k % C)] += data[k] / area;
  return { data: out, N, H: 1, W: 1, C };
}

function encode(steps, x) {                         // h, and z where the steps go on to it
  const seen = [x];
  let h = null;
  for (const step of steps) {
    const wide = seen[step.source], source = step.pooled ? pool(wide) : wide;
    if (step.pooled) h ??= source;
    const out = convolve(source, step), plus = step.plus ? seen[step.plus].data : null;
    for (let k = 0; k < out.data.length; k++) {
      const v = out.data[k] + (plus ? plus[k] : 0);
      out.data[k] = step.relu && v < 0 ? 0 : v;
    }
    seen.push(out);
  }
  return h ? { h, z: seen.at(-1) } : { h: pool(seen.at(-1)), z: null };
}

function cosine({ data, C }, a, b) {                // of views a and b
  let ab = 0, aa = 0, bb = 0;
  for (let c = 0; c < C; c++) {
    const u = data[a * C + c], v = data[b * C + c];
    ab += u * v; aa += u * u; bb += v * v;
  }
  return ab / Math.max(Math.sqrt(aa * bb), 1e-12);
}

// ---- Two engines with one question: {images, draws, pairs, show} to {h, z, views}.

const tile = (lab, i) => lab.x.subarray(i * (lab.x.length / lab.x.shape[0]), (i + 1) * (lab.x.length / lab.x.shape[0]));

function pageEngine(lab) {
  const steps = network(lab), [, C, S] = lab.x.shape, { mean, std } = lab.meta;
  return ({ images, draws, pairs, show }) => {
    const N = images.length, views = images.map((image, n) => viewOf(tile(lab, image), C, S, draws[n]));
    const data = new Float32Array(N * S * S * C);
    views.forEach((view, n) => view.forEach((v, k) => {
      const c = Math.floor(k / (S * S));
      data[(n * S * S + (k % (S * S))) * C + c] = (v - mean[c]) / std[c];
    }));
    const { h: features, z } = encode(steps, { data, N, H: S, W: S, C }), of = (x) => x && pairs.map(([a, b]) => cosine(x, a, b));
    return { h: of(features), z: of(z), views: show.map((n) => Uint8Array.from(views[n], (v) => Math.round(255 * v))) };
  };
}

// Ask Python. Where nobody answers in time (a busy cell, a kernel that has ended), the answer is {page}: whom to ask instead, if it has the
// encoder. The next question goes to Python again, which has less time until it is heard of.
function kernelEngine(model, lab, seconds = lab.meta.steps ? 8 : 120) {
  const waiting = new Map(), mine = Math.random().toString(36).slice(2);
  let number = 0, page = null, patience = seconds;
  const hear = ({ id, error, ...answer }, buffers) => {
    const [done, failed] = waiting.get(id) ?? [];
    waiting.delete(id);
    patience = seconds;
    if (error) failed?.(new Error(error));
    else done?.({ ...answer, views: buffers.map((b) => new Uint8Array(b.buffer ?? b, b.byteOffset ?? 0, b.byteLength)) });
  };
  model.on("msg:custom", hear);
  const ask = (question) => new Promise((done, failed) => {
    const id = `${mine}-${number++}`, keys = ["box", "flip", "jitter", "order", "grey", "sigma", "angle"];
    waiting.set(id, [done, failed]);
    model.send({ ...question, id, draws: Object.fromEntries(keys.map((key) => [key, question.draws.map((d) => d[key])])) });
    setTimeout(() => {
      if (!waiting.delete(id)) return;
      if (!lab.meta.steps) return failed(new Error("the kernel does not answer"));
      patience = Math.min(1, seconds);
      page ??= pageEngine(lab);
      done({ page });
    }, 1000 * patience);
  });
  return { ask, free: () => model.off("msg:custom", hear) };
}

// ---- What the numbers say.

const average = (v) => v.reduce((a, b) => a + b, 0) / v.length;
const spread = (v) => Math.sqrt(average(v.map((x) => (x - average(v)) ** 2)));

function winRate(same, other) {                     // share of comparisons that the partner wins; a draw counts half
  return average(same.map((s) => average(other.map((o) => (s > o + 1e-6 ? 1 : s < o - 1e-6 ? 0 : 0.5)))));
}

function verdict(same, other, s, C) {
  const mixed = s.flip_prob % 1 || (C === 3 && s.grey_prob % 1);
  const varies = s.min_crop_scale < 1 || s.jitter_strength || s.rotate_degrees || s.blur_prob || mixed;
  if (!varies) return "Nothing is random: both views are the same, and any network, also an untrained one, gives them cosine 1.";
  const wins = winRate(same, other);
  if (wins > 0.99) return "Easy: nearly every pair of this picture is solved already, and there is little left to learn from it.";
  if (wins < 0.65) return "Next to impossible: views of this picture are hardly more alike than views of two pictures.";
  if (wins < 0.85) return "Hard: the two rows run into each other; often a stranger looks more like a view than its partner does.";
  return "In between: most pairs are right, and the gap between the rows is what the loss would enlarge.";
}

function remark(s, trained, S) {                    // about a setting that may surprise
  if (s.jitter_strength >= 1.25) return "From strength 1.25 on a factor can be 0: such a view is black, or one flat grey.";
  if (trained && !trained.flip_prob && s.flip_prob) return "It never met a mirror image in training, and takes one for another picture.";
  if (trained && s.rotate_degrees > trained.rotate_degrees + 20) return "It was not trained to overlook turns this large, so it does not.";
  const pixels = Math.max(1, Math.round(S * Math.sqrt(s.min_crop_scale)));
  if (s.min_crop_scale < 0.05) return `Some crops are ${pixels} pixels wide: hardly a stroke.`;
  if (s.blur_prob > 0.5 && S < 30) return "The blur reaches over three pixels only, at this size: hardly a change.";
  return "";
}

// ---- Drawing.

function paint(canvas, bytes, C, S) {               // one picture, one canvas pixel for each of its own
  const area = S * S, image = new ImageData(S, S);
  for (let k = 0; k < area; k++) image.data.set([bytes[k], bytes[(C > 1 ? area : 0) + k], bytes[(C > 1 ? 2 * area : 0) + k], 255], 4 * k);
  Object.assign(canvas, { width: S, height: S }).getContext("2d").putImageData(image, 0, 0);
}

function outline(context, box, angle, zoom, size) { // a crop, in the turned picture, on the picture as it is
  const [top, left, height, width] = box, middle = (size * zoom) / 2;
  context.save();
  context.translate(middle, middle);
  context.rotate((angle * Math.PI) / 180);
  context.strokeRect(left * zoom - middle, top * zoom - middle, width * zoom, height * zoom);
  context.restore();
}

function paintOriginal(canvas, lab, image, draws, colours) {
  const [, C, S] = lab.x.shape, zoom = Math.ceil(448 / S), small = h("canvas"), context = canvas.getContext("2d");
  paint(small, tile(lab, image), C, S);
  Object.assign(canvas, { width: S * zoom, height: S * zoom });
  Object.assign(context, { imageSmoothingEnabled: false }).drawImage(small, 0, 0, S * zoom, S * zoom);
  draws.forEach((draw, k) => {
    for (const [style, width] of [["#ffffff", 13], [colours[k], 8]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: width }).setLineDash(k ? [26, 14] : []);
      outline(context, draw.box, draw.angle, zoom, S);
    }
  });
}

function dot(context, x, y, kind) {                 // a filled disc, a ring, or a diamond
  context.beginPath();
  if (kind === "diamond") for (const [dx, dy] of [[0, -6], [6, 0], [0, 6], [-6, 0]]) context.lineTo(x + dx, y + dy);
  else context.arc(x, y, 4.5, 0, 2 * Math.PI);
  context.closePath();
  if (kind === "ring") context.stroke();
  else context.fill();
}

function paintRow(context, values, kinds, y, colour, toX) {
  Object.assign(context, { fillStyle: colour, strokeStyle: colour, lineWidth: 2, globalAlpha: 0.75 });
  values.forEach((v, k) => dot(context, toX(v), y + ((k * 5) % 8) * 4 - 14, kinds[k]));
  context.globalAlpha = 1;
  const mean = toX(average(values));
  context.fillRect(mean - 1.5, y - 24, 3, 48);
}

function paintPlot(canvas, rows, low, style) {
  const scale = devicePixelRatio || 1, width = canvas.clientWidth || 320, height = 176, left = 14, context = canvas.getContext("2d");
  Object.assign(canvas, { width: width * scale, height: height * scale });
  context.scale(scale, scale);
  const toX = (v) => left + ((Math.max(v, low) - low) / (1 - low)) * (width - 2 * left);
  Object.assign(context, { font: "12px system-ui, sans-serif", textAlign: "center", strokeStyle: style.line, fillStyle: style.soft });
  for (const v of low < 0 ? [-1, -0.5, 0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]) {
    context.strokeRect(toX(v), 8, 0, height - 32);
    context.fillText(`${v}`.replace("-", "−"), toX(v), height - 6);
  }
  rows.forEach(({ values, kinds, colour }, k) => values.length && paintRow(context, values, kinds, 40 + 74 * k, colour, toX));
}

// ---- The parts of the page.

const className = (label, classes, before) => (label < 0 ? "" : `${before}${classes[label] ?? label}`);

function thumbnails(lab, classes, choose) {
  const [, C, S] = lab.x.shape;
  return Array.from({ length: lab.x.shape[0] }, (_, i) => {
    const canvas = h("canvas", { "aria-hidden": "true" }), name = `picture ${i + 1}${className(lab.y[i], classes, ", class ")}`;
    paint(canvas, tile(lab, i), C, S);
    return h("button", { type: "button", className: "thumb", title: name, "aria-label": name, onclick: () => choose(i) }, canvas);
  });
}

function sliders(model, colour, set) {
  return SLIDERS.map(([name, label, min, max, step, say]) => {
    const idle = name === "grey_prob" && !colour, shown = h("output", {});
    const oninput = () => set({ [name]: input.valueAsNumber });
    const input = h("input", { type: "range", min, max, step, disabled: idle, name, "aria-label": label, oninput });
    const show = () => {
      const value = model.get(name);
      input.value = value;
      shown.textContent = idle ? "no colour" : say(value);
      input.setAttribute("aria-valuetext", shown.textContent);
    };
    show();
    return { show, element: h("label", { className: "slider" }, h("span", {}, label), input, shown) };
  });
}

function caption({ box, flip, jitter, grey, sigma, angle }, S, C) {
  const signed = (v) => v.toFixed(2), parts = [`${Math.round((100 * box[2] * box[3]) / (S * S))} % of it`];
  if (Math.abs(angle) >= 0.5) parts.push(`turned ${Math.abs(angle).toFixed(0)}° ${angle > 0 ? "left" : "right"}`);
  if (flip) parts.push("mirrored");
  if (jitter.some((v, k) => v !== (k < 3 ? 1 : 0))) parts.push(`brightness ×${signed(jitter[0])}, contrast ×${signed(jitter[1])}`);
  if (C === 3 && jitter[2] !== 1) parts.push(`saturation ×${signed(jitter[2])}, hue ${(360 * jitter[3]).toFixed(0)}°`);
  if (grey && C === 3) parts.push("greyed");
  if (sigma) parts.push(`blur ${sigma.toFixed(1)} px`);
  return parts.join(", ");
}

function figure(title, className, pixelated) {
  const canvas = h("canvas", { role: "img", className: pixelated ? "pixels" : "" }), text = h("span", { className: "soft" });
  return { canvas, text, element: h("figure", { className }, canvas, h("figcaption", {}, h("strong", {}, title), " ", text)) };
}

const button = (text, onclick) => h("button", { type: "button", onclick }, text);
const EASY = { min_crop_scale: 1, jitter_strength: 0, grey_prob: 0, blur_prob: 0, rotate_degrees: 0, flip_prob: 0 };
const WILD = { min_crop_scale: 0.02, jitter_strength: 2, grey_prob: 0.5, blur_prob: 1, rotate_degrees: 180, flip_prob: 0.5 };

function build(model, lab, choose, set, pickKind) {
  const { trained, classes, head } = lab.meta, thumbs = thumbnails(lab, classes, choose);
  const controls = sliders(model, lab.x.shape[1] === 3, set);
  const figures = [figure("picture", "original", false), figure("view 1", "one", true), figure("view 2", "two", true)];
  const number = h("p", { className: "number" }), plot = h("canvas", { role: "img", className: "plot" });
  const status = h("p", { className: "status", "aria-live": "polite" });
  const names = { h: "h, what the encoder says", z: "z, what the loss sees" };
  const kinds = (head ? ["h", "z"] : ["h"]).map((kind) => Object.assign(button(names[kind], () => pickKind(kind)), { value: kind }));
  const presets = [button("draw again", () => set({ seed: model.get("seed") + 1 })),
    trained && button("as in training", () => set(trained)),
    button("no change at all", () => set(EASY)), button("all at their ends", () => set(WILD))];
  const alike = classes.length ? " ◆ of another of the same class" : "";
  const legend = h("p", { className: "legend" }, h("span", { className: "one" }, "● two views of this picture"), " ",
    h("span", { className: "two" }, `○ one of it, one of another picture${alike}`), h("span", { className: "soft" }, " | mean"));
  const root = h("div", { className: "simclr studio" },
    h("div", { className: "thumbs", role: "group", "aria-label": "pictures" }, ...thumbs),
    h("div", { className: "work" },
      h("div", { className: "controls" }, ...controls.map((c) => c.element), h("div", { className: "bar" }, ...presets)),
      h("div", { className: "stage" }, h("div", { className: "figures" }, ...figures.map((f) => f.element)), number,
        h("div", { className: "bar", role: "group", "aria-label": "features" }, "cosines of", ...kinds), plot, legend), status));
  return { root, thumbs, controls, figures, number, plot, status, kinds };
}

function showViews(parts, lab, image, draws, bytes, colours) {
  const [, C, S] = lab.x.shape, [original, ...views] = parts.figures;
  paintOriginal(original.canvas, lab, image, draws, colours);
  original.canvas.setAttribute("aria-label", parts.thumbs[image].title + ", with both crops");
  original.text.textContent = className(lab.y[image], lab.meta.classes, "class ");
  views.forEach((view, k) => {
    paint(view.canvas, bytes[k], C, S);
    view.text.textContent = caption(draws[k], S, C);
    view.canvas.setAttribute("aria-label", `view ${k + 1}: ${view.text.textContent}`);
  });
}

const say = (v) => v.toFixed(2).replace("-", "−");

function showNumbers(parts, lab, found, kind, settings, done) {
  const { same, other } = found[kind], wins = winRate(same, other);
  parts.number.replaceChildren("cosine of the two views: ", h("strong", { className: "cosine" }, say(found.h.same[0])), " in h",
    ...(found.z ? [", ", h("strong", { className: "cosine" }, say(found.z.same[0])), " in z"] : []));
  if (!done) return;
  const [ours, theirs] = [same, other].map((v) => `${say(average(v))} ± ${say(spread(v))}`);
  const counts = `${ours} for two views of this picture, ${theirs} for views of two pictures`;
  parts.plot.setAttribute("aria-label", `two rows of ${PAIRS} cosines of ${kind}: ${counts}`);
  const score = `The partner is the more alike in ${percent(wins)} of comparisons (chance 50 %).`, [, C, S] = lab.x.shape;
  const late = found.late ? "The kernel does not answer in time: these are numbers of the page, whose encoder is rounded. " : "";
  parts.status.textContent = `${late}Cosines of ${kind}: ${counts}. ${score} `
    + `${verdict(same, other, settings, C)} ${remark(settings, lab.meta.trained, S)}`;
}

// The 32 triples for the settings as they are, a few at a time; `each` gets every answer and whether the page stood in for the kernel, and
// returns true to stop.
async function measure(lab, ask, question, chunk, each) {
  for (let start = 0, stop = 1, late = false; start < PAIRS;) {
    const pairs = Array.from({ length: stop - start }, (_, k) => [[3 * k, 3 * k + 1], [3 * k, 3 * k + 2]]).flat();
    const part = { images: question.images.slice(3 * start, 3 * stop), draws: question.draws.slice(3 * start, 3 * stop) };
    const answer = await ask({ ...part, pairs, show: start ? [] : [0, 1] });
    if (answer.page) {
      [ask, chunk, stop, late] = [answer.page, CHUNK, Math.min(stop, start + CHUNK), true];
      continue;
    }
    if (each(answer, start, stop, late)) return false;
    [start, stop] = [stop, Math.min(PAIRS, stop + chunk)];
    await new Promise((next) => setTimeout(next));  // let the page breathe
  }
  return true;
}

function drawAll(parts, lab, state, settings, done) {
  parts.kinds.forEach((b) => b.setAttribute("aria-pressed", String(b.value === state.kind)));
  if (!state.found) return;
  const css = getComputedStyle(parts.root), ink = (name) => css.getPropertyValue(name).trim();
  const { same, other } = state.found[state.kind], mine = lab.y[state.image];
  const kinds = state.others.map((i) => (mine >= 0 && lab.y[i] === mine ? "diamond" : "ring"));
  const rows = [{ values: same, kinds: same.map(() => "disc"), colour: ink("--one") }, { values: other, kinds, colour: ink("--two") }];
  paintPlot(parts.plot, rows, state.kind === "h" ? 0 : -1, { line: ink("--line"), soft: ink("--soft") });
  showViews(parts, lab, state.image, state.draws, state.views, [ink("--one"), ink("--two")]);
  showNumbers(parts, lab, state.found, state.kind, settings, done && same.length === PAIRS);
}

async function render({ model, el }) {
  const lab = unpack(model.get("blob")), kernel = model.get("live") ? kernelEngine(model, lab) : null, ask = kernel?.ask ?? pageEngine(lab);
  const state = { kind: lab.meta.head ? "z" : "h", run: 0, due: false, found: null }, names = [...SETTINGS, "image", "seed"];
  const set = (values) => {
    for (const [key, value] of Object.entries(values)) model.set(key, value);
    model.save_changes();
  };
  const settings = () => Object.fromEntries(SETTINGS.map((name) => [name, model.get(name)]));
  const draw = (done = true) => drawAll(parts, lab, state, settings(), done);
  const parts = build(model, lab, (i) => set({ image: i }), set, (kind) => { state.kind = kind; draw(); });
  async function refresh() {
    const run = ++state.run, [count, , size] = lab.x.shape, image = Math.min(model.get("image"), count - 1);
    const question = plan(settings(), image, model.get("seed"), count, size);
    parts.controls.forEach((control) => control.show());
    parts.thumbs.forEach((thumb, i) => thumb.setAttribute("aria-pressed", String(i === image)));
    parts.root.dataset.busy = "yes";
    const all = await measure(lab, ask, question, kernel ? PAIRS : CHUNK, (answer, start, stop, late) => {
      if (run !== state.run) return true;           // a slider has moved on
      if (!start) {
        const found = { h: { same: [], other: [] }, z: answer.z && { same: [], other: [] } };
        const others = question.images.filter((_, k) => k % 3 === 2);
        Object.assign(state, { found, others, image, draws: question.draws.slice(0, 2), views: answer.views });
      }
      state.found.late = late;
      for (const kind of ["h", "z"]) answer[kind]?.forEach((v, k) => state.found[kind][k % 2 ? "other" : "same"].push(v));
      draw(stop === PAIRS);
      return false;
    });
    if (all) delete parts.root.dataset.busy;
  }
  const changed = () => {                           // several changes at once are one
    if (state.due) return;
    state.due = true;
    setTimeout(() => {
      state.due = false;
      refresh().catch((error) => { parts.status.textContent = `No answer: ${error.message}`; });
    });
  };
  for (const name of names) model.on(`change:${name}`, changed);
  el.replaceChildren(parts.root);
  const endTheme = followTheme(parts.root, () => draw()), watch = new ResizeObserver(() => draw());
  watch.observe(parts.plot);
  changed();
  return () => {
    state.run++;
    for (const name of names) model.off(`change:${name}`, changed);
    kernel?.free();
    watch.disconnect();
    endTheme();
  };
}

export default { render };
