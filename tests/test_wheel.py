"The wheel, as a user gets it: what is in it, what it asks for, and that its command works outside the checkout."
import email
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from conftest import ROOT, project_files

META = ConfigParser(delimiters=["="])
META.read(ROOT / "settings.ini", encoding="utf-8")
META = META["DEFAULT"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built from a copy of what would be committed; nothing is downloaded."
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in project_files():
        (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / path.relative_to(ROOT))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    "A fresh environment that holds the wheel, and sees this environment's packages but not its editable install."
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "env", with_pip=False, symlinks=True)
    folder = next((home / "env/lib").glob("python*")) / "site-packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # a plain path line: packages become visible, the .pth files in there (the editable install) do not run
    (folder / "packages-of-the-tests.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    script = home / "env/bin/simclr"
    script.write_text(f"#!{home}/env/bin/python\nimport sys\nfrom simclr.cli import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return home


def run(home, *args, seconds=300):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([str(home / "env/bin" / args[0]), *args[1:]], cwd=home, env=env, capture_output=True, text=True, timeout=seconds)


def test_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"simclr", f"simclr_notebooks-{META['version']}.dist-info"}
    ours = {f"simclr/{p.name}" for p in (ROOT / "simclr").iterdir() if p.suffix in (".py", ".js", ".css")}
    ours |= {f"simclr/encoders/{p.parent.name}/{p.name}" for p in (ROOT / "simclr/encoders").glob("*/*")}
    assert {name for name in names if name.startswith("simclr/")} == ours


def test_wheel_metadata(wheel):
    archive, top = zipfile.ZipFile(wheel), f"simclr_notebooks-{META['version']}.dist-info"
    meta = email.message_from_bytes(archive.read(f"{top}/METADATA"))
    assert (meta["Name"], meta["Version"], meta["Summary"]) == (META["dist_name"], META["version"], META["description"])
    assert meta["Requires-Python"] == f">={META['min_python']}"
    assert META["license"] in (meta["License-Expression"], meta["License"])
    assert any(name.startswith(f"{top}/") and name.endswith("LICENSE") for name in archive.namelist())
    assert "simclr = simclr.cli:main" in archive.read(f"{top}/entry_points.txt").decode()
    plain = {line.replace(" ", "") for line in meta.get_all("Requires-Dist") if "extra ==" not in line}
    names = lambda lines: {line.split(";")[0].split(">")[0].split("=")[0].split("<")[0] for line in lines}
    assert names(plain) == names(META["requirements"].split())
    assert not names(plain) & {"nbdev", "pytest", "lightly", "jupyterlab"}
    assert meta.get_content_type() == "text/plain" and "SimCLR" in meta.get_payload()


def test_the_installed_package_is_the_wheels(installed):
    done = run(installed, "python", "-c", "import simclr, importlib.metadata as m; print(simclr.__file__); print(m.version('simclr-notebooks'))")
    assert done.returncode == 0, done.stderr
    where, version = done.stdout.split()
    assert Path(where).is_relative_to(installed / "env") and version == META["version"]


def test_help_outside_the_checkout(installed):
    done = run(installed, "simclr", "--help")
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("pretrain", "evaluate", "embed", "demo"))


def test_demo_outside_the_checkout(installed):
    done = run(installed, "simclr", "demo", "--seeds", "1", "--epochs", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Test set" in done.stdout
    assert (installed / "runs/demo/curves.html").exists() and list(installed.glob("runs/demo/**/encoder.safetensors"))


def test_bad_input_ends_with_one_line(installed):
    done = run(installed, "simclr", "demo", "--seeds", "0")
    assert done.returncode == 2 and "seeds=0" in done.stderr and "Traceback" not in done.stderr
