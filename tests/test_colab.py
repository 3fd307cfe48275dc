"""Google Colab, as far as it can be had here: its versions of what the pages draw with, and the cell that installs simclr there.

COLAB_ALL=1 runs every page with those versions; otherwise the pages run that hold widgets or maps, and the tour.
"""
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock                                                      # comes with torch

import colab
from conftest import ROOT
from notebooks import directives, notebooks

COLAB = dict(line.split("==") for line in "ipywidgets==7.7.1 plotly==5.24.1 anywidget==0.9.21 numpy==2.1.3 umap-learn==0.5.12".split())
THEIRS = "widgetsnbextension==3.6.10 jupyterlab-widgets==1.1.11 ipython-genutils==0.2.0 tenacity==9.0.0".split()    # what those stand on
PINS = [*(f"{name}=={version}" for name, version in COLAB.items()), *THEIRS]
SHOWS = ("index", "06c_widget", "06d_maps", "07_explore", "07b_studio", "07c_playground", "12_trouble")
MODULES = sorted(p.stem for p in (ROOT / "simclr").glob("*.py") if p.name[0] != "_")
PAGES = [pytest.param(p, id=p.stem) for p in notebooks() if p.stem in SHOWS or os.environ.get("COLAB_ALL")]
GPU = "Runtime → Change runtime type → T4 GPU"


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    "Python with Colab's versions in front of this environment's packages; kept inside the environment, if there is one, for the next time."
    keep = sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK)
    home = Path(sys.prefix) / "colab" if keep else tmp_path_factory.mktemp("colab")
    behind = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    ready, recipe = home / "ready.json", json.dumps([PINS, behind, sys.version])
    with FileLock(home.with_suffix(".lock")):                                       # of two workers of pytest one makes it, the other waits
        if not ready.exists() or ready.read_text() != recipe:
            run([sys.executable, "-m", "venv", "--clear", "--without-pip", home])
            pip = [sys.executable, "-m", "pip", "--python", home / "bin/python", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            run([*pip, *PINS])
            packages = next((home / "lib").glob("python*")) / "site-packages"
            (packages / "behind.pth").write_text("\n".join(behind) + "\n")          # their own .pth files, an editable simclr, do not run
            ready.write_text(recipe)
    return home / "bin/python"


def run(command, **env):
    "Run a command outside the checkout, without this process's settings for Python; returns what it printed."
    base = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=base | env, cwd=os.sep, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


# The environment

def test_the_versions_are_those_of_colab(python):
    code = """import json; from importlib.metadata import version; import anywidget, ipywidgets, numpy, plotly, torch, umap
here = {"ipywidgets": ipywidgets, "plotly": plotly, "anywidget": anywidget, "numpy": numpy, "umap-learn": umap}
assert torch.from_numpy(numpy.ones(2)).sum() == 2, "torch and numpy do not talk"
print(json.dumps([{k: m.__version__ for k, m in here.items()}, {k: version(k) for k in here}]))"""
    imported, recorded = json.loads(run([python, "-c", code]))
    assert imported == recorded == COLAB


def test_the_package_is_not_there_unless_put_there(python):
    code = "import importlib.util; print(importlib.util.find_spec('simclr'))"
    assert run([python, "-c", code]).strip() == "None"


def test_every_module_imports(python):
    code = f"import importlib, json; [importlib.import_module('simclr.' + m) for m in {MODULES}]; import numpy; print(numpy.__version__)"
    assert run([python, "-c", code], PYTHONPATH=str(ROOT)).split()[-1] == COLAB["numpy"]


def test_a_widget_asks_colab_for_its_widget_manager(python, tmp_path):
    fake_colab(tmp_path)
    code = """import google.colab.output as output; from simclr.widget import StaticWidget
widget = StaticWidget(_esm="", _css=""); data = widget._repr_mimebundle_()
print(output.asked, "application/vnd.jupyter.widget-view+json" in (data[0] if isinstance(data, tuple) else data))"""
    assert run([python, "-c", code], PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])).split() == ["1", "True"]


# The pages

RUN_PAGE = """import sys
from notebooks import execute
nb, seconds = execute(sys.argv[1], sys.argv[2])
print(f"{seconds:.0f} s")"""


def run_page(python, path, folder): return run([python, "-c", RUN_PAGE, path, folder], PYTHONPATH=os.pathsep.join([str(ROOT / "tools"), str(ROOT)]))


def test_cells_run_with_those_versions(python, tmp_path):
    asserts = "; ".join(f"assert version({name!r}) == {number!r}" for name, number in COLAB.items())
    cells = [nbformat.v4.new_code_cell(f"from importlib.metadata import version\nimport numpy, plotly\n{asserts}\nassert numpy.__version__ == version('numpy')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "probe.ipynb")
    run_page(python, tmp_path / "probe.ipynb", tmp_path)


@pytest.mark.parametrize("path", PAGES)
def test_page_runs(python, path, page_folder): run_page(python, path, page_folder)


# The cell

@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in notebooks()])
def test_each_notebook_has_the_cell(path):
    nb = nbformat.read(path, 4)
    first = next(cell for cell in nb.cells if cell.cell_type == "code")
    assert first.source == colab.CELL, "run: .venv/bin/python tools/colab.py nbs/*.ipynb"
    assert sum(colab.MARK in cell.source for cell in nb.cells) == 1


def test_the_cell_is_in_keeping_with_the_house():
    marks = directives(colab.CELL)
    assert marks["code-fold"] == "true" and marks["eval"] == "false" and not {"export", "exporti", "default_exp"} & set(marks)
    assert max(map(len, colab.CELL.splitlines())) <= 165


def fake_colab(folder):
    "Modules google.colab and google.colab.output, as far as anybody here asks them anything."
    (folder / "google/colab").mkdir(parents=True)
    (folder / "google/__init__.py").write_text("")
    (folder / "google/colab/__init__.py").write_text("")
    (folder / "google/colab/output.py").write_text("class _widgets: _installed_url = None\nasked = 0\ndef enable_custom_widget_manager():\n    global asked; asked += 1\n")


FAKE_PIP = """import json, os, sys
from importlib.metadata import distributions
log = os.environ["PIP_LOG"]
with open(log, "a") as f: print(json.dumps(sys.argv[1:]), file=f)
if os.environ.get("PIP_FAILS") == sys.argv[1]: sys.exit("ERROR: No matching distribution found")
seen = {}
for d in distributions(): seen.setdefault(d.name, d.version)                  # the first on the path is the one that Python imports
if sys.argv[1] == "list": print(*(f"{name}=={version}" for name, version in seen.items()), sep="\\n")
"""


@pytest.fixture
def session(python, tmp_path):
    "Runs the cell as Colab would; returns what it printed, the pip commands and the folder. Nothing is downloaded."
    def start(colab_there=True, simclr_there=False, gpu=False, **env):
        folder, fakes = tmp_path / "content", tmp_path / "fakes"
        for path in (folder, fakes / "pip"): path.mkdir(parents=True)
        (fakes / "pip/__init__.py").write_text("")
        (fakes / "pip/__main__.py").write_text(FAKE_PIP)
        fake_colab(fakes)
        before = "import google.colab\n" * colab_there
        if gpu: before += "import torch; torch.cuda.is_available = lambda: True; torch.cuda.get_device_name = lambda: 'Tesla T4'\n"
        (folder / "cell.py").write_text(f"import os, sys; os.chdir({str(folder)!r})\n{before}{colab.CELL}\n")
        path = os.pathsep.join([str(fakes), str(ROOT)] if simclr_there else [str(fakes)])
        said = run([python, folder / "cell.py"], PYTHONPATH=path, PIP_LOG=str(tmp_path / "pip.log"), CUDA_VISIBLE_DEVICES="", **env)
        log = tmp_path / "pip.log"
        return said, [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else [], folder
    return start


def test_outside_colab_it_does_nothing(session):
    said, commands, folder = session(colab_there=False)
    assert said == "" and commands == [] and [p.name for p in folder.iterdir()] == ["cell.py"]


def test_it_installs_from_the_repository_and_holds_every_version(session, python):
    _, commands, folder = session()
    assert commands[0] == ["list", "--format=freeze"] and len(commands) == 2
    what, *options = commands[1]
    at = options.index("--constraint")
    assert what == "install" and "simclr-notebooks @ git+https://github.com/simclr-notebooks/simclr" in options[at + 2:]
    assert not any(option.startswith(("-U", "--upgrade", "--force", "--ignore-installed", "--pre")) for option in options)
    held = dict(line.split("==") for line in (folder / options[at + 1]).read_text().splitlines())
    names = ["torch", "torchvision", "numpy", "plotly", "ipywidgets", "anywidget", "umap-learn", "scikit-learn", "scipy"]
    ask = f"from importlib.metadata import version; import json; print(json.dumps([version(n) for n in {names}]))"
    assert [held[name] for name in names] == json.loads(run([python, "-c", ask]))
    assert {name: held[name] for name in COLAB} == COLAB


def test_what_simclr_asks_for_is_there_in_those_versions(python, tmp_path):
    "pip itself, offline: with every version held it would add simclr and nothing else."
    source, stub = tmp_path / "source", tmp_path / "stub/notebook-6.5.7.dist-info"         # Colab has notebook; ipywidgets 7 names it, no page needs it
    for path in (source, stub): path.mkdir(parents=True)
    (stub / "METADATA").write_text("Metadata-Version: 2.1\nName: notebook\nVersion: 6.5.7\n")
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md", "MANIFEST.in"): shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "simclr", source / "simclr", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    held = run([*pip, "list", "--format=freeze"], PYTHONPATH=str(stub.parent))
    (tmp_path / "held.txt").write_text("".join(f"{line}\n" for line in held.splitlines() if not line.startswith("simclr")))
    run([*pip, "install", "--quiet", "--dry-run", "--no-index", "--no-build-isolation", "--constraint", tmp_path / "held.txt",
         "--report", tmp_path / "report.json", source], PYTHONPATH=str(stub.parent))
    names = [item["metadata"]["name"] for item in json.loads((tmp_path / "report.json").read_text())["install"]]
    assert names == ["simclr-notebooks"]


def test_where_simclr_is_nothing_is_run(session): assert session(simclr_there=True)[1] == []


def test_without_a_gpu_it_says_what_to_click(session):
    said, _, _ = session(simclr_there=True)
    assert "simclr is here. GPU: none" in said and GPU in said


def test_with_a_gpu_it_names_it(session):
    said, _, _ = session(simclr_there=True, gpu=True)
    assert "Tesla T4" in said and GPU not in said


@pytest.mark.parametrize("step, commands", [("list", 1), ("install", 2)])
def test_if_pip_fails_it_says_so_and_stops(session, tmp_path, step, commands):
    with pytest.raises(AssertionError) as stop: session(PIP_FAILS=step)
    message = str(stop.value)
    assert "RuntimeError: pip could not add simclr" in message and "No matching distribution" in message and "Disconnect and delete runtime" in message
    assert "simclr is here" not in message and len((tmp_path / "pip.log").read_text().splitlines()) == commands


def test_the_cell_for_drive_names_one_run_and_goes_on_with_it(monkeypatch, tmp_path):
    "The cell of 04_pretrain, with a Drive and a pretrain that only take notes."
    from simclr import model, runs
    cell = next(c.source for c in nbformat.read(ROOT / "nbs/04_pretrain.ipynb", 4).cells if c.cell_type == "code" and "drive.mount" in c.source)
    assert directives(cell)["eval"] == "false"
    notes, drive = [], types.ModuleType("google.colab.drive")
    drive.mount = lambda place: notes.append(place)
    package = types.ModuleType("google.colab")
    package.drive = drive
    for name, module in {"google": types.ModuleType("google"), "google.colab": package}.items(): monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(model, "load_encoder", lambda folder: notes.append(folder))
    exec(cell.replace("/content/drive", str(tmp_path)), dict(pretrain=lambda dataset, **config: notes.append(config | dict(dataset=dataset)), Path=Path))
    place, config, folder = notes
    assert place == str(tmp_path) and Path(config["run_dir"]).is_relative_to(place) and "/content/drive" in cell
    assert (config["dataset"], config["version"], config["resume"]) == ("cifar10", 0, True)
    for _ in range(2): assert runs.run_folder(config, "pretrain") == folder                # a second session finds the first one's run


# The tool

def notebook(*cells):
    new = dict(m=nbformat.v4.new_markdown_cell, c=nbformat.v4.new_code_cell)
    return nbformat.v4.new_notebook(cells=[new[kind](text, id=f"id{i}") for i, (kind, text) in enumerate(cells)])


def listed(nb): return [(cell.id, cell.source) for cell in nb.cells]


def test_the_tool_puts_the_cell_below_the_badge_and_leaves_the_rest():
    nb = notebook(("m", "# A"), ("m", "badge"), ("c", "#| default_exp a"), ("c", "1"))
    before = listed(nb)
    assert colab.place(nb)
    assert listed(nb) == [*before[:2], ("on-colab", colab.CELL), *before[2:]]
    assert not colab.place(nb)


def test_the_tool_renews_an_old_text_keeps_its_id_and_removes_a_second():
    old = f'#| code-fold: true\n{colab.MARK}: an older one"\nprint()'
    nb = notebook(("m", "# A"), ("c", "0"), ("c", old), ("m", "b"), ("c", old))
    assert colab.place(nb)
    assert listed(nb) == [("id0", "# A"), ("id2", colab.CELL), ("id1", "0"), ("id3", "b")]


def test_the_tool_checks_without_writing(tmp_path):
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook(("m", "# A"), ("c", "1")), path)
    text, tool = path.read_text(), [sys.executable, str(ROOT / "tools/colab.py")]
    ask = subprocess.run([*tool, "--check", str(path)], capture_output=True, text=True)
    assert ask.returncode == 1 and "a.ipynb" in ask.stderr and path.read_text() == text
    assert subprocess.run([*tool, str(path)]).returncode == 0 and path.read_text() != text
    assert subprocess.run([*tool, "--check", str(path)]).returncode == 0
