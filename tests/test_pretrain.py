"Pre-training: seeds, snapshots, resume, faults. Nets are tiny; the digits are real."
import ast
import csv
import inspect
import json
import math
import re
import signal
import types
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch import nn

import simclr.pretrain as module_under_test
import simclr.report
import simclr.speed
from simclr.augment import SimCLRAugment
from simclr.data import TensorImages, load_images
from simclr.loss import loss_bounds, nt_xent_loss
from simclr.model import SimCLRModel, build_encoder, embed, load_encoder
from simclr.optim import BASE_LR, build_optimizer
from simclr.pretrain import EpochReport, SimCLR, WholeFile, build_module, build_trainer, check_config, fit, pretrain, snapshot_epochs
from simclr.runs import load_run, read_snapshots

TINY = dict(dataset="digits", image_size=8, backbone="resnet8", width=4, hidden_dim=16, projection_dim=8, batch_size=400, optimizer="adamw",
            learning_rate=3e-3, lr_scaling_method="none", warmup_epochs=1, epochs=3, precision="fp32", echo=False)
STEPS = 3                                                               # 1,295 training digits in batches of 400
DEFAULTS = {k: p.default for k, p in inspect.signature(pretrain).parameters.items()}

pytestmark = pytest.mark.usefixtures("ctrl_c_is_heard")


@pytest.fixture(scope="module")
def digits(): return load_images("digits", image_size=8)


@pytest.fixture(autouse=True)
def digits_are_read_once(digits, monkeypatch):
    read = module_under_test.load_images
    monkeypatch.setattr(module_under_test, "load_images", lambda name, *a: digits if name == "digits" else read(name, *a))


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_under_test, "load_images", lambda *_: digits)
        return pretrain(**TINY, run_dir=str(tmp_path_factory.mktemp("finished")))


def train(tmp_path, **more): return pretrain(**TINY | dict(run_dir=str(tmp_path)) | more)


def checkpoint(folder): return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def weights(folder): return checkpoint(folder)["state_dict"]


def equal(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def at_epoch(monkeypatch, epoch, act, when="on_train_epoch_start"):
    "Do something as an epoch (from 0) begins or ends."
    usual = getattr(EpochReport, when)
    def hook(self, trainer, module):
        usual(self, trainer, module)
        if trainer.current_epoch == epoch: act(trainer, module)
    monkeypatch.setattr(EpochReport, when, hook)


def tiny_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return SimCLRModel(build_encoder("resnet8", 1, 8, width=4), 16, 8)


# Rate and optimizer (tests/test_optim.py has the rest)

def test_the_names_of_optim_are_still_found_here():
    import simclr.optim as optim
    for name in ("BASE_LR", "build_optimizer", "scaled_lr", "warmup_cosine"):
        assert getattr(module_under_test, name) is getattr(optim, name)


def test_the_optimizer_gets_the_schedule_every_step(digits, tmp_path):
    config = DEFAULTS | TINY | dict(eta_min=3e-4)
    seen, module = [], build_module(config, digits)
    step = module.training_step
    def training_step(batch, batch_idx):
        seen.append([g["lr"] for g in module.optimizers().param_groups])
        return step(batch, batch_idx)
    module.training_step = training_step
    trainer, _ = build_trainer(config, digits, tmp_path)
    fit(trainer, module, module_under_test.image_loader(digits.pool, 400, True, 42, True))
    cosine = [3e-4 + (3e-3 - 3e-4) * (1 + math.cos(math.pi * k / (2 * STEPS))) / 2 for k in range(2 * STEPS)]
    expected = [3e-3 / 3, 3e-3 * 2 / 3, 3e-3, *cosine]                  # three steps up, then six down
    np.testing.assert_allclose([lr for lr, _ in seen], expected, rtol=1e-6)
    assert all(a == b for a, b in seen)


@pytest.mark.parametrize("optimizer", BASE_LR)
def test_every_optimizer_trains(tmp_path, optimizer):
    run = train(tmp_path, optimizer=optimizer, learning_rate=None, lr_scaling_method="square-root", epochs=2)
    first, last = json.loads((run / "results.json").read_text())["curve"]
    assert last["loss"] < first["loss"]


# One step

def step_of(model, augment, batch, **kwargs):
    module = SimCLR(model, augment, **kwargs)
    module.log_dict = lambda *_, **__: None
    return module.training_step(batch, 0)


def test_a_step_is_one_forward_pass_of_both_views(digits):
    sizes, model = [], tiny_model()
    model.register_forward_hook(lambda m, args, out: sizes.append(tuple(args[0].shape)))
    step_of(model, SimCLRAugment(8, digits.mean, digits.std), (digits.train.x[:10], None))
    assert sizes == [(20, 1, 8, 8)]


def test_autocast_does_not_touch_the_views(digits):
    seen, model, augment = [], tiny_model(), SimCLRAugment(8, digits.mean, digits.std)
    model.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled): step_of(model, augment, (digits.train.x[:10], None))
    assert torch.equal(*seen)


def test_views_change_with_the_seed_alone(digits):
    losses = [step_of(tiny_model(), SimCLRAugment(8, digits.mean, digits.std), (digits.train.x[:10], None), seed=s).item() for s in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_one_batch_reaches_the_floor(digits):
    views = torch.cat(SimCLRAugment(8, digits.mean, digits.std, (0.5, 1), flip_prob=0)(digits.train.x[:8], torch.Generator().manual_seed(0)))
    model = tiny_model()
    optimizer = build_optimizer("adamw", model, 5e-3, 0)
    for _ in range(150):
        loss = nt_xent_loss(*model(views).chunk(2))
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    floor, ceiling = loss_bounds(8, 0.5)
    assert floor <= loss.item() < floor + 0.05 * (ceiling - floor)      # D = 8 >= N - 1 = 7, so the floor exists


# Runs

def test_a_run_leaves_its_files_and_its_settings(finished):
    assert sorted(p.name for p in finished.iterdir()) == ["checkpoints", "config.yaml", "encoder.safetensors", "metrics.csv", "results.json"]
    assert [p.name for p in (finished / "checkpoints").iterdir()] == ["last.ckpt"]
    assert finished.relative_to(finished.parents[2]) == Path("pretrain/resnet8/version_0")
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert {k: config[k] for k in TINY if k in config} == {k: v for k, v in TINY.items() if k in config} and len(config) > 25
    record = json.loads((finished / "results.json").read_text())
    assert [row["epoch"] for row in record["curve"]] == [1, 2, 3]
    assert record["seconds"] == pytest.approx(sum(row["seconds"] for row in record["curve"]), abs=0.051)
    assert {"config", "environment", "images", "parameters", "macs"} <= set(record)


def test_the_saved_encoder_is_the_trained_one(finished):
    encoder, trained = load_encoder(finished), weights(finished)
    assert all(torch.equal(v, trained[f"model.encoder.net.{k}"]) for k, v in encoder.net.state_dict().items())
    assert load_run(finished).head[0].weight.shape[0] == 16


def test_metrics_csv(tmp_path):
    run = train(tmp_path, knn_every=2)
    rows = list(csv.DictReader(open(run / "metrics.csv")))
    assert list(rows[0]) == ["epoch", "loss", "top1", "images_per_second", "seconds", "val_knn"]
    assert [r["val_knn"] != "" for r in rows] == [False, True, True]    # every second epoch, and the last
    assert all(0 <= float(r["top1"]) <= 1 and float(r["images_per_second"]) > 0 for r in rows)
    floor, ceiling = loss_bounds(400, 0.5)
    assert all(floor < float(r["loss"]) < ceiling + 0.5 for r in rows)


def test_the_seed_decides_the_run(finished, tmp_path):
    assert equal(weights(finished), weights(train(tmp_path)))
    assert not equal(weights(finished), weights(train(tmp_path, seed=1)))


def test_the_seed_decides_the_order_too(tmp_path, monkeypatch):
    orders = []
    def look(trainer, module, loader, checkpoint):
        orders.append(list(loader.sampler))
        raise KeyboardInterrupt
    monkeypatch.setattr(module_under_test, "fit", look)
    for seed in (1, 1, 2):
        with pytest.raises(KeyboardInterrupt): train(tmp_path, seed=seed, version=len(orders))
    assert orders[0] == orders[1] != orders[2]


def test_labels_do_not_reach_the_encoder(finished, digits, tmp_path, monkeypatch):
    g = torch.Generator().manual_seed(0)
    shuffled = {k: TensorImages(getattr(digits, k).x, getattr(digits, k).y[torch.randperm(len(getattr(digits, k)), generator=g)]) for k in ("train", "val")}
    monkeypatch.setattr(module_under_test, "load_images", lambda *_: replace(digits, **shuffled))
    run = train(tmp_path)
    assert equal(weights(finished), weights(run))
    ours, theirs = (json.loads((r / "results.json").read_text())["curve"][-1]["val_knn"] for r in (finished, run))
    assert theirs < 0.3 < ours                                          # while the score did notice: chance is 0.1


def test_the_score_does_not_disturb_training(finished, tmp_path): assert equal(weights(finished), weights(train(tmp_path, knn_every=0)))


def test_knn_against_brute_force(digits):
    encoder, report = tiny_model().encoder, EpochReport(digits, max_keys=200)
    h, keys = (nn.functional.normalize(embed(encoder, part), dim=1).numpy() for part in (report.val, report.keys))
    y, hits = report.keys.y.numpy(), 0
    for query, label in zip(h, report.val.y.tolist()):
        cosine = keys @ query
        near = np.argsort(-cosine)[:20]
        votes = np.bincount(y[near], np.exp(cosine[near] / 0.1), minlength=10)
        hits += votes.argmax() == label
    assert len(report.keys) == 200 and report.knn(encoder) == pytest.approx(hits / len(h), abs=1.5 / len(h))    # a tie may break otherwise


def test_a_folder_without_labels(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(8): Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / f"pictures/{i}.png")
    run = train(tmp_path, dataset="folder", root=str(tmp_path / "pictures"), batch_size=4)
    assert "val_knn" not in (run / "metrics.csv").read_text()
    assert load_encoder(run).config["in_channels"] == 3


# Snapshots

@pytest.mark.parametrize("epochs, snapshots, expected", [
    (200, 6, [0, 8, 32, 72, 128, 200]), (12, 4, [0, 1, 5, 12]), (100, 2, [0, 100]), (3, 3, [0, 1, 3]), (1, 2, [0, 1]), (1, 6, [0, 1]), (2, 6, [0, 1, 2]),
    (1000, 5, [0, 62, 250, 562, 1000]), (7, 0, [])])
def test_epochs_of_snapshots(epochs, snapshots, expected): assert snapshot_epochs(epochs, snapshots) == expected


@pytest.fixture(scope="module")
def filmed(digits, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_under_test, "load_images", lambda *_: digits)
        return pretrain(**TINY, snapshots=3, run_dir=str(tmp_path_factory.mktemp("filmed")))


def contents(run): return {epoch: path.read_bytes() for epoch, path in read_snapshots(run).items()}


def test_snapshots_are_the_encoder_of_their_epoch(filmed, monkeypatch, tmp_path):
    seen = {}
    for epoch in range(3):
        at_epoch(monkeypatch, epoch, lambda _, m, e=epoch: seen.setdefault(e, {k: v.clone() for k, v in m.model.encoder.net.state_dict().items()}))
    at_epoch(monkeypatch, 2, lambda _, m: seen.setdefault(3, {k: v.clone() for k, v in m.model.encoder.net.state_dict().items()}), "on_train_epoch_end")
    train(tmp_path)                                                     # without snapshots: what the weights are as epochs begin
    kept = {epoch: load_encoder(path).net.state_dict() for epoch, path in read_snapshots(filmed).items()}
    assert list(kept) == [0, 1, 3] and all(equal(kept[e], seen[e]) for e in kept)
    assert sorted(p.name for p in (filmed / "snapshots").iterdir()) == [f"epoch_000{e}.safetensors" for e in (0, 1, 3)]


def test_the_first_snapshot_is_the_random_start_and_the_last_the_end(filmed, digits):
    torch.manual_seed(DEFAULTS["seed"])
    start = build_module(DEFAULTS | TINY, digits).model.encoder.net.state_dict()
    assert equal(start, load_encoder(read_snapshots(filmed)[0]).net.state_dict())
    assert contents(filmed)[3] == (filmed / "encoder.safetensors").read_bytes() != contents(filmed)[1]


def test_snapshots_change_nothing(finished, filmed):
    assert equal(weights(finished), weights(filmed))
    assert equal(checkpoint(finished)["optimizer_states"][0]["state"][0], checkpoint(filmed)["optimizer_states"][0]["state"][0])
    assert (finished / "encoder.safetensors").read_bytes() == (filmed / "encoder.safetensors").read_bytes()
    assert (finished / "config.yaml").read_text() == (filmed / "config.yaml").read_text()
    curves = [[(r["epoch"], r["loss"], r["top1"], r["val_knn"]) for r in json.loads((r / "results.json").read_text())["curve"]] for r in (finished, filmed)]
    assert curves[0] == curves[1] and read_snapshots(finished) == {}


@pytest.mark.parametrize("epoch, kept", [(0, [0]), (1, [0, 1]), (2, [0, 1])])
def test_a_resumed_run_has_the_snapshots_of_one_at_a_stretch(filmed, tmp_path, monkeypatch, epoch, kept):
    with monkeypatch.context() as patch:
        at_epoch(patch, epoch, lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt): train(tmp_path, snapshots=3)
    folder = tmp_path / "pretrain/resnet8/version_0"
    assert list(read_snapshots(folder)) == kept
    before = {e: p.stat().st_mtime_ns for e, p in read_snapshots(folder).items()}
    run = train(tmp_path, snapshots=3, resume=True)
    assert contents(run) == contents(filmed) and equal(weights(run), weights(filmed))
    if epoch: assert {e: read_snapshots(run)[e].stat().st_mtime_ns for e in before} == before      # nothing is written twice


@pytest.mark.parametrize("first, then, kept", [(0, 3, [3]), (3, 0, [0, 1]), (3, 2, [0, 1, 3]), (2, 4, [0, 3])])
def test_a_resumed_run_may_want_others_and_invents_none(filmed, tmp_path, monkeypatch, first, then, kept):
    with monkeypatch.context() as patch:
        at_epoch(patch, 2, lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt): train(tmp_path, snapshots=first)
    run = train(tmp_path, snapshots=then, resume=True)
    assert list(contents(run)) == kept and equal(weights(run), weights(filmed))
    assert all(contents(run)[e] == contents(filmed)[e] for e in kept)


def test_a_snapshot_that_cannot_be_written_leaves_no_half(tmp_path, monkeypatch):
    def cut(path, data):
        with open(path, "wb") as f: f.write(data[:len(data) // 2])
        raise OSError("disk full")
    monkeypatch.setattr(Path, "write_bytes", cut)
    with pytest.raises(OSError, match="disk full"): train(tmp_path, snapshots=2)
    assert read_snapshots(tmp_path / "pretrain/resnet8/version_0") == {}


def test_a_checkpoint_never_runs_ahead_of_its_snapshot(tmp_path, monkeypatch):
    "Were it written first, a run that dies between the two would never make the snapshot up."
    order, save, encode = [], WholeFile.save_checkpoint, module_under_test.save_encoder
    monkeypatch.setattr(WholeFile, "save_checkpoint", lambda self, *a, **k: (order.append("checkpoint"), save(self, *a, **k))[1])
    for module in (module_under_test, simclr.report):
        monkeypatch.setattr(module, "save_encoder", lambda e, path: (order.append(Path(path).stem), encode(e, path))[1])
    train(tmp_path, snapshots=3)
    assert order == ["epoch_0000", "epoch_0001", "checkpoint", "checkpoint", "epoch_0003", "checkpoint", "encoder"]


# Interrupted, resumed, ruined

@pytest.mark.parametrize("epoch", [1, 2])
def test_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, epoch):
    with monkeypatch.context() as patch:
        at_epoch(patch, epoch, lambda *_: signal.raise_signal(signal.SIGINT))
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt): train(tmp_path)
        assert signal.getsignal(signal.SIGINT) is handler              # the next Ctrl-C is heard
    folder = tmp_path / "pretrain/resnet8/version_0"
    assert not (folder / "encoder.safetensors").exists() and not (folder / "results.json").exists()
    assert checkpoint(folder)["epoch"] == epoch - 1
    run = train(tmp_path, resume=True)
    assert run == folder and equal(weights(finished), weights(run))
    assert equal(checkpoint(finished)["optimizer_states"][0]["state"][0], checkpoint(run)["optimizer_states"][0]["state"][0])
    curves = [[(r["epoch"], r["loss"], r["top1"], r["val_knn"]) for r in json.loads((r / "results.json").read_text())["curve"]] for r in (finished, run)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_every_optimizer_goes_on_as_if_uninterrupted(tmp_path, monkeypatch, optimizer):
    whole = train(tmp_path / "whole", optimizer=optimizer)
    with monkeypatch.context() as patch:
        at_epoch(patch, 2, lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt): train(tmp_path, optimizer=optimizer)
    assert equal(weights(whole), weights(train(tmp_path, optimizer=optimizer, resume=True)))


@pytest.mark.parametrize("place, name, blamed", [
    (pl.accelerators.CPUAccelerator, "setup_device", []), (pl.strategies.SingleDeviceStrategy, "model_to_device", []),
    (pl.strategies.SingleDeviceStrategy, "load_optimizer_state_dict", [RuntimeError])])
def test_a_machine_that_fails_is_not_blamed_on_the_checkpoint(tmp_path, monkeypatch, place, name, blamed):
    "Except that a plain RuntimeError while the checkpoint is being read is taken for the checkpoint's."
    with monkeypatch.context() as patch:
        at_epoch(patch, 1, lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt): train(tmp_path)
    for error in (torch.cuda.OutOfMemoryError, torch.distributed.DistNetworkError, RuntimeError):
        def fail(self, *args, **kwargs): raise error("no place")
        monkeypatch.setattr(place, name, fail)
        with pytest.raises((error, ValueError)) as e: train(tmp_path, resume=True)
        assert ("delete it to begin this run anew" in str(e.value)) == (error in blamed) and (type(e.value) is error) != (error in blamed)


def test_a_crash_within_an_epoch_costs_that_epoch(finished, tmp_path, monkeypatch):
    usual = SimCLR.training_step
    def crash(self, batch, i):
        if self.global_step == 4: raise RuntimeError("power cut")
        return usual(self, batch, i)
    with monkeypatch.context() as patch:
        patch.setattr(SimCLR, "training_step", crash)
        with pytest.raises(RuntimeError, match="power cut"): train(tmp_path)
    assert equal(weights(finished), weights(train(tmp_path, resume=True)))


def test_interrupted_before_the_first_checkpoint(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_epoch(patch, 0, lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt): train(tmp_path)
    assert equal(weights(finished), weights(train(tmp_path, resume=True)))


def test_interrupted_after_the_last_epoch(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module_under_test, "save_encoder", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt): train(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(SimCLR, "training_step", lambda *_: pytest.fail("nothing is left to train"))
        run = train(tmp_path, resume=True)
    assert equal(load_encoder(finished).net.state_dict(), load_encoder(run).net.state_dict())


def test_each_epoch_leaves_a_checkpoint_that_holds_its_row(tmp_path, monkeypatch):
    seen = []
    def look(trainer, module):
        path = Path(trainer.checkpoint_callback.dirpath, "last.ckpt")
        seen.append([r["epoch"] for r in torch.load(path, weights_only=True)["callbacks"]["EpochReport"]["curve"]] if path.exists() else None)
    for epoch in range(3): at_epoch(monkeypatch, epoch, look)
    train(tmp_path)
    assert seen == [None, [1], [1, 2]]


def test_another_configuration_cannot_resume(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_epoch(patch, 1, lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt): train(tmp_path)
    with pytest.raises(ValueError, match="epochs: 3 then, 9 now"): train(tmp_path, resume=True, epochs=9)


def test_no_run_is_overwritten(tmp_path):
    run = train(tmp_path, epochs=1)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="version_0 holds a finished run"): train(tmp_path, epochs=1, version=0, resume=resume)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert train(tmp_path, epochs=1).name == "version_1"


def test_nan_names_the_step_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    at_epoch(monkeypatch, 2, lambda trainer, module: module.model.head[0].weight.data.fill_(math.nan))
    with pytest.raises(ValueError, match=f"the loss became nan at step {2 * STEPS}: lower learning_rate"): train(tmp_path)
    folder = tmp_path / "pretrain/resnet8/version_0"
    assert checkpoint(folder)["epoch"] == 1 and all(v.isfinite().all() for v in weights(folder).values())
    assert not (folder / "encoder.safetensors").exists()


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a/last.ckpt"
    WholeFile().save_checkpoint(dict(epoch=1), path)
    def cut(what, to):
        to.write(b"half")
        raise OSError("disk full")
    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(OSError, match="disk full"): WholeFile().save_checkpoint(dict(epoch=2), path)
    assert WholeFile().load_checkpoint(path)["epoch"] == 1


def test_training_writes_through_it(tmp_path, monkeypatch):
    moved, replace_file = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: (moved.append(Path(b).name), replace_file(a, b)))
    train(tmp_path, epochs=2)
    assert moved.count("last.ckpt") == 2


# Settings

BAD = [("epochs", 0), ("epochs", -3), ("epochs", math.nan), ("batch_size", 1), ("batch_size", 1296), ("hidden_dim", 0), ("projection_dim", -1),
       ("temperature", 0.0), ("temperature", -0.5), ("temperature", math.nan), ("temperature", math.inf), ("width", 0), ("learning_rate", 0.0),
       ("learning_rate", -1.0), ("eta_min", -1.0), ("eta_min", 0.1), ("weight_decay", -1e-6), ("weight_decay", math.nan), ("warmup_epochs", -1),
       ("warmup_epochs", 4), ("knn_every", -1), ("workers", -1), ("seed", -1), ("flip_prob", 1.5), ("grey_prob", -0.1), ("blur_prob", 2), ("min_crop_scale", 0.0),
       ("min_crop_scale", 1.5), ("val_fraction", 1.0), ("val_fraction", -0.1), ("jitter_strength", -1), ("jitter_strength", 3), ("rotate_degrees", 181),
       ("optimizer", "adam"), ("backbone", "vgg16"), ("precision", "fp16"), ("lr_scaling_method", "sqrt"), ("dataset", "mnist"), ("image_size", 4),
       ("root", None), ("snapshots", 1), ("snapshots", 7), ("snapshots", -1), ("snapshots", 2.5), ("snapshots", True), ("small_views", 7),
       ("small_views", 9), ("small_views", math.nan), ("epochs", 2.5), ("epochs", "2"), ("seed", 1.5), ("hidden_dim", 16.5), ("knn_every", 0.5),
       ("image_size", 8.5), ("temperature", "0.5"), ("jitter_strength", True), ("resume", "no"), ("run_dir", 3)]


@pytest.mark.parametrize("key, value", BAD, ids=str)
def test_bad_values_are_named_before_a_folder_is_made(tmp_path, key, value):
    more = dict(dataset="folder") if key == "root" else dict(dataset="cifar10") if key == "image_size" else {}
    told = re.escape(f"{key}={'' if key == 'root' else repr(value)}")
    with pytest.raises(ValueError, match=rf"\b{told}"): train(tmp_path, **more | {key: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [dict(epochs=1, warmup_epochs=10), dict(warmup_epochs=0), dict(warmup_epochs=3), dict(eta_min=3e-3), dict(seed=2**32),
                                  dict(min_crop_scale=1.0), dict(val_fraction=0), dict(snapshots=2), dict(snapshots=6), dict(learning_rate=None, optimizer="lars", eta_min=0.3)], ids=str)
def test_edge_values_are_allowed(more): check_config(DEFAULTS | TINY | more)


def test_a_width_that_the_backbone_does_not_have_is_named(tmp_path):
    with pytest.raises(ValueError, match="width=4"): train(tmp_path, backbone="resnet18")
    assert not list(tmp_path.iterdir())


def test_the_originals_configuration_is_accepted_word_for_word():
    original = dict(seed=42, epochs=200, version=0, eta_min=0.0, batch_size=512, dataset="cifar10", weight_decay=1e-6, lr_scaling_method="square-root",
                    hidden_dim=2048, temperature=0.5, backbone="resnet50", projection_dim=128)
    assert set(original) <= set(DEFAULTS)
    check_config(DEFAULTS | original)
    ours = {k: v for k, v in original.items() if k not in ("version", "backbone")}
    assert {k: DEFAULTS[k] for k in ours} == ours                       # and all but these two are the defaults
    assert module_under_test.peak_lr(DEFAULTS | original) == pytest.approx(0.075 * 512**0.5)


def test_the_command_line_can_read_the_signature_from_the_source():
    source = Path(module_under_test.__file__).read_text(encoding="utf-8")
    node = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "pretrain")
    lines, args = source.splitlines(), node.args.args
    assert len(args) == len(node.args.defaults) == len({a.lineno for a in args})
    for arg, default in zip(args, node.args.defaults):
        assert ast.literal_eval(default) == DEFAULTS[arg.arg]
        assert arg.lineno == default.end_lineno and "#" in lines[arg.lineno - 1], arg.arg


@pytest.mark.parametrize("precision, expected", [("fp32", "32-true"), ("bf16", "bf16-mixed")])
def test_precision(digits, tmp_path, precision, expected):
    trainer, _ = build_trainer(DEFAULTS | TINY | dict(precision=precision), digits, tmp_path)
    assert trainer.precision == expected


@pytest.mark.parametrize("dtype, expected", [(torch.bfloat16, "bf16-mixed"), (torch.float32, "32-true")])
def test_automatic_precision_asks_the_hardware(digits, tmp_path, monkeypatch, dtype, expected):
    monkeypatch.setattr(module_under_test, "fast_precision", lambda device: dtype)
    assert build_trainer(DEFAULTS | TINY | dict(precision="auto"), digits, tmp_path)[0].precision == expected


def test_a_bf16_run_is_close_to_an_fp32_run(finished, tmp_path):
    losses = [json.loads((r / "results.json").read_text())["curve"][-1]["loss"] for r in (finished, train(tmp_path, precision="bf16"))]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], abs=0.05)     # the curve falls by some 0.2


@pytest.mark.parametrize("installed", [False, True])
def test_tensorboard_is_used_where_it_is_installed(digits, tmp_path, monkeypatch, installed):
    asked = []
    find = module_under_test.importlib.util.find_spec
    monkeypatch.setattr(module_under_test.importlib.util, "find_spec", lambda name, *a: installed if name == "tensorboard" else find(name, *a))
    class Logger(module_under_test.pl.loggers.CSVLogger):
        def __init__(self, *args, **kwargs):
            asked.append((args, kwargs))
            super().__init__(*args, **kwargs)
    monkeypatch.setattr(module_under_test.pl.loggers, "TensorBoardLogger", Logger)
    trainer, _ = build_trainer(DEFAULTS | TINY, digits, tmp_path)
    assert len(trainer.loggers) == len(asked) == installed
    assert not installed or asked[0] == ((tmp_path,), dict(name="", version="tensorboard"))


def test_compile_compiles_the_model_and_not_its_names(digits, monkeypatch):
    calls = []
    monkeypatch.setattr(SimCLRModel, "compile", lambda self: calls.append(self), raising=False)
    plain, compiled = (build_module(DEFAULTS | TINY | dict(compile=c), digits) for c in (False, True))
    assert calls == [compiled.model] and list(plain.state_dict()) == list(compiled.state_dict())


@pytest.mark.parametrize("gpu", [False, True])
def test_on_a_gpu_nothing_made_for_cpus_takes_part(digits, monkeypatch, gpu):
    asked = []
    monkeypatch.setattr(simclr.speed, "reuse_memory", lambda: asked.append("memory"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    kinds = {type(m).__name__ for m in build_module(DEFAULTS | TINY, digits).model.modules()}
    assert (bool(asked), "QuickConv2d" in kinds, "MeanPool" in kinds) == (not gpu,) * 3


# Manners

def test_silent_without_echo_and_one_line_an_epoch_with_it(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path, epochs=2)
        assert capfd.readouterr() == ("", "")
        train(tmp_path, epochs=2, echo=True)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("epoch   1/2  loss ") and all(word in lines[1] for word in ("top-1", "kNN", "images/s"))


def test_warnings_of_others_are_heard(tmp_path, monkeypatch):
    at_epoch(monkeypatch, 0, lambda *_: warnings.warn("mind the step"))
    with pytest.warns(UserWarning, match="mind the step"): train(tmp_path, epochs=1)


def test_the_bar_shows_loss_top1_and_speed(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(module_under_test, "sys", types.SimpleNamespace(stderr=types.SimpleNamespace(isatty=lambda: True)))
    train(tmp_path, epochs=1, echo=True)
    shown = "".join(capfd.readouterr())
    assert all(word in shown for word in ("loss_step=", "top1_step=", "images/s=", "epoch   1/1")) and "images/s=0" not in shown
