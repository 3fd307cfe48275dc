"Rivals: from scratch, fine-tuned, and the sweep over the number of labels. Nets are tiny; the digits are real; CIFAR-100 is faked."
import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image

import simclr.baseline as baseline
from conftest import ROOT
from simclr.baseline import (METHODS, USUAL, check_classifier, finetune, label_sweep, probe_few, resumed, starting_point, sweep_table, train_few,
                             train_from_scratch, with_labels)
from simclr.classifier import label_subset
from simclr.data import TensorImages, load_images, stratified_split
from simclr.evaluate import accuracy, evaluate_run, linear_probe
from simclr.model import embed, load_encoder
from simclr.pretrain import pretrain
from simclr.runs import FREE, read_record

PRE = dict(dataset="digits", image_size=8, val_fraction=0.3, backbone="resnet8", width=4, epochs=1, warmup_epochs=0, batch_size=250, optimizer="adamw",
           hidden_dim=16, projection_dim=8, flip_prob=0, knn_every=0, precision="fp32", workers=0, echo=False)
TINY = dict(epochs=1, batch_size=50, padding=1, flip_prob=0, labels_per_class=10, val_fraction=0.3, precision="fp32", workers=0, echo=False)
SCRATCH = TINY | dict(dataset="digits", image_size=8, backbone="resnet8", width=4, warmup_epochs=0)
FINE = {k: p.default for k, p in inspect.signature(finetune).parameters.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory): return pretrain(**PRE, run_dir=str(tmp_path_factory.mktemp("pre")))


@pytest.fixture(scope="module")
def digits(): return load_images("digits", image_size=8, val_fraction=0.3)


@pytest.fixture(scope="module")
def scratched(tmp_path_factory): return train_from_scratch(**SCRATCH, run_dir=str(tmp_path_factory.mktemp("scratch")))


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory):
    "One classifier for each way of fine-tuning: (frozen, random weights)."
    here = str(tmp_path_factory.mktemp("fine"))
    return {way: finetune(run, **TINY, freeze_encoder=way[0], random_weight_init=way[1], run_dir=here)
            for way in ((True, False), (False, False), (True, True), (False, True))}


def state(folder): return load_encoder(folder).state_dict()


def equal(a, b): return [torch.equal(v, b[k]) for k, v in a.items()]


def bare(config): return {k: v for k, v in json.loads(json.dumps(config)).items() if k not in FREE}


# From scratch

def test_from_scratch_writes_a_run_like_any_other(scratched):
    names = {p.name for p in scratched.iterdir()} - {"tensorboard"}
    assert names == {"checkpoints", "config.yaml", "encoder.safetensors", "metrics.csv", "results.json"}
    assert scratched.parts[-3:] == ("scratch", "resnet8", "version_0")
    record = read_record(scratched)
    wanted = USUAL | SCRATCH | dict(run_dir=record["config"]["run_dir"])
    assert record["config"] == wanted and yaml.safe_load((scratched / "config.yaml").read_text()) == bare(wanted)
    assert list(record["evaluate"]["scores"]) == ["from scratch"] and 0.05 < record["evaluate"]["scores"]["from scratch"]["classifier"] <= 1
    assert [sorted(row) for row in record["curve"]] == [sorted("epoch loss accuracy images_per_second seconds val_loss val_accuracy".split())]
    assert "train 100, val 434, test 359" in record["images"]


def test_from_scratch_starts_at_the_seed_whatever_came_before(scratched, tmp_path):
    torch.manual_seed(999)
    again, other = (train_from_scratch(**SCRATCH | dict(seed=seed), run_dir=str(tmp_path)) for seed in (42, 43))
    assert all(equal(state(scratched), state(again))) and not all(equal(state(scratched), state(other)))


def test_normalisation_is_the_training_images(scratched, digits):
    config = load_encoder(scratched).config
    assert (tuple(config["mean"]), tuple(config["std"])) == (digits.mean, digits.std)


# Fine-tuned

def test_fine_tuning_fills_in_what_the_run_knows(run, tuned):
    folder, before = tuned[True, False], read_record(run)["config"]
    config = read_record(folder)["config"]
    assert folder.parts[-3:] == ("finetune", "resnet8", "version_0") and config["run"] == str(run)
    for k in ("dataset", "root", "image_size", "backbone", "width"): assert config[k] == before[k] and FINE[k] is None
    assert yaml.safe_load((folder / "config.yaml").read_text()) == bare(config)
    assert {p.name for p in folder.iterdir()} >= {"checkpoints", "config.yaml", "encoder.safetensors", "metrics.csv", "results.json"}


def test_what_moves(run, tuned):
    before = state(run)
    assert all(equal(before, state(tuned[True, False])))               # frozen: to the bit, buffers too
    assert not any(equal(before, state(tuned[False, False])))          # free: every tensor
    assert not all(equal(before, state(tuned[True, True])))            # random: another net
    assert not all(equal(state(tuned[True, True]), state(tuned[False, True])))


def test_rows_say_what_was_done(tuned):
    names = {way: list(read_record(folder)["evaluate"]["scores"]) for way, folder in tuned.items()}
    assert names == {(True, False): ["SimCLR, frozen"], (False, False): ["SimCLR, fine-tuned"], (True, True): ["random encoder, frozen"],
                     (False, True): ["random encoder, fine-tuned"]}


def test_random_and_free_is_from_scratch_to_the_bit(scratched, tmp_path):
    same = SCRATCH | dict(optimizer="sgd", learning_rate=USUAL["learning_rate"], weight_decay=USUAL["weight_decay"])
    folder = finetune(**same, random_weight_init=True, freeze_encoder=False, run_dir=str(tmp_path))
    assert all(equal(state(folder), state(scratched)))
    scores = [next(iter(read_record(f)["evaluate"]["scores"].values()))["classifier"] for f in (folder, scratched)]
    assert scores[0] == scores[1]


def test_the_run_is_found_by_its_number(run, tmp_path):
    shutil.copytree(run, tmp_path / "pretrain/resnet8/version_3")
    folder = finetune(experiment_version=3, backbone="resnet8", num_classes=10, **TINY, run_dir=str(tmp_path))
    assert all(equal(state(folder), state(run)))
    with pytest.raises(FileNotFoundError, match="pretrain/resnet8/version_2: it is not a finished run"):
        finetune(experiment_version=2, backbone="resnet8", **TINY, run_dir=str(tmp_path))


def start(run=None, **more): return starting_point(FINE | dict(run=run) | more)


def test_starting_points(run):
    assert start(experiment_version=7, random_weight_init=True)[1] == Path("runs/pretrain/resnet18/version_7")
    free = start(random_weight_init=True)[0]
    assert [free[k] for k in ("dataset", "root", "image_size", "backbone", "width")] == ["cifar10", None, None, "resnet18", 64]
    assert start(str(run), backbone="resnet8", width=4)[0]["dataset"] == "digits"
    assert start(str(run), random_weight_init=True)[0]["width"] == 4                              # the control has the run's shape
    assert start(str(run), dataset="fashion_mnist")[0]["dataset"] == "fashion_mnist"


def test_another_data_set_does_not_take_the_folder_of_the_old(run, tmp_path):
    shutil.copytree(run, moved := tmp_path / "moved")
    record = read_record(moved)
    record["config"]["root"] = "somewhere"
    (moved / "results.json").write_text(json.dumps(record))
    assert start(str(moved))[0]["root"] == "somewhere" == start(str(moved), dataset="digits")[0]["root"]
    assert start(str(moved), dataset="cifar10")[0]["root"] is None and start(str(moved), dataset="cifar10", root="here")[0]["root"] == "here"


# The original's configuration

ORIGINAL = dict(seed=42, epochs=100, experiment_version=1, eta_min=1e-6, batch_size=8, dataset="cifar10", weight_decay=0.0, learning_rate=1e-4, num_classes=10,
                freeze_encoder=True, random_weight_init=False, backbone="resnet50")


def test_the_original_configuration_is_kept_and_accepted(tmp_path):
    stored = yaml.safe_load((ROOT / "configs/finetune.yaml").read_text())
    assert stored == ORIGINAL and list(stored) == list(ORIGINAL) and set(stored) <= set(FINE)
    check_classifier(FINE | stored)
    with pytest.raises(FileNotFoundError, match="pretrain/resnet50/version_1: it is not a finished run"): finetune(**stored, run_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())
    filled, _ = starting_point(FINE | stored | dict(freeze_encoder=False, random_weight_init=True))                 # the original's baseline
    assert (filled["backbone"], filled["dataset"]) == ("resnet50", "cifar10")


# Refused

BAD = {"epochs": 0, "batch_size": 0, "width": 0, "labels_per_class": 0, "epoch_images": 0, "learning_rate": 0, "encoder_learning_rate": -1.0, "eta_min": -1,
       "weight_decay": -1, "padding": -1, "seed": -1, "workers": -1, "experiment_version": -1, "warmup_epochs": 101, "flip_prob": 1.5, "label_fraction": 0.0,
       "val_fraction": 1.0, "num_classes": 1, "backbone": "resnet9", "optimizer": "adam", "precision": "fp16"}


@pytest.mark.parametrize("key", BAD)
def test_every_setting_out_of_range_is_named(key):
    with pytest.raises(ValueError, match=f"^{key}={BAD[key]!r} "): finetune(**FINE | {key: BAD[key]})


@pytest.mark.parametrize("edge", [dict(flip_prob=1), dict(label_fraction=1), dict(val_fraction=0), dict(epochs=1, warmup_epochs=5), dict(num_classes=2),
                                  dict(eta_min=1e-3), dict(padding=0), dict(labels_per_class=None), dict(seed=0)], ids=str)
def test_edges_are_allowed(edge): check_classifier(FINE | edge)


def test_a_label_fraction_of_a_whole_1_is_all_labels(digits, tmp_path):
    run = train_from_scratch(**SCRATCH | dict(labels_per_class=None, label_fraction=1), run_dir=str(tmp_path))
    assert read_record(run)["images"] == repr(digits)


def test_the_end_cannot_lie_above_the_peak():
    with pytest.raises(ValueError, match="eta_min=0.2 is above learning_rate=0.1"): check_classifier(USUAL | dict(eta_min=0.2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "Grey pictures without labels, colour pictures in two classes, a run that was interrupted, one without an encoder."
    top = tmp_path_factory.mktemp("folders")
    for i in range(8):
        for folder, shape in ((top / "flat", (8, 8)), (top / f"colour/c{i % 2}", (8, 8, 3))):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, 30 * i, np.uint8)).save(folder / f"{i}.png")
    (top / "interrupted").mkdir()
    (top / "interrupted/config.yaml").write_text("dataset: digits\n")
    return top


REFUSED = [(dict(num_classes=7), ValueError, "num_classes=7, but digits has 10"), (dict(backbone="resnet18"), ValueError, "backbone='resnet18', but .* has backbone='resnet8'"),
           (dict(width=8), ValueError, "width=8, but .* has width=4"), (dict(flip_prob=2), ValueError, "flip_prob=2"),
           (dict(run="interrupted"), FileNotFoundError, "no results.json in .*interrupted: it is not a finished run"),
           (dict(dataset="folder", root="flat"), ValueError, "dataset='folder' has no labels here"),
           (dict(dataset="folder", root="colour"), ValueError, "takes images of 1 channels, folder has 3"),
           (dict(dataset="folder"), ValueError, "needs root="), (dict(labels_per_class=500), ValueError, "500 labels a class: there are"),
           (dict(epoch_images=99), ValueError, "epoch_images=99 must be at least the 100"), (dict(val_fraction=0), ValueError, "no val images"),
           (dict(version=-1), ValueError, "version=-1")]


@pytest.mark.parametrize("more, error, message", REFUSED, ids=[m for *_, m in REFUSED])
def test_finetune_refuses_before_a_folder_is_made(run, folders, tmp_path, more, error, message):
    more = {k: str(folders / v) if k in ("run", "root") else v for k, v in more.items()}
    with pytest.raises(error, match=message): finetune(**dict(run=run) | TINY | dict(run_dir=str(tmp_path)) | more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more, message", [(dict(batch_size=0), "batch_size=0"), (dict(dataset="folder", root="flat"), "has no labels here"),
                                           (dict(label_fraction=1.5, labels_per_class=None), "label_fraction=1.5"), (dict(backbone="resnet9"), "resnet9")])
def test_from_scratch_refuses_before_a_folder_is_made(folders, tmp_path, more, message):
    more = {k: str(folders / v) if k == "root" else v for k, v in more.items()}
    with pytest.raises(ValueError, match=message): train_from_scratch(**SCRATCH | dict(run_dir=str(tmp_path)) | more)
    assert not list(tmp_path.iterdir())


def test_labels(digits):
    assert with_labels(digits, "digits") is digits and with_labels(digits, "digits", 10) is digits
    with pytest.raises(ValueError, match="num_classes=11, but digits has 10"): with_labels(digits, "digits", 11)
    with pytest.raises(ValueError, match="has no labels here"): with_labels(replace(digits, classes=()), "digits", 10)


# CIFAR-100, by the same commands

class Fake:
    "Stands in for torchvision's CIFAR100: two pictures of each class to learn, one to test."
    def __init__(self, root, train=True, download=False):
        n = 200 if train else 100
        self.data = np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), np.uint8)
        self.targets, self.classes = [i % 100 for i in range(n)], [f"c{i}" for i in range(100)]


def test_cifar100_by_the_same_commands(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Fake)
    run = pretrain(**PRE | dict(dataset="cifar100", val_fraction=0.5, batch_size=50), root=str(tmp_path), run_dir=str(tmp_path))
    scores = evaluate_run(run, per_class=(1,), echo=False)
    assert scores["SimCLR h"]["few_labels"][1]["mean"] < 0.2           # noise: chance is 1 %
    more = TINY | dict(labels_per_class=1, val_fraction=0.5, run_dir=str(tmp_path))
    folder = finetune(run, num_classes=100, **more)
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["head.weight"].shape == (100, load_encoder(run).feature_dim) and read_record(folder)["config"]["dataset"] == "cifar100"
    with pytest.raises(ValueError, match="num_classes=10, but cifar100 has 100"): finetune(run, num_classes=10, **more)


# The table

def point(method, images, accuracy): return dict(method=method, images=images, accuracy=accuracy)


def test_table_by_hand():
    points = [point("from scratch", 1295, 0.9), point("fine-tuned", 1295, 0.8), point("linear probe", 10, 0.3), point("linear probe", 10, 0.5),
              point("from scratch", 10, 0.4), point("from scratch", 10, 0.399)]
    assert sweep_table(dict(points=points)).splitlines() == ["| labels | from scratch | linear probe | fine-tuned |", "| ---: | ---: | ---: | ---: |",
                                                             "| 10 | 40.0 ± 0.1 | **40.0 ± 14.1** |  |", "| 1,295 | **90.0** |  | 80.0 |"]
    assert len(sweep_table(dict(points=[])).splitlines()) == 2


# The sweep, its trainings faked

@pytest.fixture
def calls(monkeypatch):
    "What each training was asked for; accuracy is made up."
    seen = []
    def fake(method, run, images, amount, config):
        seen.append((method, Path(run).name, amount, config["seed"]))
        return 0.5 + 0.001 * len(seen)
    monkeypatch.setattr(baseline, "train_few", fake)
    return seen


def sweep(runs, out, **more): return label_sweep(runs, **dict(per_class=(1,), fractions=(1.0,), seeds=2, epoch_images=2000, out=str(out), echo=False) | more)


def test_the_record_of_a_sweep(run, calls, tmp_path):
    record = sweep([run], tmp_path / "new/sweep.json")
    assert json.loads((tmp_path / "new/sweep.json").read_text()) == json.loads(json.dumps(record))
    assert calls == [(m, run.name, a, s) for a in (1, 1.0) for s in (0, 1) for m in METHODS]
    assert [type(a) for *_, a, _ in calls] == [int] * 6 + [float] * 6  # one label a class is not a share of 1.0
    assert [p["images"] for p in record["points"]] == [10] * 6 + [1004] * 6
    assert {frozenset(p) for p in record["points"]} == {frozenset("method amount images seed accuracy seconds".split())}
    assert record["config"]["runs"] == [str(run)] and record["config"]["seeds"] == 2 and "out" not in record["config"] and record["environment"]["torch"]


def test_the_order_of_amounts_does_not_merge_one_and_all(run, calls, tmp_path):
    assert len(sweep([run], tmp_path / "a.json", per_class=(1, 5), fractions=(0.1, 1.0), seeds=1)["points"]) == 4 * 3


def test_a_fraction_of_a_whole_1_is_all(run, calls, tmp_path):
    assert {p["images"] for p in sweep([run], tmp_path / "s.json", per_class=(), fractions=(1,), seeds=1)["points"]} == {1004}


def test_draws_take_the_runs_in_turn(run, calls, tmp_path):
    shutil.copytree(run, other := tmp_path / "other")
    sweep([run, other], tmp_path / "s.json", fractions=(), seeds=3)
    assert [(name, seed) for _, name, _, seed in calls[::3]] == [(run.name, 0), ("other", 1), (run.name, 2)]


def test_a_finished_sweep_does_nothing(run, calls, tmp_path):
    first = sweep([run], tmp_path / "s.json")
    calls.clear()
    assert sweep([run], tmp_path / "s.json")["points"] == first["points"] and calls == []


@pytest.mark.parametrize("done", [1, 4, 11])
def test_half_a_sweep_is_completed(run, calls, tmp_path, done):
    out = tmp_path / "s.json"
    whole = sweep([run], out)
    half = dict(whole, points=whole["points"][:done])
    out.write_text(json.dumps(half))
    calls.clear()
    points = sweep([run], out)["points"]
    key = lambda p: (p["method"], p["images"], p["seed"])
    assert len(calls) == 12 - done and points[:done] == half["points"] and list(map(key, points)) == list(map(key, whole["points"]))


def test_each_training_is_written_at_once(run, tmp_path, monkeypatch):
    answers = iter([0.1, 0.2, 0.3])
    monkeypatch.setattr(baseline, "train_few", lambda *_: next(answers))
    with pytest.raises((StopIteration, RuntimeError)): sweep([run], tmp_path / "s.json")
    assert [p["accuracy"] for p in json.loads((tmp_path / "s.json").read_text())["points"]] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("more", [dict(epochs=3), dict(per_class=(1, 2)), dict(seeds=3), dict(flip_prob=0.1)], ids=str)
def test_another_sweep_is_refused_and_left_alone(run, calls, tmp_path, more):
    sweep([run], out := tmp_path / "s.json")
    before = out.read_bytes()
    with pytest.raises(ValueError, match=f"s.json holds another sweep .*{next(iter(more))}: .* there, .* now"): sweep([run], out, **more)
    assert out.read_bytes() == before and len(calls) == 12


def test_resumed_reads_what_json_made_of_it(tmp_path):
    record = dict(config=dict(fractions=(0.1, 1.0), seeds=3), points=[])
    (tmp_path / "s.json").write_text(json.dumps(record | dict(points=[1])))
    assert resumed(record, tmp_path / "s.json")["points"] == [1]
    with pytest.raises(ValueError, match=r"seeds: 3 there, 4 now; new: None there, 1 now\): give another out"):
        resumed(dict(config=record["config"] | dict(seeds=4, new=1)), tmp_path / "s.json")


@pytest.mark.parametrize("more, error, message", [
    (dict(seeds=0), ValueError, "seeds=0"), (dict(epochs=0), ValueError, "epochs=0"), (dict(padding=-1), ValueError, "padding=-1"),
    (dict(scratch_learning_rate=0), ValueError, "scratch_learning_rate=0 must be above 0"), (dict(epoch_images=1003), ValueError, "at least the 1004 labelled images"),
    (dict(per_class=(500,)), ValueError, "500 labels a class"), (dict(fractions=(0.5, 1.5)), ValueError, "1.5 labels a class"),
    (dict(runs=[]), ValueError, "runs is empty"), (dict(runs=["lost"]), FileNotFoundError, "no results.json in lost")], ids=str)
def test_a_sweep_is_refused_before_its_first_training(run, calls, tmp_path, more, error, message):
    with pytest.raises(error, match=message): sweep(**dict(runs=[run], out=tmp_path / "new/s.json") | more)
    assert calls == [] and not list(tmp_path.iterdir())


def test_runs_may_differ_in_their_seed_alone(run, calls, tmp_path):
    record = read_record(run)
    for name, more in dict(seed=dict(seed=7, version=1), epochs=dict(epochs=9)).items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(record | dict(config=record["config"] | more)))
    sweep([run, tmp_path / "seed"], tmp_path / "s.json")
    with pytest.raises(ValueError, match="runs differ in epochs, where only the seed may"): sweep([run, tmp_path / "epochs"], tmp_path / "t.json")


# The sweep, trained

def test_every_training_takes_the_same_steps_and_its_own_rates(run, tmp_path, monkeypatch):
    seen, train = [], baseline.train_classifier
    def watched(config, images, encoder, stage, name):
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        folder = train(config, images, encoder, stage, name)
        state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        rates = [g["initial_lr"] for g in state["optimizer_states"][0]["param_groups"]]
        seen.append((name, read_record(folder)["images"].split(", val")[0], state["global_step"], rates, before))
        return folder
    monkeypatch.setattr(baseline, "train_classifier", watched)
    record = label_sweep([run], per_class=(2,), fractions=(1.0,), seeds=1, epochs=1, epoch_images=1100, batch_size=100, padding=1, flip_prob=0,
                         scratch_learning_rate=0.05, learning_rate=0.02, encoder_learning_rate=0.01, out=str(tmp_path / "s.json"), echo=False)
    assert [(name, images, steps) for name, images, steps, *_ in seen] == [
        (name, f"Images(digits: train {n}", 11) for n in ("20", "1,004") for name in ("from scratch", "fine-tuned")]
    assert [(name, rates) for name, _, _, rates, _ in seen] == [("from scratch", [0.05] * 4), ("fine-tuned", [0.02, 0.02, 0.01, 0.01])] * 2
    starts = [all(equal(state(run), before)) for *_, before in seen]
    assert starts == [False, True] * 2 and all(0.05 < p["accuracy"] <= 1 for p in record["points"])


@pytest.mark.parametrize("per_class", [1, 2, 8])
def test_a_few_label_probe_chooses_within_its_labels(run, digits, per_class):
    few, encoder = label_subset(digits, per_class, 3), load_encoder(run)
    kept, held = stratified_split(few.train.y, 0.2, 3)
    assert (len(held) == 0) == (per_class < 3)
    if not len(held): held = kept
    h, y, test = embed(encoder, few.train), few.train.y, embed(encoder, digits.test)
    probe = linear_probe(h[kept], y[kept], h[held], y[held])
    score = probe_few(encoder, few, 3)
    assert score == pytest.approx(accuracy(probe.predict(test), digits.test.y), abs=1e-6)
    nonsense = replace(few, val=TensorImages(few.val.x, few.val.y.flip(0)))
    assert probe_few(encoder, nonsense, 3) == score                    # 434 held-out labels exist, and are not asked
    assert train_few("linear probe", run, digits, per_class, dict(seed=3)) == score
