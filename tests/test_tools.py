"tools/: the README made from a notebook, and the pages that the site is built from."
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from build_site import FRAMES, LOAD, MATH, closer, dress, finish, mathml, page_name, search_without_server, stage
from citations import cite, cite_notebook, entries, full, short
from conftest import ROOT
from readme import readme

FIGURE = {"application/vnd.plotly.v1+json": {"data": [{"y": [1, 2]}], "layout": {"title": {"text": "Loss <b>falls</b>"}, "height": 300}}}


def write(folder, *cells, name="index.ipynb"):
    path = folder / name
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def shown(data): return new_output("display_data", data)


@pytest.mark.parametrize("cell, expected", [
    (new_markdown_cell("See [loss](02_loss.ipynb#top), [paper](https://arxiv.org/abs/2002.05709), [law](../LICENSE)."),
     "See [loss](nbs/02_loss.ipynb#top), [paper](https://arxiv.org/abs/2002.05709), [law](LICENSE)."),
    (new_markdown_cell('<img src="colab-badge.svg" alt="x">'), '<img src="nbs/colab-badge.svg" alt="x">'),
    (new_code_cell("#| hide\nx = 1"), ""),
    (new_code_cell("#| default_exp demo"), ""),
    (new_code_cell("#| eval: false\nx = 1"), "```python\nx = 1\n```"),
    (new_code_cell("print(1)", outputs=[new_output("stream", text="1\n")]), "```python\nprint(1)\n```\n\n```text\n1\n```"),
    (new_code_cell("1", outputs=[new_output("execute_result", {"text/plain": "1"})]), "```python\n1\n```\n\n```text\n1\n```"),
    (new_code_cell("#| echo: false\nt", outputs=[shown({"text/markdown": "| a |\n|---|", "text/plain": "<Markdown>"})]), "| a |\n|---|"),
    (new_code_cell("#| echo: false\nf", outputs=[shown(FIGURE)]), "*Figure: Loss falls*"),
    (new_code_cell("#| echo: false\n#| fig-alt: 'Two bars'\nf", outputs=[shown(FIGURE)]), "*Figure: Two bars*"),
    (new_code_cell("#| output: false\nf", outputs=[shown(FIGURE)]), "```python\nf\n```"),
    (new_code_cell("#| code-fold: true\nx"), "<details><summary>Code</summary>\n\n```python\nx\n```\n\n</details>"),
    (new_code_cell("print('```')", outputs=[new_output("stream", text="```")]), "````python\nprint('```')\n````\n\n````text\n```\n````"),
])
def test_readme_of_one_cell(cell, expected, tmp_path):
    head, _, body = readme(write(tmp_path, cell)).partition("\n")
    assert head.startswith("<!--") and body.strip() == expected


def test_readme_refuses_a_tour_that_fails(tmp_path):
    failed = new_code_cell("1/0", outputs=[new_output("error", ename="ZeroDivisionError", evalue="division by zero")])
    with pytest.raises(ValueError, match="division by zero"): readme(write(tmp_path, failed))


def test_figures_become_html_that_loads_plotly_once(tmp_path):
    path = write(tmp_path, *[new_code_cell("f", outputs=[shown(FIGURE)]) for _ in range(2)])
    dress(path)
    once = path.read_text(encoding="utf-8")
    pages = [cell.outputs[0].data["text/html"] for cell in nbformat.read(path, 4).cells]
    assert [LOAD in page for page in pages] == [True, False]
    assert json.loads(pages[1].split('application/json">')[1].split("</script>")[0])["data"] == [{"y": [1, 2]}]
    dress(path)
    assert path.read_text(encoding="utf-8") == once


def test_a_script_tag_in_a_label_cannot_end_the_figure(tmp_path):
    figure = {"application/vnd.plotly.v1+json": {"data": [{"text": "</script>"}], "layout": {}}}
    path = write(tmp_path, new_code_cell("f", outputs=[shown(figure)]))
    dress(path)
    page = nbformat.read(path, 4).cells[0].outputs[0].data["text/html"].replace(LOAD, "")
    assert page.count("</script>") == 1


@pytest.mark.parametrize("stem, name", [("02_loss", "loss"), ("03b_runs", "runs"), ("index", "index"), ("09_why_80", "why_80")])
def test_pages_are_named_as_nbdev_names_them(stem, name):
    from nbdev.config import nbpath2html
    assert page_name(stem) == name == nbpath2html(f"{stem}.ipynb").stem


def test_staged_pages_link_to_each_other(tmp_path):
    processed = tmp_path / "processed"
    processed.mkdir()
    link = '[a](02_loss.ipynb), [b](https://simclr-notebooks.github.io/simclr/loss.html#nt_xent_loss), <a href="02_loss.ipynb#x">c</a>'
    link += ', <a href="widgets/explorer.html#pick=42" target="explorer">d</a>'
    write(processed, new_markdown_cell(link))
    write(processed, new_markdown_cell("# Loss"), name="02_loss.ipynb")
    (processed / "_quarto.yml").write_text(
        "project: {type: website}\nformat: {html: {theme: cosmo}}\nmetadata-files: [nbdev.yml]\n"
        "website: {sidebar: {contents: [index.ipynb, {section: Learn, contents: [02_loss.ipynb, 04_missing.ipynb]}]}}")
    (processed / "nbdev.yml").write_text('website: {title: simclr, site-url: "https://simclr-notebooks.github.io/simclr"}')
    stage(processed, tmp_path / "staged")
    text = (tmp_path / "staged/index.ipynb").read_text(encoding="utf-8")
    assert "[a](loss.ipynb), [b](loss.html#nt_xent_loss), <a href=\\\"loss.html#x\\\">c</a>" in text
    assert '<a href=\\"widgets/explorer.html#pick=42\\" target=' in text
    config = (tmp_path / "staged/_quarto.yml").read_text(encoding="utf-8")
    assert "- loss.ipynb" in config and "missing" not in config and "metadata-files" not in config


def test_formulas_become_mathml():
    page = r'<p><span class="math inline">\(a &lt; b_i\)</span> <span class="math display">\[\frac{1}{2}\]</span></p>'
    done = MATH.sub(mathml, page)
    assert done.count("<math") == 2 and 'display="block"' in done and "\\frac" not in done and "&#x0003C;" in done


def test_without_javascript_a_widget_gives_way_to_its_picture(tmp_path):
    cell = '<iframe class="widget" src="widgets/a.html"></iframe>\n<noscript><img src="images/a.png" alt="a"></noscript>'
    path = write(tmp_path, new_markdown_cell(cell), new_markdown_cell("<noscript><img></noscript>"))
    dress(path)
    dress(path)
    sources = [c.source for c in nbformat.read(path, 4).cells]
    assert sources == [f"{FRAMES}\n\n" + cell.replace("<img", "<style>iframe.widget{display:none}</style><img"), "<noscript><img></noscript>"]


def test_a_page_with_figures_loads_their_script_once(tmp_path):
    path = write(tmp_path, new_markdown_cell('<iframe class="widget"></iframe>'), new_code_cell("f", outputs=[shown(FIGURE)]))
    dress(path)
    assert path.read_text(encoding="utf-8").count("figures.js") == 1


def test_what_pages_load_is_among_the_resources():
    import fnmatch

    import yaml
    patterns = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["project"]["resources"]
    loaded = [f"images/{p.name}" for p in (ROOT / "nbs/images").iterdir()] + [f"widgets/{p.name}" for p in (ROOT / "nbs/widgets").glob("*.html")]
    loaded += ["plotly.min.js", "figures.js", *(p.name for p in (ROOT / "nbs").glob("*.svg"))]
    assert [name for name in loaded if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_the_site_is_deployed_with_no_more_rights_than_that_takes():
    import yaml
    flow = yaml.safe_load((ROOT / ".github/workflows/docs.yaml").read_text(encoding="utf-8"))
    build, deploy = flow["jobs"]["build"], flow["jobs"]["deploy"]
    assert flow["permissions"] == {} and build["permissions"] == {"contents": "read"}
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"} and deploy["needs"] == "build"
    steps = " ".join(str(step.get("run") or step.get("uses")) for step in build["steps"])
    assert "make docs" in steps and "quarto-actions/setup" in steps and "upload-pages-artifact" in steps


def test_a_page_keeps_widgets_and_loses_stars_in_its_description(tmp_path):
    page = tmp_path / "a.html"
    page.write_text('<meta name="description" content="2*N* views of `x`"><p>2*N*</p><script src="https://cdn.example.com/katex.js"></script>')
    finish(page)
    assert page.read_text() == '<meta name="description" content="2N views of x"><p>2*N*</p>'


def test_the_site_refuses_a_renderer_that_searches_in_another_way(tmp_path):
    (tmp_path / "site_libs").mkdir()
    (tmp_path / "site_libs/smalldocs.js").write_text("fetch('index.json')")
    with pytest.raises(SystemExit, match="search index in a new way"): search_without_server(tmp_path)


@pytest.mark.parametrize("source, expected", [
    ("x = 1" + " " * 90 + "# (N,)", "x = 1  # (N,)"), ("x = 1      # short", "x = 1      # short"), ("# " + "long " * 30, "# " + "long " * 30),
    ("s = '" + "a" * 90 + "  # no comment'", "s = '" + "a" * 90 + "  # no comment'"), ("%pip install x" + " " * 90 + "# y", "%pip install x" + " " * 90 + "# y"),
    ("if x:" + " " * 90 + "# why\n    y()", "if x:  # why\n    y()"), ("x = (" + " " * 90 + "# open", "x = (" + " " * 90 + "# open"),
])
def test_comments_come_closer_where_a_line_would_break(source, expected): assert closer(source) == expected


def test_a_displayed_formula_stands_on_one_line_and_a_method_links_to_its_class(tmp_path):
    method = "[`A.b`](https://simclr-notebooks.github.io/simclr/augment.html#a.b)"
    path = write(tmp_path, new_markdown_cell("$$a\n+ b$$\n\n```\n$$a\n+ b$$\n```\n" + method))
    dress(path)
    assert nbformat.read(path, 4).cells[0].source == "$$a + b$$\n\n```\n$$a\n+ b$$\n```\n" + method.replace("#a.b", "#a")


def test_a_word_that_is_also_a_function_is_no_link(tmp_path):
    text = "learn on [`train`](https://x.io/pretrain.html#train), set [`pick`](https://x.io/studio.html#pick); [`fit`](https://x.io/pretrain.html#fit)"
    path = write(tmp_path, new_markdown_cell(text), new_code_cell("f", outputs=[shown({"text/markdown": text})]))
    dress(path)
    said, documented = nbformat.read(path, 4).cells
    assert said.source == documented.outputs[0].data["text/markdown"] == "learn on `train`, set `pick`; [`fit`](https://x.io/pretrain.html#fit)"


@pytest.mark.parametrize("lines, columns", [(["a" * 81, "<b>" * 30], 90), (["a" * 81], None), (["a" * 80] * 3, None), (["a" * 81] * 2 + ["b"] * 3, None)])
@pytest.mark.parametrize("output", [lambda text: new_output("stream", text=text), lambda text: shown({"text/plain": text})])
def test_printed_columns_too_wide_for_the_page_are_not_broken(lines, columns, output, tmp_path):
    path = write(tmp_path, new_code_cell("f", outputs=[output("\n".join(lines) + "\n")]))
    dress(path)
    dress(path)
    found, = nbformat.read(path, 4).cells[0].outputs
    page = found.get("data", {}).get("text/html")
    assert (page is None) == (columns is None)
    if page: assert f"--columns: {columns}" in page and "&lt;b&gt;" in page and page.count("\n") == 1


def test_a_signature_names_no_class_of_main(tmp_path):
    path = write(tmp_path, new_code_cell("f", outputs=[shown({"text/markdown": "def f(x)->__main__.Encoder: # one"})]))
    dress(path)
    assert nbformat.read(path, 4).cells[0].outputs[0].data["text/markdown"] == "def f(x)->Encoder: # one"


LIBRARY = entries((ROOT / "nbs/references.bib").read_text(encoding="utf-8"))
CHEN = '(#ref-chen2020simclr "A Simple Framework for Contrastive Learning of Visual Representations")'
WANG = '(#ref-wang2020alignment "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere")'


@pytest.mark.parametrize("text, expected", [
    ("(Chen et al. 2020, Section 2)", f"([Chen et al. 2020]{CHEN}, Section 2)"), ("Chen et al. (2020) say", f"[Chen et al. (2020)]{CHEN} say"),
    ("Chen et al. (2020, Eq. 1)", f"[Chen et al. (2020]{CHEN}, Eq. 1)"), ("Chen et\nal. 2020", f"[Chen et\nal. 2020]{CHEN}"),
    ("[@chen2020simclr, Eq. 1]", f"([Chen et al. 2020]{CHEN}, Eq. 1)"),
    ("[@chen2020simclr; @wang2020alignment]", f"([Chen et al. 2020]{CHEN}; [Wang and Isola 2020]{WANG})"),
    ("Chen et al. 2021", "Chen et al. 2021"), ("Chen et al. 20201", "Chen et al. 20201"), ("van Chen et al. 2020x", "van Chen et al. 2020x"),
    ("`Chen et al. 2020`", "`Chen et al. 2020`"), ("[Chen et al. 2020](https://example.com)", "[Chen et al. 2020](https://example.com)"),
    ("```\nChen et al. 2020\n```", "```\nChen et al. 2020\n```"), ("## Chen et al. 2020", "## Chen et al. 2020"),
    ('<img alt="Chen et al. 2020">', '<img alt="Chen et al. 2020">'), ("$[@chen2020simclr]$", "$[@chen2020simclr]$"), ("a@example.com", "a@example.com"),
])
def test_citations_become_links(text, expected):
    assert cite(text, LIBRARY) == expected
    assert cite(expected, LIBRARY) == expected, "twice is once"


def test_an_unknown_key_is_an_error():
    with pytest.raises(ValueError, match="has no chen2019"): cite("[@chen2019]", LIBRARY)


def test_the_list_of_references_holds_what_is_cited(tmp_path):
    shown_text = new_code_cell("f", outputs=[shown({"text/markdown": "Wang and Isola 2020"})])
    nb = new_notebook(cells=[new_markdown_cell("Chen et al. 2020"), shown_text])
    cite_notebook(nb, LIBRARY)
    once = nbformat.writes(nb)
    assert nb.cells[-1].source.count("<p id=") == 2 and nb.cells[-1].source.index("ref-chen2020") < nb.cells[-1].source.index("ref-wang2020")
    cite_notebook(nb, LIBRARY)
    assert nbformat.writes(nb) == once
    nb = new_notebook(cells=[new_markdown_cell("Nobody 2020")])
    cite_notebook(nb, LIBRARY)
    assert len(nb.cells) == 1, "no list without a citation"


def test_every_entry_of_the_bibliography_can_be_read():
    text = (ROOT / "nbs/references.bib").read_text(encoding="utf-8")
    assert len(LIBRARY) == text.count("\n@") + 1 and not [key for key, entry in LIBRARY.items() if not {"author", "title", "year"} <= set(entry)]
    assert len({short(entry) for entry in LIBRARY.values()}) == len(LIBRARY), "two works that the text would name alike"
    assert not [key for key, entry in LIBRARY.items() if "{" in full(entry) or "\\" in full(entry) or ". ." in full(entry)]
    assert short(LIBRARY["dadu2023aligned"]) == "Dadu et al. 2023" and "Dadu, Anant et al. (2023)" in full(LIBRARY["dadu2023aligned"])


def test_the_home_page_names_every_notebook():
    from notebooks import notebooks
    text = (ROOT / "nbs/index.ipynb").read_text(encoding="utf-8")
    table = text[text.index("## The notebooks"):]
    assert [path.name for path in notebooks() if path.stem != "index" and f"]({path.name})" not in table] == []


def test_a_picture_of_few_colours_keeps_those_of_a_small_mark():
    import base64
    import io

    import numpy as np
    from PIL import Image

    from pictures import small_png
    greys = np.repeat(np.linspace(40, 255, 400).round().astype(np.uint8)[None, :, None], 300, 0).repeat(3, 2)
    marks = [(0, 158, 115), (0, 114, 178), (230, 159, 0)]
    for i, colour in enumerate(marks): greys[10:14, 20 * i:20 * i + 4] = colour                # 16 of 120,000 pixels each
    png = io.BytesIO()
    Image.fromarray(greys).save(png, "png")
    small = small_png("data:image/png;base64," + base64.b64encode(png.getvalue()).decode(), "x")
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB")).astype(int)
    for i, colour in enumerate(marks): assert abs(seen[11, 20 * i + 1] - colour).max() <= 8
