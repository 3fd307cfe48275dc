"""How good a probe after so many minutes of two CPU cores: ours, lightly's recipe and the original's, same net, CIFAR-10 (JPEG).

    python bench/minutes.py pace                  # images a second of each recipe, on a quiet machine: 3 minutes, 10 without bfloat16
    python bench/minutes.py pace --out results/minutes-no-bf16.json      # of another machine: no run is planned by it
    python bench/minutes.py run ours --minutes 10 30   # train for that many minutes' worth of epochs, score, add to the record
    python bench/minutes.py run lightly original --minutes 10
    python bench/minutes.py ship                  # the best of ours, by held-out images, into simclr/encoders in half precision

A run has as many epochs as fit into its minutes at the pace of the record, so that the schedule ends when the time is over. Nothing else
depends on the clock: a run on a busy machine, or one that is cut off and goes on, gives the same encoder. All in results/minutes.json.
Each run reads the test images once, at its end, by `score_on_test`; whatever was chosen was chosen on held-out images.
"""
import argparse
import json
import time
from functools import partial
from inspect import signature
from pathlib import Path

import torch
import yaml

from measure import ROOT, digits, report, summary
from simclr.batches import image_loader
from simclr.data import load_images
from simclr.evaluate import score_on_test
from simclr.model import SimCLRModel, build_encoder, count_macs, count_parameters, embed, fast_precision, load_encoder, save_encoder
from simclr.pretrain import build_module, build_trainer, fit, pretrain
from simclr.runs import environment, write_json

RECORD, RUNS, SHIP, SEED = ROOT / "results/minutes.json", ROOT / "runs/minutes", ROOT / "simclr/encoders/cifar10-small", 42
OURS = yaml.safe_load((ROOT / "configs/cifar10-minutes.yaml").read_text(encoding="utf-8"))
NET = {k: OURS[k] for k in ("backbone", "width")}
DATA = {k: OURS[k] for k in ("dataset", "root", "image_size")}


# Recipes: each trains for some epochs, calls `tick` after each step, and leaves encoder.safetensors in the folder

class Enough(Exception): "Raised by a tick that has seen its steps."


def watch(trainer, tick):
    import pytorch_lightning as pl
    class Watch(pl.Callback):
        def on_train_batch_end(self, *_): tick()
    trainer.callbacks.append(Watch())


def settings(**changes): return {k: p.default for k, p in signature(pretrain).parameters.items()} | changes


def lightning(images, epochs, folder, tick, config, change=lambda module: None):
    "Our trainer with a configuration, from the last checkpoint if there is one."
    config = settings(**DATA, **NET, **config, epochs=epochs, seed=SEED)
    torch.manual_seed(SEED)
    module = build_module(config, images)
    change(module)
    trainer, found = build_trainer(config, images, folder)
    watch(trainer, tick)
    fit(trainer, module, image_loader(images.train, config["batch_size"], True, SEED, True), folder / "checkpoints/last.ckpt")
    save_encoder(module.model.encoder, folder / "encoder.safetensors")
    return [{k: round(row[k], 4) for k in ("epoch", "loss", "top1", "seconds", "val_knn") if k in row} for row in found.curve]


def ours(images, epochs, folder, tick, **more):
    skip = {*DATA, *NET, "epochs"}
    return lightning(images, epochs, folder, tick, {k: v for k, v in OURS.items() if k not in skip} | more)


def original(images, epochs, folder, tick):
    "The project that this one grew out of: batch 512, LARS as timm gives it, no warm-up, its loss and its stem (bench/experiments.py)."
    from experiments import CHANGES
    config = dict(batch_size=512, temperature=0.5, optimizer="lars", learning_rate=0.3, warmup_epochs=0.0, min_crop_scale=0.08, knn_every=9)
    def change(module):
        for name in ("momentum0_no_exclusion", "padding3", "exp0"): CHANGES[name](module)
    return lightning(images, epochs, folder, tick, config, change)


def load_state(file, parts):
    "The curve of a run that was cut off, its parts and the random numbers set as they were then; [] if no file is there."
    if not file.exists(): return []
    found = torch.load(file, weights_only=True)
    for name, part in parts.items(): part.load_state_dict(found[name])
    torch.set_rng_state(found["random"])
    return found["curve"]


def save_state(file, parts, curve):
    "Write what `load_state` reads; a cut in the middle leaves the old file."
    new = file.with_suffix(".new")
    torch.save({name: part.state_dict() for name, part in parts.items()} | dict(random=torch.get_rng_state(), curve=curve), new)
    new.replace(file)


def lightly(images, epochs, folder, tick):
    "lightly's example, with momentum, decay and cosine of its CIFAR-10 benchmark: PIL views, two workers, two passes, SGD, fp32."
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    torch.manual_seed(SEED)
    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    arrays = images.train.x.permute(0, 2, 3, 1).contiguous().numpy()
    class Pictures(torch.utils.data.Dataset):
        def __len__(self): return len(arrays)
        def __getitem__(self, i): return transform(Image.fromarray(arrays[i])), 0
    loader = torch.utils.data.DataLoader(Pictures(), 256, shuffle=True, drop_last=True, num_workers=2)
    model = SimCLRModel(build_encoder(**NET, mean=images.mean, std=images.std), 512, 128)
    optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4), NTXentLoss()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    parts = dict(model=model, optimizer=optimizer, schedule=schedule)
    curve = load_state(file := folder / f"last-{epochs}.pt", parts)
    for epoch in range(len(curve), epochs):
        start, total = time.perf_counter(), 0.0
        for views, _ in loader:
            loss = criterion(*map(model, views))
            optimizer.zero_grad(), loss.backward(), optimizer.step(), schedule.step(), tick()
            total += loss.item() / len(loader)
        curve.append(dict(epoch=epoch + 1, loss=round(total, 4), seconds=round(time.perf_counter() - start, 1)))
        save_state(file, parts, curve)
        report(f"lightly {curve[-1]}")
    save_encoder(model.encoder, folder / "encoder.safetensors")
    return curve


RECIPES = dict(ours=ours, lightly=lightly, original=original)
BATCH = dict(ours=OURS["batch_size"], lightly=256, original=512)


# Pace and runs

def read_record(file=RECORD):
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else dict(net=NET, seed=SEED, pace={}, runs=[])


def steps_timed(images, name, folder, warm=15, steps=60, **more):
    "Images a second of a recipe, ten steps a value, after its first steps."
    times = []
    def tick():
        times.append(time.perf_counter())
        if len(times) > warm + steps: raise Enough
    try: RECIPES[name](images, 100, folder, tick, **more)
    except Enough: pass
    return [BATCH[name] * 10 / (b - a) for a, b in zip(times[warm::10], times[warm + 10::10])]


def pace(images, name, folder):
    "Of a whole run: ours has small views for four fifths of its images."
    rates = steps_timed(images, name, folder / "a")
    if name == "ours":
        whole = steps_timed(images, name, folder / "b", small_views=None)
        rates = [1 / (0.8 / a + 0.2 / b) for a, b in zip(rates, whole)]
    return dict(summary(rates), environment=environment(), threads=torch.get_num_threads())


def score(encoder, images):
    "The probe on images as they are and on ten crops of each, and kNN. Reads the test images."
    features, found = partial(embed, encoder), {}
    for name, crops in dict(plain=None, crops=dict(copies=10, flip_prob=0.5)).items():
        s = score_on_test(features, images, crops=crops, seed=0)
        found[name] = {k: s[k] for k in ("linear", "linear_val", "knn", "weight_decay")}
    return found


def run(images, name, minutes, rate):
    epochs = int(minutes * 60 * rate / len(images.train))
    if not epochs: raise SystemExit(f"{minutes} minutes hold no epoch of {name} at {rate:.0f} images/s")
    folder, start = RUNS / f"{name}-{minutes:g}", time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    report(f"{name}, {minutes:g} minutes: {epochs} epochs at {rate:.0f} images/s")
    curve = RECIPES[name](images, epochs, folder, lambda: None)
    encoder = load_encoder(folder)
    seconds, shape = sum(row["seconds"] for row in curve), (3, images.image_size, images.image_size)
    precision = "float32" if name == "lightly" else str(fast_precision("cpu")).removeprefix("torch.")
    scores = score(encoder, images)
    report(f"{name}, {minutes:g} minutes: {scores}")
    return dict(recipe=name, minutes=minutes, epochs=epochs, images=epochs * (len(images.train) // BATCH[name]) * BATCH[name],
                pace=digits(rate), seconds=round(seconds, 1), wall=round(time.perf_counter() - start, 1), threads=torch.get_num_threads(),
                precision=precision, parameters=count_parameters(encoder), macs=count_macs(encoder, shape), curve=curve, scores=scores,
                config=OURS if name == "ours" else None, environment=environment())


def ship(images):
    "The encoder of the best run of ours in half precision, and the record of that run with the scores of what is shipped."
    best = max((r for r in read_record()["runs"] if r["recipe"] == "ours"), key=lambda r: r["scores"]["plain"]["linear_val"])
    SHIP.mkdir(parents=True, exist_ok=True)
    save_encoder(load_encoder(RUNS / f"ours-{best['minutes']:g}").half(), SHIP / "encoder.safetensors")
    start, scores = time.perf_counter(), score_on_test(partial(embed, load_encoder(SHIP)), images, seed=0)
    config = settings(**OURS) | dict(epochs=best["epochs"], seed=SEED)
    write_json(dict(config=config, images=repr(images), **{k: best[k] for k in ("environment", "seconds", "parameters", "macs", "curve")},
                    evaluate=dict(scores={"SimCLR h": scores}, seed=0, seconds=round(time.perf_counter() - start, 1),
                                  environment=environment())), SHIP / "results.json")
    report(f"{SHIP.relative_to(ROOT)}: {scores}")


def main(args):
    images = load_images(**DATA)
    if args.command == "ship": return ship(images)
    if args.command == "pace":
        from tempfile import TemporaryDirectory
        for name in args.recipes or RECIPES:
            with TemporaryDirectory() as folder: found = pace(images, name, Path(folder))
            record = read_record(args.out)
            record["pace"][name] = found
            write_json(record, args.out)
            report(f"{name}: {found['median']:.0f} images/s")
        return
    for minutes in args.minutes:
        for name in args.recipes:
            rate = args.rate or read_record()["pace"][name]["median"]
            found = run(images, name, minutes, rate)
            record = read_record()                                    # others may have added runs meanwhile
            record["runs"] = [r for r in record["runs"] if (r["recipe"], r["minutes"]) != (name, minutes)] + [found]
            write_json(record, RECORD)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("pace", "run", "ship"):
        sub = commands.add_parser(command)
        if command == "ship": continue
        sub.add_argument("recipes", nargs="*" if command == "pace" else "+", metavar="RECIPE", help=", ".join(RECIPES))
        if command == "pace": sub.add_argument("--out", type=Path, default=RECORD, help="another record, for another machine")
        if command == "run":
            sub.add_argument("--minutes", type=float, nargs="+", required=True)
            sub.add_argument("--rate", type=float, help="images a second, instead of the pace of the record")
    main(parser.parse_args())
