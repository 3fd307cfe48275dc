"tools/: the README made from a notebook, and the pages that the site is built from."
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from build_site import LOAD, MATH, dress, mathml, page_name, stage
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
    link = "[a](02_loss.ipynb), [b](https://simclr-notebooks.github.io/simclr/loss.html#nt_xent_loss)"
    write(processed, new_markdown_cell(link))
    write(processed, new_markdown_cell("# Loss"), name="02_loss.ipynb")
    (processed / "_quarto.yml").write_text(
        "project: {type: website}\nformat: {html: {theme: cosmo}}\nmetadata-files: [nbdev.yml]\n"
        "website: {sidebar: {contents: [index.ipynb, {section: Learn, contents: [02_loss.ipynb, 04_missing.ipynb]}]}}")
    (processed / "nbdev.yml").write_text('website: {title: simclr, site-url: "https://simclr-notebooks.github.io/simclr"}')
    stage(processed, tmp_path / "staged")
    text = (tmp_path / "staged/index.ipynb").read_text(encoding="utf-8")
    assert "[a](loss.ipynb), [b](loss.html#nt_xent_loss)" in text
    config = (tmp_path / "staged/_quarto.yml").read_text(encoding="utf-8")
    assert "- loss.ipynb" in config and "missing" not in config and "metadata-files" not in config


def test_formulas_become_mathml():
    page = r'<p><span class="math inline">\(a &lt; b_i\)</span> <span class="math display">\[\frac{1}{2}\]</span></p>'
    done = MATH.sub(mathml, page)
    assert done.count("<math") == 2 and 'display="block"' in done and "\\frac" not in done and "&#x0003C;" in done
