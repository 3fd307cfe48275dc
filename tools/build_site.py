"""Builds the site in _docs, or in another folder: python tools/build_site.py [FOLDER [quarto|smalldocs]]

Quarto renders it where it is installed, unless told otherwise; elsewhere smalldocs does, from the same pages; formulas become MathML here.
Both get nbdev's processed notebooks, in which citations are links and figures saved as data are drawn by one shared plotly.min.js.
"""
import html
import io
import json
import re
import shutil
import sys
import tempfile
import tokenize
from pathlib import Path

import nbformat
import yaml

from citations import cite_notebook, entries
from notebooks import ROOT

DOCS = ROOT / "_docs"
FIGURE = "application/vnd.plotly.v1+json"
LOAD = '<script src="plotly.min.js" defer></script><script src="figures.js" defer></script>'
FRAMES = '<script src="figures.js" defer></script>'                        # tells widgets their theme and gives them their height
NO_FRAME = "<style>iframe.widget{display:none}</style>"                  # a widget without JavaScript is an empty box
MATH = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
KATEX = re.compile(r'<(?:link|script)[^>]*katex[^>]*>(?:</script>)?')
FONTS = re.compile(r"@import\s*url\(https?://[^)]*\)\s*;")            # the themes' web fonts; the fallback is the reader's own
LINK = re.compile(r'(\]\(|href=\\?")(\d+[a-z]*_\w+)\.ipynb')             # in Markdown, or in HTML inside a notebook's JSON
METHOD = re.compile(r"(/simclr/\w+\.html#\w+)\.\w+(?=[)\"])")             # nbdev links a method to an anchor of its own; its class has one
WORD = re.compile(r"\[`(train|pick|rotate)`\]\([^)]*\)")                  # a part of the data, a trait, torchvision's; nbdev links ours
FORMULA = re.compile(r"^(```|~~~).*?^\1|\$\$.+?\$\$", re.S | re.M)
SUMMARY = re.compile(r'(<meta (?:name="description"|property="og:description") content=")([^"]*)"')
FETCH = "const r = await fetch(offset + \"search.json\");\n      index = await r.json();"
SCRIPT = """index = await new Promise((done, failed) => {
        const s = document.createElement("script");
        Object.assign(s, { src: offset + "search.js", onload: () => done(window.searchIndex), onerror: failed });
        document.head.append(s);
      });"""


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


def table_html(text, most=80):
    "Printed columns, too long for the page: in letters so small that they fit, or else to be scrolled. None where lines may break."
    lines = text.rstrip("\n").split("\n")
    long = [len(line) for line in lines if len(line) > most]
    if len(long) < 2 or 2 * len(long) < len(lines): return None
    return f'<div class="columns"><pre tabindex="0" style="--columns: {max(long)}">{html.escape(chr(10).join(lines))}</pre></div>'


def closer(source, most=84):
    "Code in which a comment far to the right of a long line stands two spaces behind it, so that the page need not break the line."
    if not any(len(line) > most for line in source.splitlines()) or source.lstrip().startswith("%"): return source
    lines = source.split("\n")
    try: tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError): return source
    for row, column, text in [(*token.start, token.string) for token in tokens if token.type == tokenize.COMMENT]:
        code = lines[row - 1][:column].rstrip()
        if code and len(lines[row - 1]) > most: lines[row - 1] = f"{code}  {text}"
    return "\n".join(lines)


def one_line(match):
    "A displayed formula on one line, for a line that begins with + would start a list; code stays."
    return match.group() if match.group(1) else " ".join(match.group().split())


def right_links(text):
    "Markdown in which no word links to a function that it does not mean, and no method to an anchor that is not there."
    return METHOD.sub(r"\1", WORD.sub(r"`\1`", text))


def dress(path, library=None):
    "Turn a processed notebook's figures and wide tables into HTML, link its citations, drop widget state, in place; twice changes nothing."
    nb = nbformat.read(path, 4)
    nb.metadata.pop("widgets", None)
    if library: cite_notebook(nb, library)
    first = not any(LOAD in output.get("data", {}).get("text/html", "") for cell in nb.cells for output in cell.get("outputs", []))
    for cell in nb.cells:
        if '<iframe class="widget"' in cell.source: cell.source = cell.source.replace("<noscript><img", f"<noscript>{NO_FRAME}<img")
        if cell.cell_type == "markdown": cell.source = right_links(FORMULA.sub(one_line, cell.source))
        if cell.cell_type == "code": cell.source = closer(cell.source)
        for k, output in enumerate(cell.get("outputs", [])):
            shown = output.get("data") or {"text/plain": output.get("text", "")}
            table = table_html("".join(shown["text/plain"])) if set(shown) == {"text/plain"} else None
            if table: cell.outputs[k] = nbformat.v4.new_output("display_data", {"text/html": table})
            if "text/markdown" in shown: shown["text/markdown"] = right_links("".join(shown["text/markdown"]).replace("__main__.", ""))
            figure = shown.get(FIGURE)
            if figure is None: continue
            output.data, first = {"text/html": figure_html(figure, first, output.data.get("image/png"))}, False
    framed = [cell for cell in nb.cells if '<iframe class="widget"' in cell.source]
    if first and framed and FRAMES not in framed[0].source: framed[0].source = f"{FRAMES}\n\n{framed[0].source}"
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
        text = path.read_text(encoding="utf-8").replace(site_url, "")
        text = LINK.sub(lambda m: f"{m[1]}{page_name(m[2])}.{'ipynb' if m[1] == '](' else 'html'}", text)
        path.unlink()
        (folder / f"{page_name(path.stem)}.ipynb").write_text(text, encoding="utf-8")
    config.pop("metadata-files", None)
    for key in ("html-math-method", "footnotes-hover", "grid"): config["format"]["html"].pop(key, None)
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
    "Formulas as MathML, so that the page needs no network to show them; descriptions without Markdown's stars."
    text = MATH.sub(mathml, KATEX.sub("", page.read_text(encoding="utf-8")))
    page.write_text(SUMMARY.sub(lambda m: m.group(1) + re.sub(r"[*`]", "", m.group(2)) + '"', text), encoding="utf-8")


def search_without_server(site):
    "The search index as a script: a page opened from a file may load one, but may not fetch."
    program = site / "site_libs/smalldocs.js"
    text = program.read_text(encoding="utf-8")
    if FETCH not in text: raise SystemExit("smalldocs loads its search index in a new way: tools/build_site.py has to follow")
    program.write_text(text.replace(FETCH, SCRIPT), encoding="utf-8")
    index = json.loads((site / "search.json").read_text(encoding="utf-8"))
    lessons = {entry["section"] for entry in index if not entry["href"].startswith("api.html")}
    twice = lambda entry: entry["href"].startswith("api.html#") and entry["section"] in lessons        # the lesson explains it
    index = [entry for entry in index if not twice(entry)]
    text = json.dumps(index, ensure_ascii=False)
    (site / "search.json").write_text(text, encoding="utf-8")
    (site / "search.js").write_text(f"window.searchIndex = {text};\n", encoding="utf-8")


def render_with_smalldocs(processed):
    try: from smalldocs.site import build
    except ImportError: raise SystemExit("without Quarto the site needs Python 3.11 or newer") from None
    folder = processed / ".staged"
    stage(processed, folder)
    site = build(folder, quiet=True)
    for warning in site.warnings:
        if "output-file" not in warning: print(f"docs: {warning}", file=sys.stderr)
    built = folder / "_docs"
    for page in built.glob("*.html"): finish(page)                       # not those in widgets/, which stay as they are
    for style in built.rglob("*.css"): style.write_text(FONTS.sub("", style.read_text(encoding="utf-8")), encoding="utf-8")
    search_without_server(built)
    return built


def render_with_quarto(processed):
    from nbdev.quarto_render import render_quarto
    render_quarto(processed, processed / "_docs")
    return processed / "_docs"


def process(work):
    "nbdev's processed notebooks, dressed, made from nothing in a folder of their own."
    import plotly
    from nbdev.serve import proc_nbs
    shutil.copytree(ROOT / "nbs", work / "nbs", ignore=shutil.ignore_patterns(".*"))     # _quarto.yml is a link: its text is copied
    shutil.copy(ROOT / "pyproject.toml", work)
    processed = proc_nbs(str(work / "nbs"))
    shutil.copy(Path(plotly.__file__).parent / "package_data/plotly.min.js", processed)
    library = entries((processed / "references.bib").read_text(encoding="utf-8"))
    for path in processed.glob("*.ipynb"): dress(path, library)
    return processed


def build(out, renderer):
    "Build the site in a folder, which it replaces."
    with tempfile.TemporaryDirectory() as work:
        processed = process(Path(work))
        built = dict(quarto=render_with_quarto, smalldocs=render_with_smalldocs)[renderer](processed)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(built, out)


def main(out=DOCS, renderer=None):
    build(Path(out), renderer or ("quarto" if shutil.which("quarto") else "smalldocs"))
    print(f"{out}/index.html is ready")


if __name__ == "__main__": sys.exit(main(*sys.argv[1:3]))
