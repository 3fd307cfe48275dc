"Notebooks: what is committed is clean and complete, and every page passes offline in under a minute."
import json
import re
import subprocess
import sys

import nbformat
import pytest

from notebooks import WIDGET, cleaned, coalesced, directives, execute, notebooks, offline_env
from pictures import FIGURE, bundles, up_to_date

NOTEBOOKS = [pytest.param(p, id=p.stem) for p in notebooks()]
MACHINE_PATH = re.compile(r"(?<![\w.~>-])/(?:work|root|home|Users|tmp)(?:/[\w.]|\b(?=[\"'\s]))")
PLOTLY_JS = re.compile(r"plotly(?:\.min)?\.js v\d|Plotly\.newPlot|require\.undef")


def read(path): return nbformat.read(path, 4)


def code_cells(nb): return [c for c in nb.cells if c.cell_type == "code"]


def outputs(nb): return [(i, o) for i, c in enumerate(nb.cells) for o in c.get("outputs", [])]


def kinds(cell):
    "What each output is, runs of one stream counted once."
    drawn = lambda data: {WIDGET} | ({"image/png"} if FIGURE in data else set())       # tools/pictures.py adds the pictures afterwards
    return [o.get("name") or sorted(set(data := o.get("data", {})) - drawn(data)) or o["output_type"] for o in coalesced(cell.outputs)]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_clean(path):
    assert path.read_text(encoding="utf-8") == cleaned(read(path)), "run: .venv/bin/python tools/notebooks.py --clean nbs/*.ipynb"


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_small_and_without_inlined_libraries(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000
    assert not PLOTLY_JS.search(text) and "application/vnd.jupyter.widget-state+json" not in text


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_no_errors_or_warnings_committed(path):
    bad = [(i, o.get("text") or o.get("evalue")) for i, o in outputs(read(path)) if o.output_type == "error" or o.get("name") == "stderr"]
    assert not bad


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_no_machine_paths(path):
    nb = read(path)
    sources = [(i, m.group()) for i, c in enumerate(nb.cells) for m in MACHINE_PATH.finditer(c.source)]
    printed = [(i, m.group()) for i, o in outputs(nb) for m in MACHINE_PATH.finditer(json.dumps({k: o.get(k) for k in ("text", "data")}))]
    assert not sources + printed


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_each_figure_has_its_picture_for_where_no_javascript_runs(path):
    old = [n for n, output in enumerate(bundles(read(path))) if not up_to_date(output)]
    assert not old, f"figures {old}: .venv/bin/python tools/pictures.py {path.name}"


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_opens_with_title_promise_and_colab_badge(path):
    first, *rest = [c.source for c in read(path).cells if c.cell_type == "markdown"]
    assert re.fullmatch(r"# \S.*\n+> \S.*\n*", first), "the first cell is '# Title' and '> promise', each on one line"
    url = f"https://colab.research.google.com/github/simclr-notebooks/simclr/blob/main/nbs/{path.name}"
    badge = f'<a href="{url}"><img src="colab-badge.svg" alt='
    assert any(badge in source for source in [first, *rest[:2]]), f"no Colab badge: {badge}…"


def test_batch_scripts_begin_as_schedulers_demand():
    "jupytext, reading a page as text, takes the # from a #! that begins a line."
    prose = "\n".join(c.source for p in notebooks() for c in read(p).cells if c.cell_type == "markdown")
    scripts = [text for text in re.findall(r"```sh\n(.*?)```", prose, re.DOTALL) if "#SBATCH" in text]
    assert scripts and all(text.startswith("#!/bin/") for text in scripts)


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_passes_offline(path, page_folder):
    nb, seconds = execute(path, page_folder)
    bad = [(i, o.text) for i, o in outputs(nb) if o.get("name") == "stderr"]
    assert not bad, "a page shows no warnings and no progress bars"
    stale = [i for i, (new, old) in enumerate(zip(nb.cells, read(path).cells)) if new.cell_type == "code" and kinds(new) != kinds(old)]
    assert not stale, f"cells {stale} now give other kinds of output than the committed ones (or were not run): make notebooks"
    assert seconds < 240, f"{seconds:.0f} s, four times what a quiet machine with bfloat16 may take: tests run two at a time"


@pytest.mark.parametrize("host", ["192.0.2.1", "example.com"])
def test_offline_means_offline(host):
    code = f"import socket; socket.create_connection(({host!r}, 80), timeout=5)"
    done = subprocess.run([sys.executable, "-c", code], env=offline_env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "network is switched off" in done.stderr


def test_a_stream_cut_in_pieces_is_one_stream():
    out, err = (dict(output_type="stream", name=name, text=["a\n", "b"]) for name in ("stdout", "stderr"))
    assert [(o["name"], o["text"]) for o in coalesced([out, out, err])] == [("stdout", ["a\n", "ba\n", "b"]), ("stderr", ["a\n", "b"])]


def test_directives_are_read_like_quarto():
    assert directives("#| export\n#| code-fold: true\nx = 1\n#| hide") == {"export": "", "code-fold": "true"}
    assert directives("#| default_exp data") == {"default_exp": "data"}
    assert directives("x = 1") == {}
