"""Writes README.md from nbs/index.ipynb, without Quarto: python tools/readme.py

Cells marked hide or export are left out, figures become a line that says what they show, links into nbs/ keep working.
"""
import html
import re
import sys
from pathlib import Path

import nbformat

from notebooks import ROOT, directives

HEAD = "<!-- Made by `make readme` from nbs/index.ipynb: edit that. -->\n"
LOCAL = re.compile(r'(\]\(|(?:src|href)=")(?!https?:|#|mailto:|data:|/|\.\./)([^)"\s]+)')


def relink(text):
    "Paths relative to nbs/, as in the notebook, made relative to the top; `../x` becomes `x`."
    text = LOCAL.sub(r"\1nbs/\2", text)
    return re.sub(r'(\]\(|(?:src|href)=")\.\./', r"\1", text)


def fence(text, language=""):
    "A code block that its text cannot close."
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def plain(text): return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<br ?/?>", " ", text))).strip()


def figure_line(figure, marks):
    "What a figure shows, in words: its alt text, else its title."
    title = figure.get("layout", {}).get("title", "")
    title = title.get("text", "") if isinstance(title, dict) else title
    words = marks.get("fig-alt", "").strip("\"'") or plain(title or "")
    return f"*Figure: {words}*" if words else "*A figure, drawn in the notebook.*"


def output_text(output, marks):
    "One output as Markdown, or None."
    if output.output_type == "stream": return fence(output.text, "text") if output.name == "stdout" and output.text.strip() else None
    if output.output_type == "error": raise ValueError(f"the tour ends in an error: {output.evalue}")
    data = output.data
    figure = data.get("application/vnd.plotly.v1+json")
    if figure is not None: return figure_line(figure, marks)
    if "text/markdown" in data: return relink(data["text/markdown"].strip())
    if "image/svg+xml" in data or "image/png" in data: return figure_line({}, marks)
    return fence(data["text/plain"], "text") if data.get("text/plain", "").strip() else None


def cell_text(cell):
    "One cell as a list of Markdown blocks."
    if cell.cell_type == "markdown": return [relink(cell.source.strip())]
    marks = directives(cell.source) if cell.cell_type == "code" else {"hide": ""}
    if {"hide", "default_exp", "export", "exporti"} & set(marks) or marks.get("include") == "false": return []
    code = re.sub(r"\A(?:\s*#\|.*\n?)+", "", cell.source).strip()
    blocks = [] if marks.get("echo") == "false" or not code else [fence(code, "python")]
    if blocks and marks.get("code-fold") == "true":
        blocks = [f"<details><summary>{marks.get('code-summary', 'Code').strip(chr(34))}</summary>", *blocks, "</details>"]
    return blocks + ([] if marks.get("output") == "false" else [output_text(output, marks) for output in cell.outputs])


def readme(path):
    "The Markdown of a notebook."
    blocks = [block for cell in nbformat.read(path, 4).cells for block in cell_text(cell) if block]
    return "\n\n".join([HEAD.strip(), *blocks]) + "\n"


def main():
    source = ROOT / "nbs/index.ipynb"
    if not source.exists(): return f"{source.relative_to(Path.cwd()) if source.is_relative_to(Path.cwd()) else source} does not exist"
    (ROOT / "README.md").write_text(readme(source), encoding="utf-8")


if __name__ == "__main__": sys.exit(main())
