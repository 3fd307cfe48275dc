"""Put a PNG beside each plotly figure of some notebooks, for where no JavaScript runs: python tools/pictures.py NOTEBOOK ...

Needs Chromium (CHROMIUM names it, else the one on the PATH) and Playwright. A figure that has its picture already is left alone.
"""
import base64
import hashlib
import io
import json
import sys
from pathlib import Path

import nbformat
from PIL import Image, PngImagePlugin

from chromium import chromium

FIGURE, WIDTH = "application/vnd.plotly.v1+json", 960
DRAW = """async ([figure, width, height]) => {
  const box = document.body.appendChild(document.createElement("div"));
  await Plotly.newPlot(box, figure.data, {...figure.layout, width, height}, {staticPlot: true});
  return Plotly.toImage(box, {format: "png", width, height});
}"""


def bundles(nb):
    "The outputs of a notebook that hold a figure."
    return [output for cell in nb.cells for output in cell.get("outputs", []) if FIGURE in output.get("data", {})]


def digest(figure): return hashlib.sha256(json.dumps(figure, sort_keys=True).encode()).hexdigest()[:16]


def small_png(url, mark):
    "A picture of the 64 colours that cover all (the usual ones would lose a rare line's) with a mark, as base64, from a data URL."
    image, out, note = Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB"), io.BytesIO(), PngImagePlugin.PngInfo()
    note.add_text("figure", mark)
    image.quantize(64, Image.Quantize.MAXCOVERAGE).save(out, "png", optimize=True, pnginfo=note)
    return base64.b64encode(out.getvalue()).decode()


def up_to_date(output):
    "Whether a figure has a picture, drawn from just this figure."
    png = output.data.get("image/png")
    return bool(png) and Image.open(io.BytesIO(base64.b64decode(png))).text.get("figure") == digest(output.data[FIGURE])


def add_pictures(path, page):
    "Draw the figures of a notebook that have no picture, or an old one; the number drawn."
    nb, drawn = nbformat.read(path, 4), 0
    for output in bundles(nb):
        if up_to_date(output): continue
        figure, drawn = output.data[FIGURE], drawn + 1
        layout = figure.get("layout", {})
        url = page.evaluate(DRAW, [dict(data=figure["data"], layout=layout), WIDTH, int(layout.get("height") or 450)])
        output.data["image/png"] = small_png(url, digest(figure))
    if drawn: nbformat.write(nb, path)
    return drawn


def main(paths):
    import plotly
    with chromium() as browser:
        page = browser.new_page()
        page.add_script_tag(path=Path(plotly.__file__).parent / "package_data/plotly.min.js")
        for path in paths: print(path, add_pictures(path, page), "drawn")


if __name__ == "__main__": main(sys.argv[1:])
