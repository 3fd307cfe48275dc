"Classifiers on an encoder: shifts, labels, what frozen means, two learning rates, resume, the record. Nets are tiny; the digits are real."
import csv
import json
import math
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
import yaml

import simclr.classifier as module_under_test
from simclr.classifier import Classifier, ClassifierReport, label_subset, pad_crop_flip, repeated, train_classifier
from simclr.batches import image_loader
from simclr.data import FileImages, TensorImages, load_images
from simclr.evaluate import accuracy
from simclr.model import build_encoder, embed, load_encoder
from simclr.pretrain import build_trainer, fit

TINY = dict(backbone="resnet8", labels_per_class=20, label_fraction=1.0, epoch_images=None, epochs=3, batch_size=50, optimizer="adamw",
            learning_rate=1e-2, encoder_learning_rate=1e-3, freeze_encoder=False, weight_decay=0.1, warmup_epochs=1, eta_min=0.0, padding=1,
            flip_prob=0.5, seed=3, precision="fp32", workers=0, version=None, resume=False, echo=False)
STEPS = 4                                                               # 200 labelled digits in batches of 50

pytestmark = pytest.mark.usefixtures("ctrl_c_is_heard")


@pytest.fixture(scope="module")
def digits(): return load_images("digits", image_size=8)


def tiny_encoder(seed=0, train=True):
    torch.manual_seed(seed)
    return build_encoder("resnet8", 1, 8, width=4, mean=(0.3,), std=(0.4,)).train(train)


def train(tmp_path, images, encoder=None, **more):
    return train_classifier(TINY | dict(run_dir=str(tmp_path)) | more, images, encoder or tiny_encoder(), "classify", "tiny")


def copy(module): return {k: v.clone() for k, v in module.state_dict().items()}


def equal(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def checkpoint(folder): return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def seeded(seed): return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory): return train(tmp_path_factory.mktemp("finished"), digits)


# Shift and mirror

@pytest.mark.parametrize("channels, size, padding, flip_prob", [(3, 8, 4, 0.5), (1, 8, 2, 0.5), (3, 5, 0, 1.0), (1, 4, 6, 0.0)])
def test_shifts_against_torchvision_one_image_at_a_time(channels, size, padding, flip_prob):
    x = torch.randn(60, channels, size, size, generator=seeded(0))
    g = seeded(1)
    shift = torch.randint(0, 2 * padding + 1, (2, 60, 1), generator=g)
    flips = torch.rand(60, 1, generator=g) < flip_prob
    expected = []
    for i, image in enumerate(x):
        crop = TF.crop(F.pad(image, [padding] * 4), shift[0, i].item(), shift[1, i].item(), size, size)
        expected.append(TF.hflip(crop) if flips[i] else crop)
    assert torch.equal(pad_crop_flip(x, padding, flip_prob, seeded(1)), torch.stack(expected))


def found_draws(n, padding=2, flip_prob=0.5, seed=0):
    "Shift down, shift right and mirror of each image, read off the pixels: each pixel of one image has a value of its own."
    size = 7
    x = torch.arange(1., size * size + 1).view(1, 1, size, size).expand(n, 1, size, size)
    out = pad_crop_flip(x, padding, flip_prob, seeded(seed))
    centre = out[:, 0, size // 2, size // 2].long() - 1                # padding <= size // 2, so the centre is never padding
    return centre // size - size // 2, centre % size - size // 2, out[:, 0, 3, 4] < out[:, 0, 3, 3]


def test_every_shift_is_as_likely_and_independent_of_the_others():
    n = 20_000
    down, right, mirrored = found_draws(n)
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / n**0.5)
    counts = ((down + 2) * 10 + (right + 2) * 2 + mirrored).bincount(minlength=50)
    chi = ((counts - n / 50) ** 2 / (n / 50)).sum().item()             # 49 degrees of freedom
    assert len(counts) == 50 and chi < 49 + 5 * (2 * 49) ** 0.5
    pairs = torch.stack([down[:-1] * right[1:], down[:-1] * down[1:]]).float().mean(1)         # neighbours in the batch share nothing
    assert pairs.abs().max() < 5 * 2 / n**0.5                          # the variance of a shift from -2 to 2 is 2


@pytest.mark.parametrize("flip_prob", [0.0, 0.2, 1.0])
def test_rate_of_mirror_images(flip_prob):
    assert found_draws(10_000, 0, flip_prob)[2].float().mean().item() == pytest.approx(flip_prob, abs=5 * 0.4 / 100)


def test_padding_is_zero_and_nothing_is_changed_in_place():
    x = torch.ones(500, 3, 4, 4)
    out = pad_crop_flip(x, 2, 0.5, seeded(0))
    assert set(out.unique().tolist()) == {0.0, 1.0} and torch.equal(x, torch.ones_like(x))
    assert torch.equal(pad_crop_flip(x, 0, 0.0), x) and pad_crop_flip(x[:0]).shape == (0, 3, 4, 4)


def test_the_generator_decides():
    x = torch.randn(20, 1, 8, 8)
    a, b, c = (pad_crop_flip(x, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


# Labels

def index_in(part, whole):
    "Where each image of a part stands in the whole."
    places = {}
    for i, x in enumerate(whole.x): places.setdefault(x.numpy().tobytes(), []).append(i)
    return [places[x.numpy().tobytes()][0] for x in part.x]


@pytest.mark.parametrize("amount", [1, 7, 0.1, 0.5, 1.0, 1e-6])
def test_each_class_gives_the_same_number_or_share(digits, amount):
    few, have = label_subset(digits, amount, seed=5).train.y.bincount(), digits.train.y.bincount()
    expected = [amount if isinstance(amount, int) else max(1, round(amount * n)) for n in have.tolist()]
    assert few.tolist() == expected


def test_all_labels_are_all_images(digits): assert torch.equal(label_subset(digits, 1.0).train.x, digits.train.x)


def test_the_choice_is_seeded_and_nested(digits):
    index = lambda amount, seed=0: set(index_in(label_subset(digits, amount, seed).train, digits.train))
    assert index(5) == index(5) != index(5, 1)
    assert index(1) < index(5) < index(0.2) < index(100)


def test_labels_stay_with_their_images(digits):
    few = label_subset(digits, 6, seed=2).train
    assert torch.equal(digits.train.y[index_in(few, digits.train)], few.y)


def test_the_parts_that_judge_are_the_same_objects(digits):
    few = label_subset(digits, 3)
    assert few.val is digits.val and few.test is digits.test and few.classes == digits.classes


def test_files_are_chosen_without_being_read(digits):
    files = FileImages([f"missing{i}.png" for i in range(20)], torch.arange(20) % 10, 8)
    assert label_subset(replace(digits, train=files), 1, seed=0).train.y.tolist().count(3) == 1


@pytest.mark.parametrize("amount", [0, -1, 0.0, -0.5, 1.01, 5000, math.nan, math.inf], ids=str)
def test_bad_amounts(digits, amount):
    with pytest.raises((ValueError, OverflowError)): label_subset(digits, amount)


def test_the_error_names_the_class_that_is_too_small(digits):
    thin = replace(digits, train=digits.train.subset((digits.train.y != 4).nonzero().flatten().tolist()))
    with pytest.raises(ValueError, match="1 labels a class: there are 0 of 4"): label_subset(thin, 1)


@pytest.mark.parametrize("n, m", [(40, 40), (40, 41), (40, 79), (7, 1000), (1, 5)])
def test_repeats_differ_by_one_at_most(n, m):
    numbers = TensorImages(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1), torch.arange(n))
    out = repeated(numbers, m, seed=4)
    counts = out.y.bincount(minlength=n)
    assert len(out) == m and counts.max() - counts.min() <= 1 and torch.equal(out.x.flatten().long(), out.y)
    assert torch.equal(out.y, repeated(numbers, m, seed=4).y)


def test_an_epoch_cannot_drop_labels(digits):
    with pytest.raises(ValueError, match="epoch_images=1294 must be at least the 1295 labelled images"): repeated(digits.train, 1294)
    assert repeated(digits.train, None) is digits.train


# Frozen, or not

@pytest.mark.parametrize("handed_over_in_train_mode", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_frozen_encoder_is_unchanged_to_the_bit(digits, tmp_path, handed_over_in_train_mode, decay):
    encoder = tiny_encoder(train=handed_over_in_train_mode)
    before = copy(encoder)
    for p in encoder.parameters(): p.grad = torch.ones_like(p)         # a stale gradient
    run = train(tmp_path, digits, encoder, freeze_encoder=True, weight_decay=decay)
    assert equal(before, copy(encoder)) and equal(before, copy(load_encoder(run)))
    assert len(before) > sum(1 for _ in encoder.parameters())          # buffers were among what was compared
    state = checkpoint(run)["state_dict"]
    assert equal(before, {k[8:]: v for k, v in state.items() if k.startswith("encoder.")})


@pytest.mark.parametrize("handed_over_in_train_mode", [True, False])
def test_an_unfrozen_encoder_changes_in_every_tensor(digits, tmp_path, handed_over_in_train_mode):
    encoder = tiny_encoder(train=handed_over_in_train_mode)
    before = copy(encoder)
    run = train(tmp_path, digits, encoder, epochs=2)
    after = copy(load_encoder(run))
    assert [k for k in before if torch.equal(before[k], after[k])] == []


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("handed_over_in_train_mode", [True, False])
def test_the_mode_of_every_step(digits, tmp_path, frozen, handed_over_in_train_mode):
    encoder, seen = tiny_encoder(train=handed_over_in_train_mode), []
    encoder.register_forward_hook(lambda m, *_: seen.append(m.training) if torch.is_grad_enabled() else None)
    train(tmp_path, digits, encoder, freeze_encoder=frozen)
    assert seen == [not frozen] * 3 * STEPS                            # also after each epoch's score, which goes to evaluation mode


def test_frozen_survives_whoever_calls_train():
    module = Classifier(tiny_encoder(), 10)
    for m in (module, module.train(), module.eval().train()): assert [m.training, m.encoder.training] == [True, False]
    assert all(not m.training for m in module.encoder.modules()) and module.head.training
    assert Classifier(tiny_encoder(train=False), 10, frozen=False).encoder.net[0][1].training


# Learning rates and gradients

def fitted(images, tmp_path, **more):
    "Train a module as Lightning does; the trainer, and the rates of every step."
    module, seen = module_under_test.build_classifier(TINY | more, tiny_encoder(), 10), []
    step = module.training_step
    def training_step(batch, batch_idx):
        seen.append([g["lr"] for g in module.optimizers().param_groups])
        return step(batch, batch_idx)
    module.training_step = training_step
    trainer, _ = build_trainer(TINY | more, images, tmp_path, ClassifierReport(images, echo=False))
    fit(trainer, module, image_loader(label_subset(images, 20).train, 50, True, 0, True))
    return module, trainer, seen


@pytest.mark.parametrize("encoder_rate, expected", [(1e-3, 1e-3), (None, 1e-2)])
def test_groups_and_schedule_of_an_unfrozen_encoder(digits, tmp_path, encoder_rate, expected):
    module, trainer, seen = fitted(digits, tmp_path, encoder_learning_rate=encoder_rate, eta_min=1e-3)
    groups = trainer.optimizers[0].param_groups
    assert [g["initial_lr"] for g in groups] == [1e-2, 1e-2, expected, expected]
    assert [g["weight_decay"] for g in groups] == [0.1, 0, 0.1, 0]
    ids = [{id(p) for p in g["params"]} for g in groups]
    assert ids[0] | ids[1] == {id(p) for p in module.head.parameters()}
    assert ids[2] | ids[3] == {id(p) for p in module.encoder.parameters()} and sum(map(len, ids)) == len(list(module.parameters()))
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * k / (2 * STEPS))) / 2 for k in range(2 * STEPS)]
    share = [*[(k + 1) / STEPS for k in range(STEPS)], *cosine]        # an epoch up, two down to eta_min of the head's peak
    for column, peak in zip(zip(*seen), [1e-2, 1e-2, expected, expected]):
        assert list(column) == pytest.approx([peak * s for s in share])


def test_a_frozen_encoder_is_not_in_the_optimizer(digits, tmp_path):
    module, trainer, _ = fitted(digits, tmp_path, freeze_encoder=True)
    held = {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]}
    assert held == {id(p) for p in module.head.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in module.encoder.parameters())


def step_of(module, batch):
    module.log_dict = lambda *_, **__: None
    return module.training_step(batch, 0)


def test_a_step_against_a_plain_loop(digits):
    x, y = digits.train[list(range(30))]
    module = Classifier(tiny_encoder(), 10, frozen=False, padding=2, flip_prob=0.5, seed=9)
    encoder, head = tiny_encoder(), torch.nn.Linear(32, 10)
    head.load_state_dict(module.head.state_dict())
    shifted = pad_crop_flip((x / 255 - 0.3) / 0.4, 2, 0.5, seeded(9 * 1_000_003))
    logits = head(encoder(shifted))
    expected = -logits.log_softmax(1)[torch.arange(30), y].mean()
    loss = step_of(module, (x, y))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    loss.backward(), expected.backward()
    for a, b in zip(module.encoder.parameters(), encoder.parameters()): torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


def test_shifts_change_with_the_seed(digits):
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 10).state_dict()
    modules = [Classifier(tiny_encoder(), 10, seed=s) for s in (1, 1, 2)]
    for m in modules: m.head.load_state_dict(head)
    losses = [step_of(m, digits.train[list(range(30))]).item() for m in modules]
    assert losses[0] == losses[1] != losses[2]


def test_every_step_and_seed_has_shifts_of_its_own(digits, tmp_path, monkeypatch):
    seeds = []
    def look(x, padding, flip_prob, generator):
        seeds.append(generator.initial_seed())
        return pad_crop_flip(x, padding, flip_prob, generator)
    monkeypatch.setattr(module_under_test, "pad_crop_flip", look)
    for seed in (3, 4): train(tmp_path, digits, seed=seed, epochs=2)
    assert len(seeds) == len(set(seeds)) == 2 * 2 * STEPS


def test_nan_names_the_step_and_leaves_no_finished_run(digits, tmp_path, monkeypatch):
    usual = Classifier.training_step
    def poisoned(self, batch, batch_idx):
        if self.global_step == STEPS + 1: self.head.weight.data.fill_(math.nan)
        return usual(self, batch, batch_idx)
    monkeypatch.setattr(Classifier, "training_step", poisoned)
    with pytest.raises(ValueError, match=f"the loss became nan at step {STEPS + 1}: lower learning_rate"): train(tmp_path, digits)
    folder = tmp_path / "classify/resnet8/version_0"
    assert not (folder / "encoder.safetensors").exists() and checkpoint(folder)["epoch"] == 0
    assert all(v.isfinite().all() for v in checkpoint(folder)["state_dict"].values())


# The record

def head_of(folder): return [checkpoint(folder)["state_dict"][f"head.{k}"] for k in ("weight", "bias")]


def test_what_the_record_says_can_be_recomputed_from_the_files(digits, finished):
    encoder, rows = load_encoder(finished), list(csv.DictReader(open(finished / "metrics.csv")))
    record = json.loads((finished / "results.json").read_text())
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "images_per_second", "seconds", "val_loss", "val_accuracy"]
    logits = F.linear(embed(encoder, digits.val), *head_of(finished))
    assert float(rows[-1]["val_accuracy"]) == pytest.approx(accuracy(logits.argmax(1), digits.val.y), abs=1e-6)
    assert float(rows[-1]["val_loss"]) == pytest.approx(F.cross_entropy(logits, digits.val.y).item(), abs=1e-4)
    test = accuracy(F.linear(embed(encoder, digits.test), *head_of(finished)).argmax(1), digits.test.y)
    scores = record["evaluate"]["scores"]["tiny"]
    assert scores["classifier"] == pytest.approx(test, abs=1e-6) and {"linear", "knn", "few_labels"} <= set(scores)
    assert [r["epoch"] for r in record["curve"]] == [1, 2, 3] and record["curve"][-1]["loss"] == pytest.approx(float(rows[-1]["loss"]))
    assert {"config", "environment", "images", "seconds", "parameters", "macs"} <= set(record) and "train 200" in record["images"]
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["labels_per_class"] == 20 and config["learning_rate"] == 1e-2


class Counting(TensorImages):
    "Images that count how often each is read."
    def __init__(self, x, y):
        super().__init__(x, y)
        self.reads = torch.zeros(len(y), dtype=torch.long)
    def __getitems__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)


def test_the_test_images_are_read_once(digits, tmp_path):
    test = Counting(digits.test.x, digits.test.y)
    train(tmp_path, replace(digits, test=test), epochs=2)
    assert test.reads.tolist() == [1] * len(test)


def test_the_test_images_choose_nothing(digits, finished, tmp_path):
    other = replace(digits, test=TensorImages(digits.test.x.flip(0), digits.test.y.roll(1)))
    run = train(tmp_path, other)
    assert equal(checkpoint(finished)["state_dict"], checkpoint(run)["state_dict"])


def test_the_share_of_labels_is_used_when_no_number_is_given(digits, tmp_path):
    run = train(tmp_path, digits, labels_per_class=None, label_fraction=0.1, epochs=1, warmup_epochs=0)
    assert "train 129" in json.loads((run / "results.json").read_text())["images"]


def test_few_labels_take_the_steps_of_many(digits, tmp_path):
    run = train(tmp_path, digits, labels_per_class=1, epoch_images=200, epochs=1, warmup_epochs=0)
    assert checkpoint(run)["global_step"] == STEPS


@pytest.mark.parametrize("more, message", [(dict(labels_per_class=5000), "5000 labels a class"), (dict(epoch_images=3), "epoch_images=3"),
                                           (dict(labels_per_class=0), "0 labels a class"), (dict(optimizer="adam"), "optimizer='adam'"),
                                           (dict(version=-1), "version=-1")], ids=str)
def test_bad_values_leave_no_finished_run(digits, tmp_path, more, message):
    with pytest.raises(ValueError, match=message): train(tmp_path, digits, **more)
    assert not list(tmp_path.rglob("encoder.safetensors")) and not list(tmp_path.rglob("results.json"))


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_part_is_named_before_training(digits, tmp_path, part):
    with pytest.raises(ValueError, match=f"no {part} images"): train(tmp_path, replace(digits, **{part: digits.val.subset([])}))
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_not_overwritten(digits, finished):
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="holds a finished run"): train(finished.parents[2], digits, version=0, resume=resume)


# Interrupted, resumed

@pytest.mark.parametrize("frozen", [False, True])
def test_resumed_equals_uninterrupted(digits, finished, tmp_path, monkeypatch, frozen):
    straight = train(tmp_path / "a", digits, freeze_encoder=True) if frozen else finished
    usual = ClassifierReport.on_train_epoch_start
    def interrupt(self, trainer, module):
        usual(self, trainer, module)
        if trainer.current_epoch == 2: signal.raise_signal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(ClassifierReport, "on_train_epoch_start", interrupt)
        with pytest.raises(KeyboardInterrupt): train(tmp_path / "b", digits, freeze_encoder=frozen)
    folder = tmp_path / "b/classify/resnet8/version_0"
    assert checkpoint(folder)["epoch"] == 1 and not (folder / "results.json").exists()
    epochs = []
    def note(self, trainer, module):
        usual(self, trainer, module)
        epochs.append(trainer.current_epoch)
    monkeypatch.setattr(ClassifierReport, "on_train_epoch_start", note)
    run = train(tmp_path / "b", digits, freeze_encoder=frozen, resume=True)
    assert epochs == [2]                                                # and what was done is not done again
    assert run == folder and equal(checkpoint(straight)["state_dict"], checkpoint(run)["state_dict"])
    strip = lambda r: [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in json.loads((r / "results.json").read_text())["curve"]]
    assert strip(straight) == strip(run)
    scores = [json.loads((r / "results.json").read_text())["evaluate"]["scores"] for r in (straight, run)]
    assert scores[0] == scores[1]


def test_the_seed_decides_the_run(digits, finished, tmp_path):
    assert equal(checkpoint(finished)["state_dict"], checkpoint(train(tmp_path, digits))["state_dict"])
    assert not equal(checkpoint(finished)["state_dict"], checkpoint(train(tmp_path, digits, seed=4))["state_dict"])


def test_one_line_an_epoch_and_the_table(digits, tmp_path, capfd):
    train(tmp_path, digits, epochs=2, echo=True)
    out = capfd.readouterr().out
    assert "epoch   1/2" in out and "held-out" in out and "| classifier |" in out
    train(tmp_path, digits, epochs=1, warmup_epochs=0)
    assert capfd.readouterr() == ("", "")
