// Shared by all widgets of simclr; their Python side puts it in front of the widget's own file.

const KINDS = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array, i2: Int16Array, i4: Int32Array };

// What simclr.widget.pack wrote: {meta, name: typed array with a .shape, …}. Takes an ArrayBuffer, a DataView or a Uint8Array.
function unpack(bytes) {
  const view = bytes.buffer ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : new Uint8Array(bytes);
  const buffer = view.slice().buffer;
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = Object.entries(head.arrays).map(([name, [kind, shape, start]]) => {
    const array = new KINDS[kind](buffer, start, shape.reduce((a, b) => a * b, 1));
    return [name, Object.assign(array, { shape })];
  });
  return { meta: head.meta, ...Object.fromEntries(arrays) };
}

// What takes keys keeps them: JupyterLab would use the arrows to collapse headings before a slider sees them.
const KEYED = ["button", "canvas", "input", "select"];

// An element with properties, attributes (names with a dash, or role) and children. Text stays text: nothing is parsed as HTML.
function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key === "style") Object.assign(element.style, value);
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && !key.includes("-")) element[key] = value;
    else element.setAttribute(key, value);
  }
  if (KEYED.includes(tag)) element.setAttribute("data-lm-suppress-shortcuts", "true");
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Whether the page behind an element is dark: the first background that is not see-through decides, else the reader's setting.
function isDark(element) {
  for (let node = element; node; node = node.parentElement) {
    const [r, g, b, a = 1] = (getComputedStyle(node).backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
    if (b !== undefined && a > 0.5) return 0.299 * r + 0.587 * g + 0.114 * b < 128;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

// Keep the class `dark` on a widget's root in step with the page; `changed` is called after each switch. Returns what ends it.
function followTheme(root, changed) {
  const check = () => {
    const dark = isDark(root.parentElement ?? document.body);
    if (root.classList.contains("dark") === dark && root.dataset.themed) return;
    root.dataset.themed = "yes";
    root.classList.toggle("dark", dark);
    changed?.(dark);
  };
  const watch = new MutationObserver(() => setTimeout(check, 50));
  for (const node of [document.documentElement, document.body]) watch.observe(node, { attributes: true });
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", check);
  requestAnimationFrame(check);
  return () => { watch.disconnect(); media.removeEventListener("change", check); };
}

// One sheet of equal tiles as an address for CSS and an image for canvas. Returns {url, image, place(i) -> [left, top], free()}.
async function spriteSheet(bytes, tile, columns) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
  const image = new Image();
  image.src = url;
  await image.decode();
  return { url, image, place: (i) => [(i % columns) * tile, Math.floor(i / columns) * tile], free: () => URL.revokeObjectURL(url) };
}

// One tile of a sheet as an element, `size` pixels wide.
function tileOf(sheet, tile, columns, i, size, label) {
  const [left, top] = sheet.place(i), zoom = size / tile;
  return h("span", { className: "tile", role: "img", "aria-label": label, title: label, style: {
    width: `${size}px`, height: `${size}px`, backgroundImage: `url("${sheet.url}")`,
    backgroundSize: `${columns * size}px auto`, backgroundPosition: `${-left * zoom}px ${-top * zoom}px`,
  } });
}

// What anywidget's model is in a notebook, for a page without a kernel.
function localModel(state) {
  const heard = {};
  return {
    get: (key) => state[key],
    set(key, value) { if (state[key] !== value) { state[key] = value; (heard[`change:${key}`] ?? []).forEach((f) => f()); } },
    on(event, f) { (heard[event] ??= []).push(f); },
    off(event, f) { heard[event] = (heard[event] ?? []).filter((g) => f && g !== f); },
    save_changes() {}, send() {},
  };
}

// Start a widget on a page that `StaticWidget.save` wrote. A page around it may say which theme it has, and is told how tall this one is.
async function boot(render) {
  const text = (id) => document.getElementById(id).textContent;
  const themes = ["dark", "light"];
  addEventListener("message", ({ data: { simclrTheme } = {} }) => {
    if (themes.includes(simclrTheme)) document.documentElement.dataset.theme = simclrTheme;
  });
  const zipped = Uint8Array.from(atob(text("blob")), (c) => c.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const state = { ...JSON.parse(text("state")), blob: new Uint8Array(await new Response(stream).arrayBuffer()), live: false };
  await render({ model: localModel(state), el: document.getElementById("widget") });
  document.documentElement.dataset.ready = "yes";
  const tall = () => parent.postMessage({ simclrHeight: document.documentElement.scrollHeight }, "*");
  if (parent !== window) new ResizeObserver(tall).observe(document.body);
}
