"""Give each notebook the cell that makes it ready on Colab: python tools/colab.py [--check] NOTEBOOK ...

The cell stands before the first code cell, below title and badge; one that is there already is brought up to date and keeps its id.
"""
import argparse
import sys
from pathlib import Path

import nbformat

from notebooks import cleaned

CELL = r'''#| code-fold: true
#| code-summary: "On Colab, run this first: it installs what is missing and looks for a GPU"
#| eval: false
import importlib.util, subprocess, sys
from pathlib import Path

if "google.colab" in sys.modules:
    pip, keep = [sys.executable, "-m", "pip"], Path("as-it-was.txt")              # each version that is here: torch, numpy, plotly … stay
    wanted = ["simclr-notebooks @ git+https://github.com/simclr-notebooks/simclr", "fastcore"]
    steps = [["list", "--format=freeze"], ["install", "--quiet", "--constraint", str(keep), *wanted]]
    for step in [] if importlib.util.find_spec("simclr") else steps:
        done = subprocess.run([*pip, *step], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip could not add simclr to what Colab has, and replaced nothing. It says:\n{done.stderr[-2000:]}\n"
                               "Try Runtime → Disconnect and delete runtime, then this cell again; else please report it.")
        if step[0] == "list": keep.write_text(done.stdout)
    importlib.invalidate_caches()
    import torch
    click = "none: enough for digits. For CIFAR-10: Runtime → Change runtime type → T4 GPU → Save, then run this cell again"
    print("simclr is here. GPU:", torch.cuda.get_device_name() if torch.cuda.is_available() else click)
'''.strip()
MARK = '#| code-summary: "On Colab'                                       # by which an older text is found


def place(nb):
    "Put the cell into a notebook, in place; returns whether anything changed."
    code = [i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"]
    old = [i for i in code if MARK in nb.cells[i].source]
    if old:
        kept, before = nb.cells[old[0]], [cell.source for cell in nb.cells]
        kept.source = CELL
        nb.cells = [cell for i, cell in enumerate(nb.cells) if i not in old]
    else: kept, before = nbformat.v4.new_code_cell(CELL, id="on-colab"), None
    at = next((i for i, cell in enumerate(nb.cells) if cell.cell_type == "code"), len(nb.cells))
    nb.cells.insert(at, kept)
    return before != [cell.source for cell in nb.cells]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a notebook lacks the cell or has another text")
    parser.add_argument("notebooks", nargs="+", type=Path)
    args, behind = parser.parse_args(), []
    for path in args.notebooks:
        nb = nbformat.read(path, 4)
        if not place(nb): continue
        behind.append(str(path))
        if not args.check: path.write_text(cleaned(nb), encoding="utf-8")
    if args.check and behind: return f"without the Colab cell of today: {', '.join(behind)}; run: python tools/colab.py nbs/*.ipynb"


if __name__ == "__main__": sys.exit(main())
