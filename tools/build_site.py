"""Builds the site in _docs: python tools/build_site.py

Quarto renders it where it is installed; elsewhere smalldocs does, from the same pages, and formulas become MathML here.
Both get nbdev's processed notebooks, in which figures saved as data are drawn by one shared plotly.min.js.
"""
import html
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import yaml

from notebooks import ROOT

DOCS = ROOT / "_docs"
FIGURE = "application/vnd.plotly.v1+json"
LOAD = '<script src="plotly.min.js" defer></script><script src="figures.js" defer></script>'
MATH = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
KATEX = re.compile(r'<(?:link|script)[^>]*katex[^>]*>(?:</script>)?')
FONTS = re.compile(r"@import\s*url\(https?://[^)]*\)\s*;")            # the themes' web fonts; the fallback is the reader's own
LINK = re.compile(r"\]\((\d+[a-z]*_\w+)\.ipynb")


def figure_html(figure, first, picture=None):
    "A figure's data in a box, and its picture for where no JavaScript runs; the page's first one also loads what draws it."
    data = json.dumps({"data": figure["data"], "layout": figure.get("layout", {})}, separators=(",", ":")).replace("</", "<\\/")
    height = int(figure.get("layout", {}).get("height") or 450)
    box = f'<div class="plotly-figure"><div style="height:{height}px"></div><script type="application/json">{data}</script></div>'
    image = f'<img src="data:image/png;base64,{"".join(picture.split())}" alt="{html.escape(title(figure))}">' if picture else ""
    still = f"<noscript><style>.plotly-figure{{display:none}}</style>{image}</noscript>" if picture else ""
    return (LOAD if first else "") + box + still


def title(figure):
    "What a figure claims: its title, or its first panel's."
    layout = figure.get("layout", {})
    named = layout.get("title", "")
    named = named.get("text", "") if isinstance(named, dict) else named
    return named or next((note["text"] for note in layout.get("annotations", []) if note.get("text")), "figure")


def dress(path):
    "Turn the figures of a processed notebook into HTML and drop widget state, in place; doing it twice changes nothing."
    nb = nbformat.read(path, 4)
    nb.metadata.pop("widgets", None)
    first = not any(LOAD in output.get("data", {}).get("text/html", "") for cell in nb.cells for output in cell.get("outputs", []))
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get(FIGURE)
            if figure is None: continue
            output.data, first = {"text/html": figure_html(figure, first, output.data.get("image/png"))}, False
    nbformat.write(nb, path)


def page_name(stem): return re.sub(r"^\d+[a-zA-Z0-9]*_", "", stem)


def stage(processed, folder):
    "What smalldocs renders: pages under their final names, links between them relative, one configuration file."
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(processed, folder, ignore=shutil.ignore_patterns(".*", "_docs"))
    config = yaml.safe_load((folder / "_quarto.yml").read_text(encoding="utf-8"))
    extra = yaml.safe_load((folder / "nbdev.yml").read_text(encoding="utf-8"))
    site_url = extra["website"]["site-url"] + "/"
    for path in folder.glob("*.ipynb"):
        text = LINK.sub(lambda m: f"]({page_name(m.group(1))}.ipynb", path.read_text(encoding="utf-8").replace(site_url, ""))
        path.unlink()
        (folder / f"{page_name(path.stem)}.ipynb").write_text(text, encoding="utf-8")
    for key in ("metadata-files", "bibliography", "link-citations"): config.pop(key, None)
    for key in ("html-math-method", "citations-hover", "footnotes-hover"): config["format"]["html"].pop(key, None)
    config["website"] |= extra["website"]
    config["project"]["output-dir"] = "_docs"
    parts = config["website"]["sidebar"]["contents"]
    pages = {p.name for p in folder.glob("*.ipynb")}
    for part in [dict(contents=parts), *[part for part in parts if isinstance(part, dict)]]:
        named = [page if isinstance(page, dict) else f"{page_name(Path(page).stem)}.ipynb" for page in part["contents"]]
        part["contents"][:] = [page for page in named if isinstance(page, dict) or page in pages]
    (folder / "nbdev.yml").unlink()
    (folder / "_quarto.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def mathml(match):
    from latex2mathml.converter import convert
    return convert(html.unescape(match.group(2)), display=dict(inline="inline", display="block")[match.group(1)])


def finish(page):
    "Formulas as MathML, so that the page needs no network to show them."
    text = page.read_text(encoding="utf-8")
    page.write_text(MATH.sub(mathml, KATEX.sub("", text)), encoding="utf-8")


def render_with_smalldocs(processed):
    try: from smalldocs.site import build
    except ImportError: raise SystemExit("without Quarto the site needs Python 3.11 or newer") from None
    folder = processed / ".staged"
    stage(processed, folder)
    site = build(folder, quiet=True)
    for warning in site.warnings:
        if "output-file" not in warning: print(f"docs: {warning}", file=sys.stderr)
    for page in (folder / "_docs").rglob("*.html"): finish(page)
    for style in (folder / "_docs").rglob("*.css"): style.write_text(FONTS.sub("", style.read_text(encoding="utf-8")), encoding="utf-8")
    return folder / "_docs"


def render_with_quarto(processed):
    from nbdev.quarto_render import render_quarto
    render_quarto(processed, processed / "_docs")
    return processed / "_docs"


def main():
    import plotly
    from nbdev.serve import proc_nbs
    processed = proc_nbs(str(ROOT / "nbs"))
    shutil.copy(Path(plotly.__file__).parent / "package_data/plotly.min.js", processed)
    for path in processed.glob("*.ipynb"): dress(path)
    built = (render_with_quarto if shutil.which("quarto") else render_with_smalldocs)(processed)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(built, DOCS)
    print(f"{DOCS.relative_to(ROOT)}/index.html" if (DOCS / "index.html").exists() else f"{DOCS.relative_to(ROOT)}/", "is ready")


if __name__ == "__main__": sys.exit(main())
