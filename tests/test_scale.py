"Several processes are one: the same views, statistics, loss, gradient and run; what goes wrong in one ends all."
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scale_worker
import torch
from torch import nn

import simclr.devices
import simclr.pretrain as pretraining
from conftest import ROOT
from simclr.devices import check_shares, must_start, process, start_processes, sync_norms
from simclr.model import load_encoder
from simclr.pretrain import pretrain
from simclr.runs import FREE

WORLD = 2
TINY = dict(dataset="digits", image_size=8, backbone="resnet8", width=4, hidden_dim=16, projection_dim=8, batch_size=400, optimizer="sgd",
            learning_rate=0.02, min_crop_scale=0.5, lr_scaling_method="none", warmup_epochs=1.0, epochs=2, precision="fp32")
FLAGS = [str(part) for key, value in TINY.items() for part in (f"--{key}", value)]
ENV = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))

pytestmark = pytest.mark.usefixtures("ctrl_c_is_heard")


def off(a, b): return ((a - b).norm() / b.norm()).item()


# One step on two processes, DDP and gloo, through the training step itself

@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    start_processes("scale_worker:steps", dict(folder=str(folder)), WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone(): return {name: scale_worker.one_step(scale_worker.images(), **v) for name, v in scale_worker.VARIANTS.items()}


@pytest.mark.parametrize("name", scale_worker.VARIANTS)
def test_two_processes_equal_one_with_the_whole_batch(ranks, alone, name):
    for rank in ranks:
        assert rank[name]["loss"] == pytest.approx(alone[name]["loss"], abs=1e-5)
        assert rank[name]["top1"] == pytest.approx(alone[name]["top1"], abs=1e-6)
        assert off(rank[name]["grads"], alone[name]["grads"]) < (1e-5 if "plain" in name else 1e-4)    # BatchNorm divides by small deviations
        assert torch.allclose(rank[name]["stats"], alone[name]["stats"], atol=1e-6)


def test_without_batchnorm_micro_batches_and_chunks_change_nothing_either(ranks, alone):
    whole = alone["plain, micro None, chunk None"]
    for name in (n for n in scale_worker.VARIANTS if "plain" in n):
        for rank in ranks: assert rank[name]["loss"] == pytest.approx(whole["loss"], abs=1e-5) and off(rank[name]["grads"], whole["grads"]) < 1e-5


def test_a_gather_without_gradient_has_the_right_loss_and_half_the_gradient(ranks, alone):
    truth = alone["plain, micro None, chunk None"]
    for rank in ranks:
        assert rank["silent"]["loss"] == pytest.approx(truth["loss"], abs=1e-5)
        assert off(rank["silent"]["grads"], truth["grads"]) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("bug, kind", [("local", "plain"), ("own draws", "plain"), ("unsynced", "norm")])
def test_other_bugs_are_other_gradients(ranks, alone, bug, kind):
    truth = alone[f"{kind}, micro None, chunk None"]
    assert all(off(rank[bug]["grads"], truth["grads"]) > 0.01 for rank in ranks)        # a thousand times the tolerance above


def test_synced_norm_equals_batchnorm_of_all_rows(tmp_path):
    start_processes("scale_worker:norms", dict(folder=str(tmp_path)), WORLD)
    ranks = [torch.load(tmp_path / f"norm{rank}.pt") for rank in range(WORLD)]
    for momentum in (0.1, None):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(3, momentum=momentum).double()
        x = torch.randn(8, 3, 5, 7, dtype=torch.float64).requires_grad_()
        for _ in range(2): y = norm(x)
        (y**3).sum().backward()
        both = [[r[momentum][k] for r in ranks] for k in range(5)]
        assert torch.allclose(torch.cat(both[0]), y, atol=1e-10) and torch.allclose(torch.cat(both[1]), x.grad, atol=1e-9)
        assert torch.allclose(sum(both[2]), norm.weight.grad, atol=1e-8)          # each has its rows' part; DDP adds them up
        for r in ranks:
            for ours, theirs in zip(r[momentum][3:], (norm.running_mean, norm.running_var)): assert torch.allclose(ours, theirs, atol=1e-12)
    assert torch.allclose(torch.cat([r["eval"] for r in ranks]), norm.eval()(x), atol=1e-10)


@pytest.mark.parametrize("affine", [True, False])
def test_a_synced_norm_may_have_no_weights(monkeypatch, affine):
    x = torch.randn(8, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain, synced = (nn.BatchNorm2d(3, affine=affine).double() for _ in range(2))
    if affine: plain.weight.data, synced.weight.data = torch.tensor([[2.0, 0.5, -1.0]] * 2, dtype=torch.float64)
    other = torch.stack([x[4:].mean((0, 2, 3)), x[4:].var((0, 2, 3), unbiased=False)])[None]      # what the second of two processes sends
    monkeypatch.setattr(simclr.devices, "_rank_and_world", lambda: (0, 2))
    monkeypatch.setattr(simclr.devices, "gather_rows", lambda own: torch.cat([own, other]))
    synced.__class__ = simclr.devices.SyncedNorm
    torch.testing.assert_close(synced(x[:4]), plain(x)[:4], atol=1e-12, rtol=0)
    torch.testing.assert_close(synced.running_var, plain.running_var)


def test_synced_norms_keep_names_values_and_alone_every_bit():
    plain, synced = scale_worker.make_model("norm"), sync_norms(scale_worker.make_model("norm"))
    x = torch.randn(6, 1, 8, 8)
    assert torch.equal(plain(x), synced(x))
    a, b = plain.state_dict(), synced.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Whole runs

def command(*args, timeout=120, **env):
    return subprocess.run([sys.executable, "-m", "simclr.cli", *args], capture_output=True, text=True, timeout=timeout, env=ENV | env)


@pytest.fixture(scope="module")
def one(tmp_path_factory): return pretrain(**TINY, echo=False, run_dir=str(tmp_path_factory.mktemp("one")))


def same_run(a, b):
    "Curves agree, the first epoch's to rounding. Then rounding grows: where a ReLU stands at zero. Single steps are compared above, to 1e-5."
    curves = [[(r["epoch"], r["loss"], r["top1"], r["val_knn"]) for r in json.loads((run / "results.json").read_text())["curve"]] for run in (a, b)]
    for x, y, tolerance in zip(*curves, (1e-5, 2e-3), strict=True): assert x == pytest.approx(y, abs=0.03) and x[1] == pytest.approx(y[1], abs=tolerance)
    x, y = (load_encoder(run).net.state_dict() for run in (a, b))
    assert x.keys() == y.keys() and max((x[k] - y[k]).abs().max().item() for k in x if "running" not in k) < 0.01


def test_the_command_with_two_devices_is_the_command_with_one(one, tmp_path):
    done = command("pretrain", *FLAGS, "--devices", "2", "--snapshots", "2", "--run_dir", str(tmp_path))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    folder = tmp_path / "pretrain/resnet8/version_0"
    assert [line[:10] for line in done.stdout.splitlines()] == ["epoch   1/", "epoch   2/", str(folder)[:10]]       # printed once, not twice
    assert [p.name for p in folder.parent.iterdir()] == ["version_0"] and len(list(tmp_path.rglob("results.json"))) == 1
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    assert names == ["checkpoints", "config.yaml", "encoder.safetensors", "metrics.csv", "results.json", "snapshots"]
    assert (folder / "config.yaml").read_text() == (one / "config.yaml").read_text()
    same_run(one, folder)


def test_one_device_begins_and_two_go_on(one, tmp_path, monkeypatch):
    usual = pretraining.EpochReport.on_train_epoch_start
    def stop(self, trainer, module):
        usual(self, trainer, module)
        if trainer.current_epoch == 1: signal.raise_signal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining.EpochReport, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt): pretrain(**TINY, echo=False, run_dir=str(tmp_path))
    run = pretrain(**TINY, echo=False, run_dir=str(tmp_path), devices=2, resume=True)
    assert run == tmp_path / "pretrain/resnet8/version_0"
    same_run(one, run)


def test_micro_batches_train(one, tmp_path):
    whole = pretrain(**TINY, echo=False, run_dir=str(tmp_path), micro_batch_size=400)
    cut = pretrain(**TINY, echo=False, run_dir=str(tmp_path), micro_batch_size=100)
    weights = [load_encoder(run).net.state_dict() for run in (one, whole, cut)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(torch.equal(weights[0][k], weights[2][k]) for k in weights[0])
    losses = [json.loads((run / "results.json").read_text())["curve"][-1]["loss"] for run in (whole, cut)]
    assert losses[0] == pytest.approx(losses[1], abs=0.1)
    with pytest.raises(ValueError, match="cannot resume"): pretrain(**TINY, run_dir=str(tmp_path), version=1, micro_batch_size=50, resume=unfinished(cut))


def unfinished(run):
    (run / "encoder.safetensors").unlink()
    return True


def test_torchrun(one, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "simclr.cli", "pretrain", *FLAGS]
    done = subprocess.run([*launch, "--devices", "2", "--version", "5", "--run_dir", str(tmp_path)], capture_output=True, text=True, timeout=120, env=ENV)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "pretrain/resnet8").iterdir()] == ["version_5"] and done.stdout.count("epoch   1/2") == 1
    same_run(one, tmp_path / "pretrain/resnet8/version_5")


def two_devices(tmp_path, **more):
    "Configuration and folder of a run on two devices."
    defaults = {k: p.default for k, p in inspect.signature(pretrain).parameters.items()}
    config = defaults | TINY | dict(devices=2, echo=False, run_dir=str(tmp_path), version=0) | more
    return config, pretraining.run_folder(config, "pretrain")


def test_one_process_writes(tmp_path):
    config, folder = two_devices(tmp_path, epochs=1, snapshots=2)
    start_processes("scale_worker:train_and_note", dict(config=config, folder=str(folder)), 2)
    assert (folder / "wrote0").read_text().split() == ["save_encoder", "save_encoder", "write_csv", "write_json", "save_encoder"]
    assert not (folder / "wrote1").exists()


def test_a_run_that_loses_a_process_ends_without_a_result(tmp_path):
    (config, folder), begun = two_devices(tmp_path), time.monotonic()
    with pytest.raises(ChildProcessError, match="process 1 of 2 was ended by signal 9"):
        start_processes("scale_worker:train_and_lose_one", dict(config=config, folder=str(folder)), 2, patience=3)
    assert time.monotonic() - begun < 60 and not (folder / "results.json").exists() and not (folder / "encoder.safetensors").exists()


def test_bad_values_are_said_once_and_leave_no_folder(tmp_path):
    done = command("pretrain", *FLAGS, "--devices", "2", "--min_crop_scale", "0.5", "--batch_size", "1296", "--run_dir", str(tmp_path))
    assert done.returncode == 2 and done.stderr == "simclr: error: batch_size=1296 is larger than the 1295 training images\n"
    assert not list(tmp_path.iterdir())


# Who starts whom

@pytest.mark.parametrize("env, place", [
    ({}, (0, 0, 1)), (dict(RANK="3", LOCAL_RANK="1", WORLD_SIZE="4"), (3, 1, 4)), (dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1"), (0, 0, 1)),
    (dict(SLURM_PROCID="9", SLURM_LOCALID="1", SLURM_STEP_NUM_TASKS="16"), (9, 1, 16)),
    (dict(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NTASKS="16"), (0, 0, 1)),                  # the batch script itself: no srun yet
    (dict(RANK="1"), (0, 0, 1)), (dict(LOCAL_RANK="1"), (0, 0, 1))], ids=str)
def test_place(env, place): assert process(env) == place


def ranks_of(world): return dict(RANK="1", LOCAL_RANK="1", WORLD_SIZE=str(world))


@pytest.mark.parametrize("devices, nodes, version, world, expected", [
    (1, 1, None, 1, False), (2, 1, None, 1, True), (2, 1, 3, 1, True), (2, 1, 3, 2, False), (8, 2, 0, 16, False), (2, 2, 0, 1, "num_nodes=2 needs torchrun or srun"),
    (1, 2, 0, 1, "num_nodes=2 needs"), (2, 1, None, 2, "version=None"), (4, 1, 0, 2, "devices=4 × num_nodes=1 is 4, but 2 processes run"),
    (1, 1, 0, 2, "devices=1 × num_nodes=1 is 1, but 2 processes run")])
def test_who_starts(devices, nodes, version, world, expected):
    env = ranks_of(world) if world > 1 else {}
    if isinstance(expected, bool): assert must_start(devices, nodes, version, env) is expected
    else:
        with pytest.raises(ValueError, match=re.escape(expected)): must_start(devices, nodes, version, env)


@pytest.mark.parametrize("more, message", [
    (dict(devices=3), "batch_size=400 must be a multiple of devices × num_nodes = 3"), (dict(devices=0), "devices=0 must be at least 1"),
    (dict(devices=2, num_nodes=3), "batch_size=400 must be a multiple of devices × num_nodes = 6"), (dict(devices=-1), "devices=-1 must be at least 1"),
    (dict(num_nodes=0), "num_nodes=0 must be at least 1"), (dict(micro_batch_size=0), "micro_batch_size=0 must be at least 1"),
    (dict(micro_batch_size=-4), "micro_batch_size=-4 must be at least 1"), (dict(micro_batch_size=300), "micro_batch_size=300 must divide batch_size=400"),
    (dict(micro_batch_size=800), "micro_batch_size=800 must divide batch_size=400"), (dict(num_nodes=2), "num_nodes=2 needs torchrun or srun"),
    (dict(micro_batch_size=25, devices=2), "micro_batch_size=25 must be a multiple of devices × num_nodes = 2")], ids=str)
def test_shares_that_do_not_come_out_even_are_named(tmp_path, more, message):
    with pytest.raises(ValueError, match=re.escape(message)): pretrain(**TINY | more, echo=False, run_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = dict(batch_size=12, micro_batch_size=None, num_nodes=1)
    check_shares(config | dict(devices=2))
    with pytest.raises(ValueError, match="devices=3, but this machine has 2"): check_shares(config | dict(devices=3))


def test_where_a_run_goes_may_change_and_how_it_is_cut_may_not():
    assert {"devices", "num_nodes"} <= set(FREE) and "micro_batch_size" not in FREE


# Starting and ending processes

def test_each_process_knows_its_place_and_the_first_is_heard(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    start_processes("scale_worker:places", dict(folder=str(tmp_path)), 3)
    for rank in range(3): assert (tmp_path / str(rank)).read_text().split()[:5] == [str(rank), str(rank), "3", "127.0.0.1", "0"]
    assert "SLURM" not in (tmp_path / "0").read_text() and capfd.readouterr().out == "hello from 0\n"


def alive(folder): return [p for p in (int(f.read_text()) for f in Path(folder).glob("*.pid")) if Path(f"/proc/{p}").exists() and "Z" not in
                           Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()[0]]


@pytest.mark.parametrize("how, who, message", [("kill", 1, "process 1 of 2 was ended by signal 9"), ("kill", 0, "process 0 of 2 was ended by signal 9"),
                                               ("raise", 1, "process 1 of 2 ended with code 1: ValueError: a bad value"),
                                               ("interrupt", 0, "process 0 of 2 ended with code 130")])
def test_when_one_ends_all_end(tmp_path, how, who, message):
    begun = time.monotonic()
    with pytest.raises(ChildProcessError, match=re.escape(message)):
        start_processes("scale_worker:misbehave", dict(folder=str(tmp_path), how=how, who=who), 2, patience=0.5)
    assert time.monotonic() - begun < 25 and len(list(tmp_path.glob("*.pid"))) == 2 and not alive(tmp_path)


def waiting_parent(folder, patience):
    code = f"from simclr.devices import start_processes as s; s('scale_worker:misbehave', dict(folder={str(folder)!r}, how='wait', who=-1), 2, {patience})"
    parent = subprocess.Popen([sys.executable, "-c", code], env=ENV, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 25
    while len([f for f in Path(folder).glob("*.pid") if f.read_text()]) < 2 and time.monotonic() < until: time.sleep(0.1)
    assert len(alive(folder)) == 2
    return parent


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks processes up in /proc")
def test_processes_do_not_outlive_their_parent(tmp_path):
    parent = waiting_parent(tmp_path, 1)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while alive(tmp_path) and time.monotonic() < until: time.sleep(0.2)
    assert not alive(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="Windows has a process between the two")
def test_a_process_whose_parent_was_gone_before_it_began_ends_at_once(tmp_path):
    code = "import sys; from simclr.devices import join; join('scale_worker:misbehave', dict(folder=sys.argv[1], how='wait', who=-1), 4194305)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=ENV | dict(RANK="0"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks processes up in /proc")
def test_ctrl_c_ends_all(tmp_path):
    parent = waiting_parent(tmp_path, 1)
    parent.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in parent.communicate(timeout=20)[1] and not alive(tmp_path)
