// Draws the figures that the notebooks saved as data, in the page's colours, again when the reader switches them.
(() => {
  const dark = () => [document.body, document.documentElement].some(e => e.classList.contains("quarto-dark"));
  const colours = () => {
    const ink = dark() ? "#e4e4e4" : "#222222", grid = dark() ? "#4a4a4a" : "#dddddd";
    return {grid, layout: {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": ink}};
  };
  const axes = (figure, {grid}) => Object.fromEntries(Object.keys(figure.layout).filter(k => /^[xy]axis\d*$/.test(k))
    .flatMap(k => [[`${k}.gridcolor`, grid], [`${k}.linecolor`, grid], [`${k}.zerolinecolor`, grid]]));
  const draw = async box => {
    const figure = JSON.parse(box.querySelector("script").textContent);
    const plot = box.querySelector("div");
    await Plotly.newPlot(plot, figure.data, figure.layout, {responsive: true, displaylogo: false});
    const repaint = () => { const c = colours(); Plotly.relayout(plot, {...c.layout, ...axes(figure, c)}); };
    repaint();
    new MutationObserver(repaint).observe(document.body, {attributes: true, attributeFilter: ["class"]});
    new MutationObserver(repaint).observe(document.documentElement, {attributes: true, attributeFilter: ["class"]});
  };
  const near = new IntersectionObserver(entries => entries.filter(e => e.isIntersecting).forEach(e => { near.unobserve(e.target); draw(e.target); }), {rootMargin: "400px"});
  document.querySelectorAll(".plotly-figure").forEach(box => near.observe(box));
})();
