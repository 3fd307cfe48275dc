"""Run notebooks in place without a network and save them clean: python tools/notebooks.py [--clean] NOTEBOOK ...

--clean only strips what a notebook should not carry: execution counts, widget state, metadata.
"""
import argparse
import copy
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from fastcore.nbio import dict2nb, nb2str
from nbclient import NotebookClient
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_SECONDS = 240


def notebooks():
    "The notebooks in reading order, the tour first."
    return sorted((ROOT / "nbs").glob("*.ipynb"), key=lambda p: (p.stem != "index", p.stem))


def directives(source):
    "The `#| name: value` lines at the top of a cell, as a dict; also accepts `#| name value`."
    lines = re.match(r"(?:\s*#\|.*\n?)*", source).group().splitlines()
    pairs = (re.split(r"[:\s]+", line.split("#|", 1)[1].strip(), maxsplit=1) for line in lines if line.strip())
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}


def offline_env():
    "The environment of an offline run: no proxies, this package, figures as JSON."
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    paths = [str(ROOT / "tools/offline"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(env, PYTHONPATH=os.pathsep.join(paths), PLOTLY_RENDERER="plotly_mimetype", PYTHONDONTWRITEBYTECODE="1")


def execute(path, folder=None):
    "Run a notebook in its own folder (or another), skip `#| eval: false` cells; returns the notebook with outputs and the seconds."
    nb = nbformat.read(path, 4)
    sources = [cell.source for cell in nb.cells]
    for cell in nb.cells:
        if cell.cell_type == "code":
            if directives(cell.source).get("eval") == "false": cell.source = ""
            else: cell.outputs = []
    where = {"metadata": {"path": str(folder or Path(path).parent)}}
    client = NotebookClient(nb, timeout=CELL_SECONDS, kernel_name="python3", resources=where, coalesce_streams=True)
    start = time.perf_counter()
    client.execute(env=offline_env())
    seconds = time.perf_counter() - start
    for cell, source in zip(nb.cells, sources): cell.source = source
    return nb, seconds


def coalesced(outputs):
    "Outputs in which neighbours of one stream are one: where the kernel cut a stream is a matter of timing."
    joined = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == last.get("output_type") == "stream" and output["name"] == last["name"]:
            last["text"] = text(last["text"]) + text(output["text"])
        else: joined.append(copy.deepcopy(output))
    for output in joined:
        if output["output_type"] == "stream": output["text"] = text(output["text"]).splitlines(True)
    return joined


def text(value): return "".join(value)


def cleaned(nb):
    "The text of a notebook without execution counts, widget state and metadata, streams in one piece; nbdev-clean agrees."
    nb = dict2nb(copy.deepcopy(dict(nb)))
    clean_nb(nb)
    nb["metadata"].pop("widgets", None)
    for cell in nb["cells"]:
        if "outputs" in cell: cell["outputs"] = coalesced(cell["outputs"])
        for output in cell.get("outputs", []): output.get("data", {}).pop(WIDGET, None)
    return nb2str(nb)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", action="store_true", help="strip, do not run")
    parser.add_argument("notebooks", nargs="+", type=Path)
    args = parser.parse_args()
    for path in args.notebooks:
        nb, seconds = (nbformat.read(path, 4), None) if args.clean else execute(path)
        new = cleaned(nb)
        if seconds is not None: print(f"{path}: {seconds:.1f} s, {len(new) // 1000} kB", flush=True)
        if new != path.read_text(encoding="utf-8"): path.write_text(new, encoding="utf-8")


if __name__ == "__main__": sys.exit(main())
