"""Kill -9, full disks, hostile and broken files, NaN, a second process: what a user's run does then, with real processes.

What can be seen within one process is in the tests of the modules; this file is about what the operating system does to a run.
"""
import csv
import errno
import inspect
import json
import math
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import simclr.classifier
import simclr.pretrain
from conftest import ROOT
from simclr.baseline import finetune, train_from_scratch
from simclr.cli import main
from simclr.compare import compare, draw_sweep
from simclr.data import load_images
from simclr.explore import explore
from simclr.files import alone, check_finite, flat, lock, read_checkpoint, write_csv, write_json, write_page
from simclr.model import build_encoder, load_encoder, save_encoder
from simclr.pretrain import SimCLR, WholeFile, build_module, pretrain
from simclr.runs import draw_curves, load_run, read_record, read_settings, read_snapshots
from simclr.studio import Studio
from simclr.widget import StaticWidget

SETTINGS = dict(dataset="digits", image_size=8, backbone="resnet8", width=4, batch_size=32, optimizer="adamw", learning_rate=3e-3, precision="fp32")
PRE = SETTINGS | dict(hidden_dim=16, projection_dim=8, lr_scaling_method="none", warmup_epochs=1, epochs=6, knn_every=3)
SCRATCH = SETTINGS | dict(epochs=3, padding=1, warmup_epochs=0)
FINE = {k: v for k, v in SCRATCH.items() if k not in ("dataset", "image_size", "backbone", "width")} | dict(freeze_encoder=False)
DEFAULTS = {k: p.default for k, p in inspect.signature(pretrain).parameters.items()}
ENV = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
FOLDER = "runs/pretrain/resnet8/version_0"
CHECKPOINT = f"{FOLDER}/checkpoints/last.ckpt"


def line(name, settings, **more): return [name, *(f"--{k}={'null' if v is None else str(v).lower() if v is True or v is False else v}" for k, v in (settings | more).items())]


class Worker:
    "The process of fault_worker.py."
    def __init__(self):
        command = [sys.executable, str(ROOT / "tests/fault_worker.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(ENV, PYTHONHASHSEED="1"))
        assert self.read() == "ready"
    def read(self): return json.loads(self.process.stdout.readline())
    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()
    def start(self, job, cwd, *args, **more): return self.ask(job=job, cwd=str(cwd), args=args, **more)
    def wait(self, pid): return self.ask(wait=pid)
    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL, "it had ended before it was killed"
    def shell(self, cwd, *args, **more):
        "A command to its end: exit code, what it printed, what it said on stderr."
        code = self.wait(self.start("command", cwd, *args, **more))
        return code, (cwd / "out").read_text(), (cwd / "err").read_text()


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.process.stdin.close()
    worker.process.wait()


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def rows(folder):
    path = folder / "metrics.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def killed_within(worker, cwd, folder, epoch, *args):
    "Start a command and kill -9 it in the middle of an epoch, counted from 1. Afterwards that epoch has left nothing."
    pid, folder = worker.start("command", cwd, *args), cwd / folder
    saved, table = folder / "checkpoints/last.ckpt", folder / "metrics.csv"
    before = saved.stat().st_mtime_ns if saved.exists() else 0
    if epoch == 1: until((folder / "lock").exists)                 # it trains, or is about to
    else: until(lambda: len(rows(folder)) >= epoch - 1 and saved.exists() and before != saved.stat().st_mtime_ns >= table.stat().st_mtime_ns)
    time.sleep(0.4 * float(rows(folder)[-1]["seconds"]) if epoch > 1 else 0.05)
    worker.kill(pid)
    assert len(rows(folder)) == epoch - 1, f"the kill came too late for epoch {epoch}"
    if epoch > 1: assert read_checkpoint(saved)["epoch"] == epoch - 2      # from 0
    else: assert not saved.exists()
    assert not (folder / "encoder.safetensors").exists() and not (folder / "results.json").exists()


CLOCK = re.compile(r"(^|/)(seconds|images_per_second|dirpath|best_model_path|date)$")


def differences(a, b):
    "Names of what is not the same to the bit in two nests of dictionaries, apart from clocks and places."
    a, b = ({k: v for k, v in flat(x).items() if not CLOCK.search(k)} for x in (a, b))
    same = lambda x, y: x.dtype == y.dtype and torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y and type(x) is type(y)
    return sorted(a.keys() ^ b.keys()) + [k for k in a.keys() & b.keys() if not same(a[k], b[k])]


def assert_same_run(a, b, source="\0"):
    assert (a / "encoder.safetensors").read_bytes() == (b / "encoder.safetensors").read_bytes()
    found, wanted = (read_checkpoint(p / "checkpoints/last.ckpt") for p in (a, b))
    assert {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"} <= found.keys() and differences(found, wanted) == []
    assert [{k: v for k, v in r.items() if not CLOCK.search(k)} for r in rows(a)] == [{k: v for k, v in r.items() if not CLOCK.search(k)} for r in rows(b)]
    records = [json.loads((p / "results.json").read_text()) for p in (a, b)]
    for r in records: r["config"] = {k: v for k, v in r["config"].items() if k not in ("resume", "version")}
    assert differences(*records) == []
    assert not list(b.rglob("*.part")) and not (b / "lock").exists()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    "Six epochs at a stretch, by the command line in an interpreter of its own."
    cwd = tmp_path_factory.mktemp("straight")
    done = subprocess.run([sys.executable, "-m", "simclr.cli", *line("pretrain", PRE)], cwd=cwd, env=dict(ENV, PYTHONHASHSEED="2"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.splitlines()) == 7
    return cwd / FOLDER


@pytest.fixture(scope="module")
def killed(worker, tmp_path_factory):
    "The same six epochs, killed in the first, before any checkpoint, and again in the fourth."
    cwd = tmp_path_factory.mktemp("killed")
    killed_within(worker, cwd, FOLDER, 1, *line("pretrain", PRE))
    killed_within(worker, cwd, FOLDER, 4, *line("pretrain", PRE, resume=True))
    return cwd


@pytest.fixture
def cwd(killed, tmp_path):
    "A copy of the killed run, somewhere else."
    shutil.copytree(killed / "runs", tmp_path / "runs")
    return tmp_path


RESUME = line("pretrain", PRE, resume=True)


# Resume

def test_killed_in_the_fourth_epoch_and_resumed_is_the_same_run(worker, straight, cwd):
    code, out, err = worker.shell(cwd, *RESUME)
    assert (code, err) == (0, "") and [text[:11] for text in out.splitlines()[:-1]] == [f"epoch   {n}/6" for n in (4, 5, 6)]
    assert_same_run(straight, cwd / FOLDER)


@pytest.mark.parametrize("stage, settings", [("scratch", SCRATCH), ("finetune", FINE)])
def test_a_killed_classifier_resumed_is_the_same_run(worker, straight, tmp_path, stage, settings):
    "Between them, a second process at the same folder is sent away, and the first, killed, does not keep it."
    folder, command = f"runs/{stage}/resnet8/version_0", line(stage, settings | (dict(run=straight) if stage == "finetune" else {}))
    for name in ("a", "b"): (tmp_path / name).mkdir()
    assert worker.shell(tmp_path / "a", *command)[::2] == (0, "")
    killed_within(worker, tmp_path / "b", folder, 2, *command)
    assert worker.shell(tmp_path / "b", *command, "--resume")[::2] == (0, "")
    assert_same_run(tmp_path / "a" / folder, tmp_path / "b" / folder)


def test_the_seed_decides_and_two_seeds_differ(worker, tmp_path):
    short = PRE | dict(epochs=1, batch_size=256)
    for seed in (1, 1, 2): assert worker.shell(tmp_path, *line("pretrain", short, seed=seed))[::2] == (0, "")
    a, again, b = (read_checkpoint(tmp_path / f"runs/pretrain/resnet8/version_{n}/checkpoints/last.ckpt") for n in range(3))
    assert differences(a, again) == []
    moved = {k for k, v in a["state_dict"].items() if v.is_floating_point()}
    assert len(moved) > 20 and moved <= {k.removeprefix("state_dict/") for k in differences(a, b)}


def test_the_same_scores_come_twice(worker, straight, tmp_path):
    scores = []
    for name in "ab":
        shutil.copytree(straight, tmp_path / name)
        assert worker.shell(tmp_path, "evaluate", name, "--per_class=[2]")[::2] == (0, "")
        scores.append(json.loads((tmp_path / name / "results.json").read_text())["evaluate"])
    assert differences(*scores) == [] and len(flat(scores[0])) > 10


# Killed while it writes

@pytest.mark.parametrize("kind, kills, least", [("checkpoint", 30, 8), ("encoder", 8, 0), ("record", 8, 0), ("plain", 12, 1)])
def test_a_kill_within_a_write_costs_nothing(worker, tmp_path, kind, kills, least):
    """`plain` is the control: PyTorch's own save, cut off by the same kills, leaves files that cannot be read.

    `least` is how many kills must have hit a write, or the test has tested nothing."""
    path, cut, broken, rng = tmp_path / "file", 0, 0, random.Random(0)
    read = dict(encoder=lambda: torch.cat([v.flatten() for v in load_encoder(path).parameters()]),
                record=lambda: torch.tensor(json.loads(path.read_text())["data"])).get(kind, lambda: read_checkpoint(path)["state_dict"]["data"])
    for n in range(kills):
        pid = worker.start("write", tmp_path, kind, str(path), str(tmp_path / f"mark{n}"))
        until((tmp_path / f"mark{n}").exists)
        time.sleep(rng.uniform(0, 0.06))
        worker.kill(pid)
        cut += (tmp_path / "file.part").exists()
        try: data = read()
        except ValueError: broken += 1
        else: assert data.min() == data.max() == data[0].round() >= 0, "half of one version and half of another"
    if kind == "plain":
        assert broken >= least
        return
    assert broken == 0 and cut >= least
    (tmp_path / "file.part").write_bytes(b"left behind")
    WholeFile().save_checkpoint(dict(n=1), path)
    assert read_checkpoint(path)["n"] == 1 and not (tmp_path / "file.part").exists()       # what was left behind is no hindrance, and goes


def test_renamed_means_on_the_disk(monkeypatch, tmp_path):
    "A power cut cannot be tried here; the order of the calls can: file to the disk, rename, folder to the disk."
    calls, sync, move = [], os.fsync, Path.replace
    kind = lambda handle: "folder" if os.path.isdir(f"/dev/fd/{handle}") else "file"
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(kind(handle)), sync(handle)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (calls.append("rename"), move(a, b)))
    for write in (lambda p: WholeFile().save_checkpoint(dict(n=1), p), lambda p: save_encoder(build_encoder("resnet8", width=4), p),
                  lambda p: write_json({}, p), lambda p: write_csv([], p)):
        calls.clear()
        write(tmp_path / "x")
        assert calls == ["file", "rename", "folder"]


# No room, no right

def test_a_full_disk_ends_with_one_line_and_costs_an_epoch(worker, straight, cwd):
    "A limit to the size of files, as the kernel gives it, stands for the disk: the write itself fails, in C++ and in Python."
    before = (cwd / CHECKPOINT).read_bytes()
    code, out, err = worker.shell(cwd, *RESUME, limit=len(before) // 2)
    assert code == 2 and err == f"simclr: error: [Errno 27] File too large: '{(cwd / CHECKPOINT).resolve()}'\n"
    assert (cwd / CHECKPOINT).read_bytes() == before and not list(cwd.rglob("*.part")) and not (cwd / FOLDER / "lock").exists()
    assert worker.shell(cwd, *RESUME)[::2] == (0, "")
    assert_same_run(straight, cwd / FOLDER)


class Page(StaticWidget):
    _esm = "function render({ el }) {}\nexport default { render };"
    _css = ""


WRITERS = dict(record=lambda p: write_json(dict(a=[1] * 10_000), p), table=lambda p: write_csv([dict(a="x" * 99_999)], p),
               page=lambda p: write_page(p, "", [go.Figure()]), widget=lambda p: Page(blob=b"").save(p),
               encoder=lambda p: save_encoder(build_encoder("resnet8", width=4), p),
               checkpoint=lambda p: WholeFile().save_checkpoint(dict(state_dict=dict(a=torch.zeros(99_999))), p))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, kind):
    path = tmp_path / "old"
    path.write_bytes(b"old")
    Path(f"{path}.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as e: WRITERS[kind](path)
    assert e.value.errno == errno.ENOSPC and str(path) in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["old"] and path.read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["checkpoint", "encoder", "record"])
def test_a_write_that_is_cut_off_half_way_is_named_and_the_old_file_stays(worker, tmp_path, kind):
    (tmp_path / "old").write_bytes(b"old")
    assert worker.wait(worker.start("write", tmp_path, kind, "old", "mark", limit=60_000)) == 1
    assert (tmp_path / "err").read_text().splitlines()[-1] == "OSError: [Errno 27] File too large: 'old'"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["err", "old", "out"] and (tmp_path / "old").read_bytes() == b"old"


@pytest.fixture
def open_to_all():
    "A folder that any user can reach: root may write everywhere, so the command runs as somebody else."
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    for p in [folder, *folder.rglob("*")]: p.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written_to(worker, killed, open_to_all):
    nobody = dict(user=65534) if os.getuid() == 0 else {}
    shutil.copytree(killed / "runs", open_to_all / "runs", ignore=shutil.ignore_patterns("lock"))
    for name in ("out", "err"): (open_to_all / name).touch()
    for p in (*open_to_all.rglob("*"), open_to_all): p.chmod(0o555 if p.is_dir() else 0o666)
    before = (open_to_all / CHECKPOINT).read_bytes()
    for command, place in ((RESUME, f"{FOLDER}/lock"), (line("pretrain", PRE, run_dir="new"), "new.*")):
        code, out, err = worker.shell(open_to_all, *command, **nobody)
        assert code == 2 and out == "" and re.fullmatch(rf"simclr: error: \[Errno 13\] Permission denied: '.*{place}'\n", err), err
    assert (open_to_all / CHECKPOINT).read_bytes() == before and not list(open_to_all.rglob("*.part")) + list(open_to_all.rglob("lock"))


@pytest.mark.parametrize("place, words", [("file/runs", "Not a directory: 'file/runs"), ("/proc/runs", "No such file or directory: '/proc/runs")])
def test_a_place_where_no_folder_can_be(tmp_path, monkeypatch, capsys, place, words):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as stop: main(line("pretrain", PRE, run_dir=place))
    err = capsys.readouterr().err
    assert stop.value.code == 2 and words in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# A second process

def test_a_second_process_is_sent_away_and_a_killed_one_leaves_the_folder_free(worker, straight, cwd, tmp_path_factory):
    first = worker.start("command", cwd, *RESUME)
    until(lambda: (cwd / FOLDER / "lock").read_text().startswith(f"{first} on "))              # the killed run has left one too
    second = tmp_path_factory.mktemp("second")
    code, out, err = worker.shell(second, *line("pretrain", PRE, resume=True, run_dir=cwd / "runs"))
    assert code == 2 and err.count("\n") == 1 and f"{cwd / FOLDER} is in use by process {first} on " in err, err
    worker.kill(first)
    assert (cwd / FOLDER / "lock").read_text().startswith(f"{first} on ")                      # the file is there, the lock is not
    assert worker.shell(cwd, *RESUME)[::2] == (0, "")
    assert_same_run(straight, cwd / FOLDER)


def test_children_of_a_killed_process_do_not_keep_its_lock(worker, tmp_path):
    "The workers of a loader see that their parent is gone after some seconds; nobody should have to wait for them."
    pid = worker.start("hold", tmp_path, str(tmp_path), str(tmp_path / "mark"))
    until(lambda: (tmp_path / "mark").exists() and (tmp_path / "mark").read_text())
    child = int((tmp_path / "mark").read_text())
    try:
        with pytest.raises(ValueError, match=f"in use by process {pid} on"), alone(tmp_path): pass
        worker.kill(pid)
        os.kill(child, 0)                                                                      # it lives
        with alone(tmp_path): assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} on ")
    finally: os.kill(child, signal.SIGKILL)
    assert not (tmp_path / "lock").exists()


def test_the_lock_is_given_back_after_an_error_and_where_there_are_none_nobody_is_kept_out(tmp_path, monkeypatch):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone(tmp_path): raise ZeroDivisionError
    def unknown(f): raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr("simclr.files.lock", unknown)
    with alone(tmp_path / "new"): assert (tmp_path / "new/lock").exists()


def test_a_lock_file_that_went_away_between_opening_and_locking_is_no_lock(tmp_path, monkeypatch):
    "Else one process would hold the lock of a file without a name, and the next that of a new file."
    def late(f):
        (tmp_path / "lock").unlink()
        lock(f)
    monkeypatch.setattr("simclr.files.lock", late)
    with pytest.raises(ValueError, match="that has just ended"), alone(tmp_path): pass


# Files that hold programs

CANARY = "it_ran"


class Program:
    def __reduce__(self): return os.system, (f"touch {CANARY}",)


def evil_zip(path, name="data.pkl", **options):
    with zipfile.ZipFile(path, "w", **options) as z:
        z.writestr(f"archive/{name}", pickle.dumps(Program()))
        z.writestr("archive/version", "3\n")


EVIL_CHECKPOINTS = {
    "state": lambda p: torch.save(dict(state_dict=Program()), p), "beside the state": lambda p: torch.save(read_checkpoint(p) | dict(hyper_parameters=Program()), p),
    "pickle": lambda p: p.write_bytes(pickle.dumps(Program())), "old format": lambda p: torch.save(dict(state_dict=Program()), p, _use_new_zipfile_serialization=False),
    "bare zip": evil_zip, "compressed": lambda p: evil_zip(p, compression=zipfile.ZIP_DEFLATED), "TorchScript": lambda p: evil_zip(p, "constants.pkl"),
    "a class of another library": lambda p: torch.save(dict(state_dict=dict(x=Path("x"))), p)}


@pytest.fixture
def whole_run(straight, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(straight, tmp_path / FOLDER))


@pytest.mark.parametrize("kind", EVIL_CHECKPOINTS)
def test_a_program_in_a_checkpoint_does_not_run(cwd, monkeypatch, capsys, kind):
    monkeypatch.chdir(cwd)
    EVIL_CHECKPOINTS[kind](Path(CHECKPOINT))
    before = Path(CHECKPOINT).read_bytes()
    with pytest.raises(SystemExit) as stop: main(RESUME)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and CHECKPOINT in err and "that can be read without running code" in err and "delete it" in err
    save_encoder(build_encoder("resnet8", 1, 8, width=4), Path(FOLDER) / "encoder.safetensors")
    with pytest.raises(ValueError, match="without running code"): load_run(FOLDER)
    assert not Path(CANARY).exists() and Path(CHECKPOINT).read_bytes() == before


def test_the_canary_sings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Program()))
    assert Path(CANARY).exists()


TAGS = "!!python/object/apply:os.system ['touch it_ran']"
EVIL_FILES = {
    "encoder": lambda r: ((r / "encoder.safetensors").write_bytes(pickle.dumps(Program())), lambda: load_encoder(r)),
    "encoder.pt": lambda r: (torch.save(Program(), r / "encoder.pt"), lambda: load_encoder(r / "encoder.pt")),
    "metadata": lambda r: (save_file(load_encoder(r).net.state_dict(), r / "encoder.safetensors", metadata={"simclr_encoder": "__import__('os').system('touch it_ran')"}),
                           lambda: load_encoder(r)),
    "names of tensors": lambda r: (save_file({"__import__('os').system('touch it_ran')": torch.ones(1)}, r / "encoder.safetensors", metadata={"simclr_encoder": json.dumps(load_encoder(r).config)}),
                                   lambda: load_encoder(r)),
    "config.yaml": lambda r: ((r / "config.yaml").write_text(f"hidden_dim: {TAGS}"), lambda: load_run(r)),
    "config.yaml on resume": lambda r: ((r / "encoder.safetensors").unlink(), (r / "config.yaml").write_text(f"epochs: {TAGS}"), lambda: main(RESUME)),
    "--config": lambda r: (Path("evil.yaml").write_text(f"epochs: {TAGS}"), lambda: main(["pretrain", "--config", "evil.yaml"])),
    "value on the line": lambda r: (lambda: main(["pretrain", f"--epochs={TAGS}"]),),
    "results.json": lambda r: ((r / "results.json").write_bytes(pickle.dumps(Program())), lambda: read_record(r)),
    "sweep.json": lambda r: (Path("sweep.json").write_bytes(pickle.dumps(Program())), lambda: main(["sweep", str(r), "--per_class=[1]", "--fractions=[]", "--seeds=1"])),
    "pictures": lambda r: (evil_album(), lambda: main(["embed", str(r), "--images=album", "--out=h.npz"])),
    "snapshots": lambda r: ((r / "snapshots").mkdir(), (r / "snapshots/epoch_0001.safetensors").write_bytes(pickle.dumps(Program())), lambda: [load_encoder(p) for p in read_snapshots(r).values()]),
}


def evil_album():
    Path("album").mkdir()
    for name in ("a.jpg", "b.png", "c.npy", "d.pkl", "e.pt"): Path("album", name).write_bytes(pickle.dumps(Program()))
    np.save("album/f.npy", np.array([Program()], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("kind", EVIL_FILES)
def test_a_program_in_any_other_file_does_not_run(whole_run, capsys, kind):
    *_, read = EVIL_FILES[kind](whole_run)
    with pytest.raises((ValueError, SystemExit)) as e: read()
    if e.type is SystemExit: assert e.value.code == 2 and "Traceback" not in capsys.readouterr().err
    assert not list(Path.cwd().rglob(CANARY))


def test_bombs_are_refused_at_once(whole_run):
    "A few kilobytes that ask for gigabytes, or for ever."
    start, checkpoint, laughs = time.process_time(), whole_run / "checkpoints/last.ckpt", ["a0: &a0 [x]"]
    with zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED) as z: z.writestr("archive/data.pkl", bytes(30_000_000))
    with pytest.raises(ValueError, match="is compressed"): load_run(whole_run)
    checkpoint.write_bytes(b"PK\5\6" + bytes(4) + b"\xff" * 12 + bytes(2))
    with pytest.raises(ValueError, match="not a whole checkpoint"): load_run(whole_run)
    for n in range(1, 30): laughs.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
    (whole_run / "config.yaml").write_text("\n".join(laughs))
    with pytest.raises(ValueError, match="neither nested nor aliases"): read_settings(whole_run / "config.yaml")
    (whole_run / "config.yaml").write_text("a: " + "[" * 100_000)
    with pytest.raises(ValueError, match="neither nested nor aliases"): read_settings(whole_run / "config.yaml")
    (whole_run / "results.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not a record"): read_record(whole_run)
    (whole_run / "encoder.safetensors").write_bytes((99_999_999).to_bytes(8, "little") + b"{" * 5000)
    with pytest.raises(ValueError, match="not a whole safetensors file"): load_encoder(whole_run)
    assert time.process_time() - start < 2


# Checkpoints that are whole, and not of this run

def other(**changes):
    "The checkpoint of the killed run as if these settings had been its own."
    config = DEFAULTS | PRE | changes
    module = build_module(config, load_images("digits", image_size=8))
    return dict(state_dict=module.state_dict(), hyper_parameters=dict(module.hparams))


def without(checkpoint, way):
    *way, last, x = [int(k) if k.isdecimal() else k for k in way.split("/")] + [checkpoint]
    for k in way: x = x[k]
    x.pop(last)
    return checkpoint


def with_nan(checkpoint, part):
    value = next(v for k, v in flat(checkpoint).items() if k.startswith(part) and isinstance(v, torch.Tensor) and v.ndim)
    value.view(-1)[-1] = math.nan
    return checkpoint


W, H = "model.encoder.net.0.0.weight", "model.head.3.weight"
STRANGERS = {
    "other width": (lambda c: c | other(width=8), rf"{W}: \(8, 1, 4, 4\) then, \(4, 1, 4, 4\) now"),
    "other backbone": (lambda c: c | other(backbone="resnet18", width=64), r"model.encoder.net.0.0.weight is missing; .* …"),
    "other projection": (lambda c: c | other(projection_dim=5), rf"{H}: \(5, 16\) then, \(8, 16\) now"),
    "other optimizer": (lambda c: c | other(optimizer="sgd"), "optimizer: sgd then, adamw now"),
    "other temperature and seed": (lambda c: c | other(temperature=0.1, seed=1), r"\(temperature: 0.1 then, 0.5 now; seed: 1 then, 42 now\)"),
    "a classifier's": (lambda c: c | dict(state_dict={k.removeprefix("model."): v for k, v in c["state_dict"].items()}), f"{W} is missing"),
    "unknown weight": (lambda c: c | dict(state_dict=c["state_dict"] | {"model.x": torch.ones(1)}), r"\(model.x is unknown\)"),
    "weight gone": (lambda c: without(c, f"state_dict/{W}"), rf"\({W} is missing\)"),
    "text for a weight": (lambda c: c | dict(state_dict=c["state_dict"] | {W: "x"}), "no state_dict made of tensors"),
    "no number for a weight": (lambda c: with_nan(c, "state_dict"), f"state_dict/{W} holds NaN or infinity"),
    "no number in the optimizer": (lambda c: with_nan(c, "optimizer_states"), "optimizer_states/0/state/0/exp_avg holds NaN or infinity"),
    "no weights": (lambda c: without(c, "state_dict"), "no state_dict made of tensors"),
    "no optimizers": (lambda c: c | dict(optimizer_states=[]), "optimizer_states/0/state/0/.* is missing"),
    "list": (lambda c: [c], "it holds a list"), "version of nothing": (lambda c: c | {"pytorch-lightning_version": "x"}, "Invalid version"),
} | {f"no {way}": (lambda c, way=way: without(c, way), f"{way}.* is missing") for way in (
    "optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "global_step", "hyper_parameters", "pytorch-lightning_version", "optimizer_states/0/state/3",
    "optimizer_states/0/state/3/exp_avg", "optimizer_states/0/param_groups", "lr_schedulers/0", "lr_schedulers/0/last_epoch", "loops/fit_loop",
    "loops/fit_loop/epoch_progress", "callbacks/EpochReport", "callbacks/EpochReport/curve/2")}


def resume_fails(cwd, monkeypatch, words):
    monkeypatch.chdir(cwd)
    (cwd / FOLDER / "lock").unlink(missing_ok=True)                                            # left by the kill
    before, path = {p: p.read_bytes() for p in cwd.rglob("*") if p.is_file()}, re.escape(CHECKPOINT)
    monkeypatch.setattr(SimCLR, "training_step", lambda *_: pytest.fail("it trains"))
    with pytest.raises(ValueError, match=f"^{path}.*{words}.*; delete it to begin this run anew, or give another version$"): pretrain(**PRE, resume=True)
    assert before == {p: p.read_bytes() for p in cwd.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(cwd, monkeypatch, kind):
    spoil, words = STRANGERS[kind]
    torch.save(spoil(read_checkpoint(cwd / CHECKPOINT)), cwd / CHECKPOINT)
    resume_fails(cwd, monkeypatch, words)


def test_without_looking_lightning_would_have_gone_on(cwd, monkeypatch):
    "The control: a checkpoint without its optimizer trains on, to other weights."
    monkeypatch.setattr("simclr.runs.check_resumable", lambda *_: None)
    torch.save(read_checkpoint(cwd / CHECKPOINT) | dict(optimizer_states=[]), cwd / CHECKPOINT)
    monkeypatch.chdir(cwd)
    pretrain(**PRE, resume=True, echo=False)


def test_a_checkpoint_cut_anywhere_or_with_a_flipped_bit_is_refused(cwd, monkeypatch):
    path = cwd / CHECKPOINT
    whole, rng, same = path.read_bytes(), random.Random(0), 0
    known = read_checkpoint(path)
    for length in sorted({0, 1, 3, 4, 22, len(whole) - 1, *rng.sample(range(len(whole)), 60)}):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a whole checkpoint"): read_checkpoint(path)
    resume_fails(cwd, monkeypatch, "not a whole checkpoint")
    for _ in range(150):
        spoilt = bytearray(whole)
        spoilt[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(spoilt)
        try: found = read_checkpoint(path)
        except ValueError: continue
        assert differences(known, found) == []                                                 # in the gaps between the parts
        same += 1
    assert same < 75
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError): read_checkpoint(path)


def test_what_to_do_works(worker, straight, cwd):
    (cwd / CHECKPOINT).write_bytes(b"")
    code, out, err = worker.shell(cwd, *RESUME)
    assert code == 2 and out == "" and "delete it to begin this run anew" in err and err.count("\n") == 1, err
    (cwd / CHECKPOINT).unlink()
    assert worker.shell(cwd, *RESUME)[::2] == (0, "")
    assert_same_run(straight, cwd / FOLDER)


def test_weights_that_are_no_numbers_do_not_load(whole_run):
    checkpoint = whole_run / "checkpoints/last.ckpt"
    torch.save(with_nan(read_checkpoint(checkpoint), "state_dict/model.head"), checkpoint)
    with pytest.raises(ValueError, match="last.ckpt: among its weights 0.weight holds NaN"): load_run(whole_run)
    state = load_encoder(whole_run).net.state_dict()
    state["0.1.running_var"][0] = math.inf
    save_file(state, whole_run / "encoder.safetensors", metadata={"simclr_encoder": json.dumps(load_encoder(whole_run).config)})
    with pytest.raises(ValueError, match="encoder.safetensors does not load: among its weights 0.1.running_var holds NaN or infinity"): load_encoder(whole_run)


# No numbers, in the last step of an epoch

TRAININGS = {"pretrain": (pretrain, PRE | dict(snapshots=6), SimCLR), "scratch": (train_from_scratch, SCRATCH, simclr.classifier.Classifier),
             "finetune": (finetune, FINE, simclr.classifier.Classifier)}


@pytest.mark.parametrize("what", ["gradient", "weight", "statistic"])
@pytest.mark.parametrize("stage", TRAININGS)
def test_a_last_step_into_nowhere_leaves_the_last_good_epoch(straight, tmp_path, monkeypatch, stage, what):
    "The loss of that step is a number: the harm is done after it. Without a look at the weights a sick epoch would be kept as a good one."
    train, settings, module = TRAININGS[stage]
    settings = settings | dict(epochs=3, batch_size=400, echo=False, run_dir=str(tmp_path)) | (dict(run=straight) if stage == "finetune" else {})
    steps = 3                                                                                  # 1,295 digits by 400
    def harm(self, *_):
        if self.global_step != 2 * steps - 1: return
        encoder = getattr(self, "model", self).encoder
        if what == "gradient": encoder.net[0][0].weight.grad[0] = math.inf
        if what == "weight": encoder.net[0][0].weight.data[0] = math.nan
        if what == "statistic": encoder.net[0][1].running_var[0] = math.inf
    name = dict(gradient="0.0.weight", weight="0.0.weight", statistic="0.1.running_var")[what]
    with monkeypatch.context() as patch:
        patch.setattr(module, "on_before_optimizer_step", harm)
        with pytest.raises(ValueError, match=rf"after step {2 * steps - 1}, lower learning_rate: \S*net.{name} holds NaN or infinity"): train(**settings)
    folder = next(tmp_path.glob("*/resnet8/version_0"))
    saved = read_checkpoint(folder / "checkpoints/last.ckpt")
    assert saved["epoch"] == 0 and len(rows(folder)) == 1                                      # nothing is said of the sick epoch
    check_finite(saved["state_dict"], "saved:")
    assert not list(folder.rglob("*.part")) and not (folder / "encoder.safetensors").exists() and 2 not in read_snapshots(folder)
    assert_same_weights(train(**settings, resume=True), train(**settings | dict(run_dir=str(tmp_path / "straight"))))


def assert_same_weights(a, b): assert (a / "encoder.safetensors").read_bytes() == (b / "encoder.safetensors").read_bytes()


@pytest.mark.parametrize("stage", TRAININGS)
def test_a_loss_that_is_no_number_names_its_step_and_leaves_the_last_good_epoch(straight, tmp_path, monkeypatch, stage):
    train, settings, module = TRAININGS[stage]
    settings = settings | dict(epochs=3, batch_size=400, echo=False, run_dir=str(tmp_path)) | (dict(run=straight) if stage == "finetune" else {})
    def harm(self, *_):
        if self.global_step == 4: getattr(self, "model", self).encoder.net[0][0].weight.grad[0] = math.inf
    monkeypatch.setattr(module, "on_before_optimizer_step", harm)
    with pytest.raises(ValueError, match="the loss became nan at step 5: lower learning_rate"): train(**settings)
    folder = next(tmp_path.glob("*/resnet8/version_0"))
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["epoch"] == 0 and len(rows(folder)) == 1


def test_nothing_sick_is_written_whoever_asks(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"old")
    for part in (dict(state_dict=dict(w=torch.tensor(math.nan))), dict(optimizer_states=[dict(state={0: dict(exp_avg=torch.tensor(-math.inf))})])):
        with pytest.raises(ValueError, match="last.ckpt is not written: .* holds NaN or infinity"): WholeFile().save_checkpoint(part, tmp_path / "last.ckpt")
    encoder = build_encoder("resnet8", width=4)
    encoder.net[0][1].running_mean[0] = math.nan
    with pytest.raises(ValueError, match="last.ckpt is not written: 0.1.running_mean holds NaN"): save_encoder(encoder, tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


# Pages

HURT = "</script><script>window.hurt=1</script></pre><img src=x onerror=window.hurt=1><a href='javascript:window.hurt=1'>&\u2028${hurt}`\\"


def hostile_record(folder, name=HURT):
    curve = [dict(epoch=e, loss=5.0, top1=0.1, val_knn=0.5) for e in (1, 2)]
    scores = {name: dict(features=8, linear=0.5, knn=0.5, few_labels={"1": dict(mean=0.5, sd=0.1)}), "pixels": dict(features=64, linear=0.4, knn=0.4, few_labels={"1": dict(mean=0.5, sd=0.1)})}
    config = dict(seed=name, batch_size=256, temperature=0.5, dataset=name, optimizer=name, backbone="resnet8", epochs=2)
    folder.mkdir(parents=True)
    write_json(dict(config=config, curve=curve, images=f"Images({name}: test 10; 10 classes)", environment={}, evaluate=dict(scores=scores, seed=0)), folder / "results.json")
    return folder


def hostile_pictures(root):
    "A folder of pictures whose classes and files are named by somebody who does not wish us well."
    rng, bad = np.random.default_rng(0), HURT.replace("/", "∕")
    for c, name in enumerate((bad, "plain")):
        (root / name).mkdir(parents=True)
        for i in range(40): Image.fromarray(rng.integers(0, 128 + 127 * c, (8, 8), "uint8").astype("uint8")).save(root / name / f"{bad[:60]}{i}.png")
    return root


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    "A run on such a folder, kept under such a name."
    root = tmp_path_factory.mktemp("pages")
    pictures = hostile_pictures(root / "pictures")
    run = pretrain("folder", root=str(pictures), **{k: v for k, v in PRE.items() if k not in ("dataset", "batch_size", "epochs")}, batch_size=16, epochs=1, echo=False,
                   workers=0, run_dir=str(root / HURT.replace("/", "∕")), val_fraction=0.3)
    return run


def table(name): return {name: dict(few_labels={1: dict(mean=0.5, sd=0.1)})}


PAGES = {
    "write_page": lambda p, run: write_page(p, HURT, [go.Figure(go.Bar(x=[HURT], y=[1], name=HURT), layout=dict(title=HURT))], HURT),
    "draw_curves": lambda p, run: draw_curves([hostile_record(p.parent / "a"), hostile_record(p.parent / "b")], p),
    "draw_sweep": lambda p, run: draw_sweep(table(HURT), p),
    "compare": lambda p, run: compare([hostile_record(p.parent / HURT.replace("/", "∕"))], out=str(p)),
    "explore": lambda p, run: explore([str(run)], p, images=40, aligned=20),
    "Studio": lambda p, run: Studio.from_run(run).save(p, HURT),
}
WRITES_PAGES = {"files.py": {"write_page"}, "runs.py": {"draw_curves"}, "compare.py": {"draw_sweep", "compare"}, "widget.py": {"page", "save", "static", "html_page"}}


def test_no_function_writes_a_page_past_the_policy():
    "Whoever makes HTML makes it by `write_page` or by `html_page`: these two hold the policy, and nothing else may hold markup."
    for path in (ROOT / "simclr").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\.write_html\(", text), path
        if path.name not in ("files.py", "widget.py", "_modidx.py"): assert not re.search(r"to_html\(|<html|<!doctype|<script", text, re.I), path
    makers = {path.name: set(re.findall(r"\b(write_page|html_page)\(", path.read_text(encoding="utf-8"))) for path in (ROOT / "simclr").glob("*.py")}
    assert {name: found for name, found in makers.items() if found} == {"files.py": {"write_page"}, "runs.py": {"write_page"}, "compare.py": {"write_page"}, "widget.py": {"html_page"}}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_carries_a_policy_and_runs_nothing_that_a_name_says(browser, tmp_path, hostile_run, kind, capsys):
    path = Path(PAGES[kind](tmp_path / "page.html", hostile_run))
    text = path.read_text(encoding="utf-8")
    policies = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert len(policies) == 1 and text.index("<meta http-equiv") < text.index("<title") < text.index("<script")
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'" and set(rules) <= {"default-src", "base-uri", "form-action", "script-src", "style-src", "img-src"}
    assert re.fullmatch(r"('sha256-[\w+/]{43}=' ?)+", rules["script-src"]) and set(rules["img-src"].split()) == {"blob:", "data:"}
    for bad in ("<script>window.hurt", "<img src=x", "<a href='javascript"): assert bad not in text
    page, errors, asked = browser.new_page(), [], []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text))
    page.on("request", lambda r: asked.append(r.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]" if kind in ("explore", "Studio") else ".main-svg", state="attached", timeout=30_000)
    page.wait_for_timeout(200)
    assert page.evaluate("window.hurt") is None and errors == [] and [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    assert page.locator("img[src=x], a[href^=javascript]").count() == 0
    page.evaluate("() => { const s = document.createElement('script'); s.textContent = 'window.hurt = 1'; document.body.append(s) }")
    assert page.evaluate("window.hurt") is None and any("script-src" in e for e in errors)      # not even now
    page.close()
