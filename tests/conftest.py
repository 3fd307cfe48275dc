"Shared by all tests: the paths of this checkout, and tools/ on the import path."
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
os.environ.setdefault("OMP_NUM_THREADS", "1")    # small nets gain nothing from more, and spinning threads stall on a shared machine
BUILT = {".git", ".venv", "runs", "_docs", "_proc", "dist", "build", "__pycache__", ".ipynb_checkpoints"}
BUILT |= {".pytest_cache", ".hypothesis", ".ruff_cache"}


@pytest.fixture
def ctrl_c_is_heard():
    "A process that a shell started in the background ignores Ctrl-C; some tests need it."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def browser():
    "A Chromium that all tests share: CHROMIUM names it, else the first on the PATH; without one the test fails, for a skip looks like a pass."
    from chromium import chromium
    try:
        with chromium() as found: yield found
    except FileNotFoundError as e: pytest.fail(str(e), pytrace=False)


@pytest.fixture(scope="session")
def page_folder(tmp_path_factory):
    "A copy of nbs/ among links to all else: what a page draws there (the home page does) leaves the checkout as it is."
    home = tmp_path_factory.mktemp("project")
    for path in ROOT.iterdir():
        if path.name not in ("nbs", ".git"): (home / path.name).symlink_to(path)
    return shutil.copytree(ROOT / "nbs", home / "nbs", symlinks=True)


def project_files():
    "The files that a commit of everything would hold; without git, all but what is built."
    ask = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try: listed = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError: listed = subprocess.CompletedProcess(ask, 1, "", "")
    if listed.returncode == 0 and listed.stdout: names = listed.stdout.split("\0")[:-1]
    else: names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if not BUILT & set(p.relative_to(ROOT).parts)]
    return sorted(ROOT / n for n in names if (ROOT / n).is_file() and not (ROOT / n).is_symlink())
