// Draws the figures that the notebooks saved as data: in the page's colours, again when the reader switches them,
// with titles broken to fit. Tells the widgets in frames whether the page is dark.
(() => {
  const root = document.documentElement;
  const dark = () => [document.body, root].some(e => e.classList.contains("quarto-dark"));
  const same = new Set(["colorscale", "x", "y", "z", "source", "text", "customdata", "templateitemname"]);

  // A grey too dark to see on a dark page becomes one as light; other colours stay.
  const lighter = colour => {
    const hex = {black: "000000"}[colour] || (/^#([\da-f]{3}|[\da-f]{6})$/i.exec(colour) || [])[1];
    if (!hex) return colour;
    const [r, g, b] = (hex.length === 3 ? [...hex].map(c => c + c) : hex.match(/../g)).map(c => parseInt(c, 16));
    const grey = Math.max(r, g, b) - Math.min(r, g, b) < 32 && Math.max(r, g, b) < 140;
    return grey ? `rgb(${[r, g, b].map(v => Math.round(230 - v / 2)).join()})` : colour;
  };
  const repaint = (node, key = "") => {
    if (Array.isArray(node)) return node.map(n => repaint(n, key));
    if (node && typeof node === "object") {
      return Object.fromEntries(Object.entries(node).map(([k, v]) => [k, same.has(k) ? v : repaint(v, k)]));
    }
    if (typeof node !== "string" || !key.endsWith("color")) return node;
    if (key === "bgcolor") return "rgba(34,34,34,.85)";
    return lighter(node);
  };

  // Text broken into lines of at most so many letters; tags count for nothing.
  const wrap = (text, most) => String(text).split(/<br ?\/?>/).map(line => line.split(" ").reduce((lines, word) => {
    const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
    const fits = longer.replace(/<[^>]*>/g, "").length <= most;
    return fits || !lines.length ? [...lines.slice(0, -1), longer] : [...lines, word];
  }, []).join("<br>")).join("<br>");
  const lines = text => text.split("<br>").length;

  const fit = (layout, shown) => {
    const title = typeof layout.title === "string" ? {text: layout.title} : {...layout.title};
    const heads = (layout.annotations || []).filter(a => a.yanchor === "bottom" && a.xanchor === "center" && a.xref === "paper" && !a.showarrow);
    const columns = new Set(heads.map(a => Math.round(a.x * 50))).size;
    const room = Math.max(shown, columns > 1 ? 200 * columns : 0);          // panels keep their width; on a telephone they scroll
    const width = layout.width = Math.min(layout.width || room, room);
    heads.forEach(a => { a.text = wrap(a.text, Math.max(8, 0.85 * width / columns / 8.6)); });
    if (title.text) title.text = wrap(title.text, Math.max(12, (Math.min(width, shown) - 60) / ((title.font || {}).size || 17) / 0.54));
    const more = 24 * (title.text ? lines(title.text) - 1 : 0) + 18 * (heads.length ? Math.max(...heads.map(a => lines(a.text))) - 1 : 0);
    if (more) {
      layout.margin = {...layout.margin, t: ((layout.margin || {}).t ?? 100) + more};
      layout.height = (layout.height || 450) + more;
    }
    layout.title = title;
  };

  const colour = ({data, layout}) => {
    const ink = dark() ? "#e4e4e4" : "#222222", grid = dark() ? "#4a4a4a" : "#dddddd";
    Object.keys(layout).filter(k => /^[xy]axis\d*$/.test(k)).forEach(k => {
      layout[k] = {...layout[k], gridcolor: grid, linecolor: grid, zerolinecolor: grid};
    });
    (layout.shapes || []).forEach(shape => { shape.line = {color: ink, ...shape.line}; });
    data.filter(d => d.type === "bar" && d.error_y).forEach(d => { d.error_y = {color: ink, ...d.error_y}; });
    const clear = "rgba(0,0,0,0)";
    Object.assign(layout, {paper_bgcolor: clear, plot_bgcolor: clear, font: {...layout.font, color: ink}});
    Object.assign(layout, {modebar: {bgcolor: clear, color: ink}, uirevision: "keep"});
  };

  const draw = box => {
    const saved = box.querySelector("script").textContent, plot = box.querySelector("div");
    let drawn = "";
    const show = () => {
      const now = `${box.clientWidth} ${dark()}`;
      if (now === drawn || !box.clientWidth) return;
      drawn = now;
      const figure = dark() ? repaint(JSON.parse(saved)) : JSON.parse(saved);
      fit(figure.layout, box.clientWidth);
      colour(figure);
      plot.style.height = `${figure.layout.height || 450}px`;
      Plotly.react(plot, figure.data, figure.layout, {displaylogo: false});
    };
    show();
    addEventListener("simclr-theme", show);
    new ResizeObserver(show).observe(box);
  };
  const near = new IntersectionObserver(entries => entries.filter(e => e.isIntersecting).forEach(e => {
    near.unobserve(e.target);
    draw(e.target);
  }), {rootMargin: "400px"});
  document.querySelectorAll(".plotly-figure").forEach(box => near.observe(box));

  const frames = [...document.querySelectorAll("iframe.widget")];
  const tell = frame => frame.contentWindow && frame.contentWindow.postMessage({simclrTheme: dark() ? "dark" : "light"}, "*");
  frames.forEach(frame => frame.addEventListener("load", () => tell(frame)));
  addEventListener("message", ({source, data}) => {
    const frame = frames.find(frame => frame.contentWindow === source);
    if (frame && data?.simclrHeight > 0) frame.style.height = `${Math.min(Math.ceil(data.simclrHeight) + 4, 3000)}px`;
  });
  let was = null;
  const switched = () => {
    if (dark() === was) return;
    was = dark();
    dispatchEvent(new Event("simclr-theme"));
    frames.forEach(tell);
  };
  switched();
  [document.body, root].forEach(e => new MutationObserver(switched).observe(e, {attributes: true, attributeFilter: ["class"]}));
})();
