"""Small SimCLR runs that differ in one thing at a time: what the ablations and the post-mortem are made of.

    python bench/experiments.py ablations        # writes results/ablations.json
    python bench/experiments.py why_80           # writes results/why-80.json
    python bench/experiments.py quick            # writes results/quick.json: what gets further in the same arithmetic

Learns from a fixed tenth-or-so of the training images, chooses the probe's regularisation on the held-out images, and scores it on further
training images that no run has seen: the test set is not read. Runs that the record holds already are not done again.
"""
import argparse
import json
import multiprocessing
import os
import time
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from simclr.baseline import train_from_scratch
from simclr.batches import image_loader
from simclr.classifier import ClassifierReport, build_classifier
from simclr.data import load_images, stratified_split
from simclr.evaluate import accuracy, knn_accuracy, linear_probe
from simclr.loss import alignment, contrastive_top1, effective_rank, nt_xent_loss, uniformity
from simclr.model import embed
from simclr.pretrain import build_module, build_optimizer, build_trainer, fit, pretrain, warmup_cosine
from simclr.runs import environment, write_json

ROOT, TRAIN, PROBE = Path(__file__).parents[1], 10_240, 10_000
DATA = dict(dataset="folder", root="~/.cache/simclr/cifar10-jpeg", image_size=32, backbone="resnet8", width=16)
COMMON = DATA | dict(hidden_dim=1024, projection_dim=128, batch_size=256, knn_every=0, echo=False)
ABLATION = COMMON | dict(epochs=16, temperature=0.2, optimizer="adamw", learning_rate=7.5e-4, warmup_epochs=1.0, min_crop_scale=0.2)
ORIGINAL = COMMON | dict(epochs=20, temperature=0.5, optimizer="lars", learning_rate=0.3, warmup_epochs=1.0, min_crop_scale=0.08)
SCRATCH = DATA | dict(epochs=30, batch_size=128, echo=False)


# What can be exchanged, one thing a change

def with_exp0_loss(module):
    "The diagonal counts as exp(0) = 1 in the denominator, as if masked by multiplying with 0."
    def loss(z1, z2, temperature, gather=False):
        z = F.normalize(torch.cat([z1, z2]).float(), dim=1)
        partner = torch.arange(len(z)).roll(len(z1))
        return F.cross_entropy((z @ z.T / temperature).fill_diagonal_(0.0), partner)
    module.loss = loss

def with_optimizer(module, momentum=0.9, exclude=True):
    "LARS as timm gives it: without momentum, or with biases and norms adapted and decayed like everything else."
    def configure_optimizers():
        from timm.optim import Lars
        p, total = module.hparams, module.trainer.estimated_stepping_batches
        groups = build_optimizer("lars", module.model, p.lr, p.weight_decay).param_groups
        if not exclude: groups = [dict(params=list(module.model.parameters()), weight_decay=p.weight_decay, always_adapt=True)]
        optimizer = Lars([{k: v for k, v in g.items() if k != "momentum"} for g in groups], lr=p.lr, momentum=momentum)
        warmup = round(total * p.warmup_epochs / module.trainer.max_epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total))
        return [optimizer], [dict(scheduler=schedule, interval="step")]
    module.configure_optimizers = configure_optimizers

def with_padding(module): module.model.encoder.net[0][0].padding = (3, 3)      # 18×18 maps after the stem, where ours are 16×16
def with_linear_head(module): module.model.head = nn.Linear(module.model.encoder.feature_dim, 128)
def without_head(module): module.model.head = nn.Identity()

CHANGES = dict(exp0=with_exp0_loss, momentum0=partial(with_optimizer, momentum=0.0), no_exclusion=partial(with_optimizer, exclude=False),
               padding3=with_padding, linear_head=with_linear_head, no_head=without_head,
               momentum0_no_exclusion=partial(with_optimizer, momentum=0.0, exclude=False))


# One run

def settings(function, changes): return {k: p.default for k, p in signature(function).parameters.items()} | changes

def parts():
    "The images that runs learn from, those that choose the regularisation, and those that score: all from the training part."
    images = load_images("folder", COMMON["root"], 32)
    first, rest = stratified_split(images.train.y, 1 - TRAIN / len(images.train), seed=2)
    score, _ = stratified_split(images.train.y[rest], 1 - PROBE / len(rest), seed=3)
    return replace(images, train=images.train.subset(first), test=images.test.subset([])), images.train.subset(rest[score])

def features_of(model, part, head=False): return embed(model if head else model.encoder, part)

def probe(h, y):
    "kNN and linear probe of features by part: accuracy on the scoring images."
    fitted = linear_probe(h["train"], y["train"], h["val"], y["val"])
    return dict(linear=accuracy(fitted.predict(h["score"]), y["score"]), knn=knn_accuracy(h["train"], y["train"], h["score"], y["score"]),
                weight_decay=fitted.weight_decay)

def label_free(module, images, n=2000):
    "What can be known without labels, on augmented pairs and views of held-out images."
    x, generator = images.val.subset(range(n)).x, torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        module.eval()
        views = [v.contiguous(memory_format=torch.channels_last) for v in module.augment(x, generator)]
        h1, h2 = (module.model.encoder(v).float() for v in views)
        z1, z2 = (module.model.head(h).float() for h in (h1, h2))
    found = dict(top1=contrastive_top1(z1[:500], z2[:500]), loss=nt_xent_loss(z1[:256], z2[:256], module.hparams.temperature),
                 loss_05=nt_xent_loss(z1[:256], z2[:256], 0.5), alignment=alignment(h1, h2), uniformity=uniformity(h1),
                 alignment_z=alignment(z1, z2), uniformity_z=uniformity(z1), rank_h=effective_rank(h1), rank_z=effective_rank(z1))
    return {k: v.item() for k, v in found.items()}

def run_simclr(job, images, score, folder):
    config = settings(pretrain, job["config"] | dict(seed=job["seed"]))
    torch.manual_seed(job["seed"])
    module = build_module(config, images)
    for name in job.get("changes", ()): CHANGES[name](module)
    trainer, report = build_trainer(config, images, folder)
    fit(trainer, module, image_loader(images.train, config["batch_size"], True, job["seed"], True))
    y = dict(train=images.train.y, val=images.val.y, score=score.y)
    kinds = {"h": False, "z": True} if job.get("z") else {"h": False}
    found = {k: probe({n: features_of(module.model, p, head) for n, p in dict(train=images.train, val=images.val, score=score).items()}, y)
             for k, head in kinds.items()}
    if job.get("small_probe"): found["h, batch 8"] = small_probe(module.model, images, score)
    curve = [{k: round(r[k], 4) for k in ("epoch", "loss", "top1")} for r in report.curve]
    return dict(scores=found, label_free=label_free(module, images), curve=curve)

def small_probe(model, images, score, epochs=20):
    "The original's probe: Adam, learning rate 1e-4, batches of 8, no augmentation, on frozen features."
    torch.manual_seed(0)
    h, y, layer = embed(model.encoder, images.train), images.train.y, nn.Linear(model.encoder.feature_dim, 10)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-4)
    for _ in range(epochs):
        for index in torch.randperm(len(h)).split(8):
            optimizer.zero_grad()
            F.cross_entropy(layer(h[index]), y[index]).backward()
            optimizer.step()
    return dict(linear=accuracy(layer(embed(model.encoder, score)).argmax(1), score.y))

def run_scratch(job, images, score, folder):
    from simclr.model import build_encoder
    config = settings(train_from_scratch, job["config"] | dict(seed=job["seed"]))
    torch.manual_seed(job["seed"])
    encoder = build_encoder("resnet8", 3, 32, width=config["width"], mean=images.mean, std=images.std)
    module = build_classifier(config, encoder, 10).to(memory_format=torch.channels_last)
    trainer, report = build_trainer(config, images, folder, ClassifierReport(images, echo=False))
    fit(trainer, module, image_loader(images.train, config["batch_size"], True, job["seed"], True))
    with torch.no_grad(): logits = module.head(embed(encoder, score))
    keep = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")
    return dict(scores=dict(classifier=dict(accuracy=accuracy(logits.argmax(1), score.y), loss=F.cross_entropy(logits, score.y).item())),
                curve=[{k: round(r[k], 4) for k in keep} for r in report.curve])


# Many runs

def job(name, group, base, seed, changes=(), scratch=False, **more):
    extra = {k: more.pop(k) for k in ("z", "small_probe") if k in more}
    return dict(name=name, group=group, seed=seed, config=base | more, changes=list(changes), scratch=scratch, **extra)

def ablations():
    for seed in range(3):
        a = lambda group, name, changes=(), **more: job(name, group, ABLATION, seed, changes, **more)
        yield a("base", "base", z=True)
        for t in (0.1, 0.5, 1.0): yield a("temperature", f"{t}", temperature=t)
        for head in ("linear_head", "no_head"): yield a("head", head, [head], z=True)
        yield a("colour", "no colour change", jitter_strength=0.0, grey_prob=0.0)
        yield a("colour", "grey only", jitter_strength=0.0)
        for c in (0.08, 0.5): yield a("crop", f"{c}", min_crop_scale=c)
        for e in (2, 4, 8): yield a("epochs", f"{e}", epochs=e, warmup_epochs=e / 16)
        yield a("blur", "0.5", blur_prob=0.5)
        for b in (64, 1024):
            for t in (0.1, 0.2, 0.5): yield a("batch", f"{b}, {t}", batch_size=b, temperature=t)

def why_80():
    for seed in range(3):
        w = lambda name, changes=(), **more: job(name, "simclr", ORIGINAL, seed, changes, **more)
        yield w("ours", small_probe=True)
        yield w("momentum 0", ["momentum0"])
        yield w("no warm-up", warmup_epochs=0.0)
        yield w("no exclusions", ["no_exclusion"])
        yield w("stem padding 3", ["padding3"])
        yield w("exp(0) on the diagonal", ["exp0"])
        yield w("half the epochs", epochs=10, warmup_epochs=0.5)
        yield w("all of the original's", ["momentum0_no_exclusion", "padding3", "exp0"], warmup_epochs=0.0, small_probe=True)
        s = lambda name, **more: job(name, "scratch", SCRATCH, seed, scratch=True, **more)
        yield s("pad, crop, flip")
        yield s("no augmentation", padding=0, flip_prob=0.0)

def quick():
    "The same arithmetic each: 16 epochs of views of 32 pixels, or 25 of which four fifths have 24, with 9/16 of the work."
    small = dict(small_views=24, epochs=25)
    for seed in range(3):
        q = lambda name, **more: job(name, "quick", ABLATION, seed, **more)
        yield q("AdamW, 3e-3")
        for rate in (1.5e-3, 3e-3, 6e-3): yield q(f"Muon, {1000 * rate:g}e-3", optimizer="muon", learning_rate=rate / 4)
        yield q("AdamW, 3e-3, small views", **small)
        yield q("Muon, 3e-3, small views", optimizer="muon", **small)

PLANS, LOADED = dict(ablations=ablations, why_80=why_80, quick=quick), []

def key(j): return json.dumps([j[k] for k in ("group", "name", "seed")])

def start_worker(threads):
    torch.set_num_threads(threads)
    LOADED.append(parts())

def work(j):
    import tempfile
    start, (images, score) = time.perf_counter(), LOADED[0]
    with tempfile.TemporaryDirectory() as folder:
        found = (run_scratch if j["scratch"] else run_simclr)(j, images, score, Path(folder))
    return dict(j, **found, seconds=round(time.perf_counter() - start, 1))

def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("plan", choices=PLANS)
    options.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time, one thread each")
    options.add_argument("--only", default="", help="only runs whose group and name contain this")
    given = options.parse_args()
    path = ROOT / "results" / f"{given.plan.replace('_', '-')}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(
        data="CIFAR-10 (JPEG)", train=TRAIN, score=PROBE, environment=environment(), workers=given.workers, runs=[])
    done = {key(j) for j in record["runs"]}
    wanted = [j for j in PLANS[given.plan]() if key(j) not in done and given.only in f"{j['group']} {j['name']}"]
    os.environ["OMP_NUM_THREADS"] = "1"                  # threads that wait for each other cost more than they give
    with multiprocessing.get_context("spawn").Pool(given.workers, start_worker, (1,)) as pool:
        for j in pool.imap_unordered(work, wanted):
            record["runs"].append(j)
            write_json(record, path)
            count = f"{len(record['runs'])}/{len(done) + len(wanted)}"
            print(f"{count} {j['group']}: {j['name']}, seed {j['seed']}: {j['scores']}, {j['seconds']:.0f} s", flush=True)

if __name__ == "__main__": main()
