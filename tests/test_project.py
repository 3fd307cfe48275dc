"The project as a whole: the export in sync, the import order, metadata, style caps, files."
import ast
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest
import yaml

from conftest import ROOT, project_files
from notebooks import directives, notebooks

if sys.version_info >= (3, 11): import tomllib
else: import tomli as tomllib

MODULES = sorted(p for p in (ROOT / "simclr").glob("*.py") if p.name not in ("__init__.py", "_modidx.py"))
EACH_MODULE = pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in MODULES])
EACH_NOTEBOOK = pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in notebooks()])
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def settings():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def required(key): return {re.split(r"[\[<>=;]", line)[0] for line in settings()[key].split()}


def code_cells(path): return [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def module_of(path):
    "The module that a notebook exports to, or None."
    names = [directives(source).get("default_exp") for source in code_cells(path)]
    return next((name for name in names if name), None)


def run(code, **env):
    "Run Python in a fresh process outside the checkout; returns what it printed."
    env = dict(os.environ, PYTHONPATH=str(ROOT), **env)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Export and imports

def test_export_in_sync(tmp_path):
    for name in ("nbs", "simclr"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"), symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in (tmp_path / "simclr").glob("*.py"):
        if path.name != "__init__.py": path.unlink()
    export = [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"]
    done = subprocess.run(export, cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert done.returncode == 0, done.stderr
    ours, fresh = ({p.name: p.read_text(encoding="utf-8") for p in (top / "simclr").glob("*.py")} for top in (ROOT, tmp_path))
    assert sorted(ours) == sorted(fresh), "a module without a notebook, or a notebook without its module"
    assert [name for name in ours if ours[name] != fresh[name]] == [], "run: make export"
    assert (tmp_path / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()


def imports_of(path):
    "Modules of this package that a module imports, anywhere in its code."
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):                          # nbdev writes simclr.x as .x
            source = ".".join(filter(None, ["simclr" * (node.level > 0), node.module]))
            names = [source] if source != "simclr" else [f"simclr.{alias.name}" for alias in node.names]
        else: continue
        found |= {name.split(".")[1] for name in names if name.startswith("simclr.")}
    return {name for name in found if not name.startswith("__")}        # simclr.__version__ is no module


@EACH_MODULE
def test_a_module_imports_only_earlier_ones(path):
    order = [name for name in map(module_of, notebooks()) if name]
    assert path.stem in order, f"no notebook exports {path.name}"
    later = imports_of(path) - set(order[:order.index(path.stem)])
    assert not later, f"{path.name} imports {sorted(later)}, which its reader has not met"


@EACH_NOTEBOOK
def test_a_notebook_imports_only_earlier_modules(path):
    order = [module_of(p) for p in notebooks() if p.stem != "index"]
    known = set(order) if path.stem == "index" else set(order[:[p.stem for p in notebooks() if p.stem != "index"].index(path.stem) + 1])
    used = {name for source in code_cells(path) for name in re.findall(r"^\s*(?:from|import) simclr\.(\w+)", source, re.M)}
    assert used <= known


def test_importing_the_package_is_instant_and_loads_no_torch():
    code = "import sys, time; t = time.perf_counter(); import simclr; print(time.perf_counter() - t, 'torch' in sys.modules)"
    runs = [run(code).split() for _ in range(3)]
    assert {loaded for _, loaded in runs} == {"False"}
    assert min(float(seconds) for seconds, _ in runs) < 0.3


@pytest.mark.parametrize("module, unwanted", [("loss", "lightning torchvision sklearn plotly"), ("data", "lightning sklearn plotly"),
                                              ("augment", "lightning sklearn plotly"), ("model", "lightning sklearn plotly"),
                                              ("cli", "torch lightning sklearn plotly")])
def test_a_module_loads_only_what_it_needs(module, unwanted):
    loaded = run(f"import sys, simclr.{module}; print(*{{name.split('.')[0] for name in sys.modules}})")
    assert not set(unwanted.split()) & set(loaded.replace("pytorch_lightning", "lightning").split())


# Metadata

def test_settings_pyproject_and_package_agree():
    import simclr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ours = settings()
    assert project["project"]["name"] == ours["dist_name"]
    assert project["project"]["description"] == ours["description"]
    assert project["tool"]["nbdev"]["lib_path"] == ours["lib_name"]
    assert simclr.__version__ == ours["version"]
    assert f"## {ours['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key, names", [("requirements", "torch torchvision pytorch-lightning ipywidgets umap-learn plotly"),
                                        ("notebooks_requirements", "jupyterlab"), ("dev_requirements", "nbdev jupyterlab pytest build")])
def test_the_promised_requirements_are_declared(key, names): assert set(names.split()) <= required(key)


def test_every_import_of_the_package_is_a_declared_requirement():
    distribution = dict(PIL="Pillow", sklearn="umap-learn", umap="umap-learn", pytorch_lightning="pytorch-lightning")
    through = {"numpy", "yaml", "IPython", "traitlets"}                # umap-learn, jsonargparse and ipywidgets stand on them
    used = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import): used |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level: used.add(node.module.split(".")[0])
    used -= set(sys.stdlib_module_names) | through | {"simclr"}
    assert {distribution.get(name, name) for name in used} <= required("requirements")


def test_readme_is_made_from_the_tour():
    from readme import readme
    assert (ROOT / "nbs/index.ipynb").exists(), "nbs/index.ipynb is the source of README.md"
    written = (ROOT / "README.md").read_text(encoding="utf-8")
    assert written == readme(ROOT / "nbs/index.ipynb"), "run: make readme"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_local_links_lead_somewhere(name):
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r'(?:\]\(|(?:src|href)=")(?!https?:|#|mailto:|data:)([^)#"\s]+)', text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_site_lists_every_notebook_in_reading_order():
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    parts = config["website"]["sidebar"]["contents"]
    listed = [page for part in parts for page in (part["contents"] if isinstance(part, dict) else [part])]
    assert listed == [p.name for p in notebooks()]
    assert (ROOT / "nbs/_quarto.yml").resolve() == ROOT / "_quarto.yml" and (ROOT / "nbs/nbdev.yml").exists()


# Style caps

def lines(source): return [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#|")]


@EACH_NOTEBOOK
def test_cells_are_short(path):
    long = []
    for i, source in enumerate(code_cells(path)):
        marks = directives(source)
        if {"export", "exporti", "exports"} & set(marks): continue
        cap = 25 if {"hide", "code-fold"} & set(marks) else 10
        if len(lines(source)) > cap: long.append(f"code cell {i}: {len(lines(source))} lines, at most {cap}")
    assert not long


@EACH_NOTEBOOK
def test_cell_lines_are_not_wide(path):
    assert not [line for source in code_cells(path) for line in source.splitlines() if len(line) > 165]


@EACH_NOTEBOOK
def test_imports_stand_in_cells_of_their_own(path):
    mixed = []                     # nbdev runs every cell that holds an import when it makes the site, and no other cell
    for i, source in enumerate(code_cells(path)):
        marks = directives(source)
        if {"export", "exporti", "exports"} & set(marks) or marks.get("eval") == "false" or source.lstrip().startswith(("%", "!")): continue
        tree = ast.parse(source)
        imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
        if imports and not all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body): mixed.append(f"code cell {i}")
    assert not mixed


@EACH_MODULE
def test_modules_are_short(path):
    source = path.read_text(encoding="utf-8").splitlines()
    assert len(source) <= 250
    assert not [i for i, line in enumerate(source, 1) if len(line) > 140]


def body_lines(node, source):
    "Lines of a function's body without its docstring and blank lines."
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return len([line for line in source[body[0].lineno - 1:body[-1].end_lineno] if line.strip()]) if body else 0


@EACH_MODULE
def test_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    counts = {n.name: body_lines(n, text.splitlines()) for n in ast.walk(ast.parse(text)) if isinstance(n, FUNCTIONS)}
    assert {name: count for name, count in counts.items() if count > 25} == {}


def public(path):
    "The functions and classes of a module that are for readers."
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [n for n in body if isinstance(n, (*FUNCTIONS, ast.ClassDef)) and n.name[0] != "_"]


@EACH_MODULE
def test_public_names_have_docstrings(path): assert [n.name for n in public(path) if not ast.get_docstring(n)] == []


@EACH_MODULE
def test_arguments_of_public_functions_are_explained(path):
    source, bare = path.read_text(encoding="utf-8").splitlines(), []
    for node in public(path):
        if isinstance(node, ast.ClassDef): continue
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        after = {arg.arg: source[arg.end_lineno - 1][arg.end_col_offset:] for arg in args}
        bare += [f"{node.name}({name})" for name, text in after.items() if not re.search(r"#\s*\S", text)]
    assert not bare


def test_a_public_function_has_a_doctest_somewhere_in_each_module():
    without = [p.name for p in MODULES if p.stem != "cli" and ">>>" not in p.read_text(encoding="utf-8")]
    assert not without


# Files

SUFFIXES = {".py", ".ipynb", ".md", ".yml", ".yaml", ".toml", ".ini", ".js", ".json", ".css", ".in", ".bib", ""}
TEXT = [p for p in project_files() if p.suffix in SUFFIXES and p.stat().st_size < 2_000_000]


def found(pattern, skip=()):
    "Where a pattern occurs in the project's text files, this one left out."
    hits = []
    for path in TEXT:
        if path == Path(__file__) or path.name in skip: continue
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(pattern, line): hits.append(f"{path.relative_to(ROOT)}:{i}: {line.strip()[:100]}")
    return hits


def test_nothing_is_left_to_do(): assert not found(r"\bTODO\b|\bFIXME\b|\bXXX\b|NotImplementedError")


def test_no_registry_hosts():
    hosts = [".".join(parts.split()) for parts in ("pypi org", "python" "hosted org", "download pytorch org", "registry npmjs org", "npmjs com",
                                                  "conda anaconda org", "deb debian org")]
    assert not found("|".join(map(re.escape, hosts)))


def test_no_machine_paths():
    assert not found(r"(?<![\w.~>)-])/(?:work|root|home|Users)/\w", skip=["test_notebooks.py"])


def test_no_large_files():
    made = lambda p: p.is_relative_to(ROOT / "results") or p.is_relative_to(ROOT / "nbs/widgets") or p.is_relative_to(ROOT / "simclr/encoders")      # data of our own code that a page needs
    assert not [str(p.relative_to(ROOT)) for p in project_files() if p.stat().st_size > (3_000_000 if made(p) else 1_000_000)]


def test_ruff_is_content():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
