"""Citations for both renderers: "Chen et al. 2020" and [@chen2020simclr] in a page become links to a list at its end.

The list is made from nbs/references.bib, one `field = {value}` a line. Code, links, headings, tags and formulas are left alone.
"""
import html
import re

from nbformat.v4 import new_markdown_cell

ENTRY = re.compile(r"@\w+\{([\w:-]+),\s*\n(.*?)\n\}", re.S)
FIELD = re.compile(r"^\s*(\w+)\s*=\s*\{(.*)\},?\s*$", re.M)
KEEP = re.compile("|".join([
    r"^(```+|~~~+).*?^\1", r"`[^`\n]*`", r"!?\[(?:[^\]\n]|\n(?!\n))*\]\([^)\n]*\)", r"<a\b.*?</a>", r"<[^>\n]+>", r"^#+ .*?$",
    r"\$\$.*?\$\$", r"\$[^$\n]+\$"]), re.S | re.M)
KEYED = re.compile(r"\[(@[\w:-]+(?:\s*;\s*@[\w:-]+)*)((?:,\s*[^\]@]+)?)\]")
LISTED = re.compile(r"\]\(#ref-([\w:-]+)")
ACCENTS = {r'{\"a}': "ä", r'{\"o}': "ö", r'{\"u}': "ü", r"{\'e}": "é", r"{\'a}": "á", r"{\`e}": "è", r"{\~n}": "ñ"}
CELL = "references"


def plain(text):
    "A value of BibTeX as text."
    for mark, letter in ACCENTS.items(): text = text.replace(mark, letter)
    return re.sub(r"[{}]", "", text).replace(r"\&", "&").replace("--", "–")


def entries(bibliography):
    "A bibliography's entries: {key: {field: text}}."
    return {key: {name.lower(): plain(value) for name, value in FIELD.findall(body)} for key, body in ENTRY.findall(bibliography)}


def families(entry): return [name.split(",")[0].strip() for name in entry["author"].split(" and ")]


def short(entry):
    "Who wrote it and when, as the text names it: Chen et al. 2020, Wang and Isola 2020."
    names = families(entry)
    several = len(names) > 2 or names[-1] == "others"
    return f"{names[0] + ' et al.' if several else ' and '.join(names)} {entry['year']}"


def full(entry):
    "One line of the list, as HTML."
    where = entry.get("journal") or entry.get("booktitle") or entry.get("publisher") or ""
    code = entry.get("eprint") or next(iter(re.findall(r"arXiv:(\d+\.\d+)", where)), "")
    url = f"https://doi.org/{entry['doi']}" if "doi" in entry else f"https://arxiv.org/abs/{code}" if code else ""
    where = re.sub(r"^arXiv preprint arXiv:.*", f"arXiv:{code}", where)
    people = "; ".join(entry["author"].split(" and ")).replace("; others", " et al.")
    title = f"<em>{html.escape(entry['title'])}</em>"
    title = f'<a href="{html.escape(url)}">{title}</a>' if url else title
    return f"{html.escape(people)} ({entry['year']}). {title}. {html.escape(where)}."


def link(words, key, entry):
    title = entry["title"].replace('"', "'").replace("(", "").replace(")", "")
    return f'[{words}](#ref-{key} "{title}")'


def named(library):
    "One pattern for every way in which the text may name an entry; the group that matched tells which."
    way = lambda entry: re.escape(short(entry)[:-5]).replace(r"\ ", r"\s") + rf"(?:'s)?,?\s(?:\({entry['year']}\)|\(?{entry['year']}\b)"
    return re.compile(r"(?<![\w-] and )(?<![\w-])(?:" + "|".join(f"({way(entry)})" for entry in library.values()) + ")")


def cite_words(text, library, pattern):
    "Links in a stretch of prose."
    def keyed(match):
        keys = re.findall(r"@([\w:-]+)", match[1])
        unknown = [key for key in keys if key not in library]
        if unknown: raise ValueError(f"references.bib has no {unknown[0]}")
        return "(" + "; ".join(link(short(library[key]), key, library[key]) for key in keys) + match[2] + ")"
    keys = list(library)
    linked = lambda m: link(m[0], keys[m.lastindex - 1], library[keys[m.lastindex - 1]])
    return "".join(part if kept else pattern.sub(linked, part) for kept, part in outside(KEYED.sub(keyed, text)))


def outside(text):
    "A text cut in pieces: (whether to leave it alone, piece)."
    start = 0
    for match in KEEP.finditer(text):
        yield False, text[start:match.start()]
        yield True, match[0]
        start = match.end()
    yield False, text[start:]


def cite(text, library):
    "A page's Markdown with its citations linked."
    pattern = named(library)
    return "".join(part if kept else cite_words(part, library, pattern) for kept, part in outside(text))


def cite_notebook(nb, library):
    "Link the citations of a notebook, in place, and list what they lead to in its last cell; doing it twice changes nothing."
    nb.cells[:] = [cell for cell in nb.cells if cell.get("id") != CELL]
    texts = []
    for cell in nb.cells:
        if cell.cell_type == "markdown": cell.source = cite(cell.source, library)
        shown = [output.data for output in cell.get("outputs", []) if "text/markdown" in output.get("data", {})]
        for data in shown: data["text/markdown"] = cite("".join(data["text/markdown"]), library)
        texts += [cell.source] * (cell.cell_type == "markdown") + [data["text/markdown"] for data in shown]
    cited = sorted({key for text in texts for key in LISTED.findall(text)}, key=lambda key: short(library[key]).lower())
    lines = [f'<p id="ref-{key}">{full(library[key])}</p>' for key in cited]
    if lines: nb.cells.append(new_markdown_cell("\n".join(["## References", "", '<div class="references">', *lines, "</div>"]), id=CELL))
