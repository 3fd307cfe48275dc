"""One whole training step, from images to moved weights, beside lightly's: python bench/step.py [--quick]

Each candidate is a process of its own, with the same net, projection head, batch and CIFAR-10 images. They take turns, A B C … A B C …:
only one runs, the others are stopped together with their workers, in the midst of training. Writes the part `step` of results/bench.json.

    simclr           `simclr pretrain` as it is: its Trainer, loader, views, precision, LARS, log
    simclr, plain    the same without what `simclr.speed.quicken` does to the net and to memory
    lightly          lightly's documented example: CIFAR-10 in memory, SimCLRTransform on PIL images, a pass for each view, SGD, fp32
    lightly, bf16    the same with bf16 autocast and channels_last; left out where the processor has no bfloat16
    encoder          forward and backward of the bare encoder on views that are there already
    matmul           2,048³ in the precision of training: what the cores can do
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import RECORD, ROOT, cifar10, digits, ratio, report, summary, threads, write_part

SIDE = 2048                                 # of the square matrices whose product shows what the cores can do
FULL = dict(batch=256, head=[2048, 128], images=None, trial=True, matmuls=20, nets=dict(
    resnet18=dict(net=dict(backbone="resnet18"), steps=1, warm=2, rounds=7),
    resnet8=dict(net=dict(backbone="resnet8", width=64), steps=5, warm=5, rounds=9)))
QUICK = dict(threads=1, batch=32, head=[64, 16], images=320, trial=False, matmuls=1, nets=dict(     # of noise: sees that it runs
    resnet8=dict(net=dict(backbone="resnet8", width=8), steps=2, warm=1, rounds=2)))


# In a candidate's process

class Job:
    "What a candidate is to train: the net, and the images that `load_images` gave to the parent, so that files are decoded once."
    def __init__(self, net, folder):
        import torch
        from simclr.data import Images, TensorImages
        kept, plan = torch.load(folder / "images.pt", weights_only=True), json.loads((folder / "plan.json").read_text())
        self.train, none = TensorImages(kept["x"], kept["y"]), TensorImages(kept["x"][:0], kept["y"][:0])
        self.images = Images("folder", self.train, none, none, tuple("0123456789"), tuple(kept["mean"]), tuple(kept["std"]))
        self.net, self.batch, self.head, self.folder = plan["nets"][net]["net"], plan["batch"], plan["head"], folder
        self.settings = dict(self.net, batch_size=self.batch, hidden_dim=self.head[0], projection_dim=self.head[1])
    def trained(self):
        "The model as `pretrain` makes it."
        from inspect import signature
        from simclr.pretrain import build_module, pretrain
        config = {k: p.default for k, p in signature(pretrain).parameters.items()} | self.settings
        return build_module(config, self.images).model
    def model(self):
        "The same net and head from plain modules of PyTorch."
        from simclr.model import SimCLRModel, build_encoder
        encoder = build_encoder(**self.net, in_channels=3, image_size=32, mean=self.images.mean, std=self.images.std)
        return SimCLRModel(encoder, *self.head)
    def views(self):
        "The views of one batch, as a training step has them."
        import torch
        from simclr.augment import SimCLRAugment
        views = torch.cat(SimCLRAugment(32, self.images.mean, self.images.std)(self.train.x[:self.batch], torch.Generator().manual_seed(0)))
        return views.contiguous(memory_format=torch.channels_last)


class Turns:
    "Counts steps; after the last one of a turn it tells the seconds, and waits for the next turn."
    def __init__(self):
        self.say, self.left = os.fdopen(os.dup(1), "w"), 0
        os.dup2(2, 1)                                                   # what libraries print goes to the log
    def wait(self):
        if not (line := sys.stdin.readline()): os._exit(0)
        self.left, self.start = int(line), time.perf_counter()
    def tell(self, what):
        self.say.write(json.dumps(what) + "\n")
        self.say.flush()
    def done(self, *_):
        self.left -= 1
        if self.left: return
        self.tell(time.perf_counter() - self.start)
        self.wait()


def ours(job, turns, quick=True):
    "`pretrain` with its defaults; a callback sees the end of each step."
    import pytorch_lightning as pl
    import simclr.pretrain as stage
    class Watch(pl.Callback):
        def on_train_start(self, *_): turns.wait()
        def on_train_batch_end(self, *_): turns.done()
    build = stage.build_trainer
    def watched(*args, **kwargs):
        trainer, *more = build(*args, **kwargs)
        trainer.callbacks.append(Watch())
        return trainer, *more
    if not quick: stage.quicken = lambda model: model
    stage.build_trainer, stage.load_images = watched, lambda *args, **kwargs: job.images
    stage.pretrain("folder", **job.settings, knn_every=0, echo=False, run_dir=str(job.folder / "runs"))


def theirs(job, turns, fast):
    "lightly's example: https://docs.lightly.ai/self-supervised-learning/examples/simclr.html, with two workers on two cores."
    import torch
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    transform, layout = SimCLRTransform(input_size=32, gaussian_blur=0.0), torch.channels_last if fast else torch.contiguous_format
    arrays = job.train.x.permute(0, 2, 3, 1).contiguous().numpy()    # as torchvision's CIFAR10 keeps them
    class Pictures(torch.utils.data.Dataset):
        def __len__(self): return len(arrays)
        def __getitem__(self, i): return transform(Image.fromarray(arrays[i])), 0
    loader = torch.utils.data.DataLoader(Pictures(), job.batch, shuffle=True, drop_last=True, num_workers=2)
    model, criterion, total = job.model().to(memory_format=layout), NTXentLoss(), 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    turns.wait()
    while True:
        for views, _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                z0, z1 = (model(x.to(memory_format=layout)) for x in views)
                loss = criterion(z0, z1)
            total += loss.detach()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            turns.done()


def passes(module, x):
    "A function that goes forward and backward through a module, in the precision that training has."
    import torch
    from simclr.model import fast_precision
    dtype = fast_precision("cpu")
    def run():
        module.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32): out = module(x)
        out.backward(torch.ones_like(out))
    return run


def bare(job, turns):
    run = passes(job.trained().encoder, job.views())
    turns.wait()
    while True: run(), turns.done()


def peak(job, turns):
    import torch
    from simclr.model import fast_precision
    a, b = (torch.randn(SIDE, SIDE).to(fast_precision("cpu")) for _ in range(2))
    turns.wait()
    while True: a @ b, turns.done()


KINDS = {"convolution, forward": "mkldnn_convolution thnn_conv2d", "convolution, backward": "convolution_backward mm",
         "BatchNorm": "native_batch_norm native_batch_norm_backward", "ReLU": "clamp_min_ relu_ threshold_backward", "sums": "add_ add"}


def kinds(run):
    "Shares of the kinds of operations in a forward and backward pass, as PyTorch's profiler times them."
    from torch.profiler import ProfilerActivity, profile
    run()
    with profile(activities=[ProfilerActivity.CPU]) as seen: run()
    times = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in seen.key_averages()}
    found = {kind: sum(times.get(name, 0) for name in names.split()) / sum(times.values()) for kind, names in KINDS.items()}
    return {kind: digits(share, 3) for kind, share in dict(found, rest=1 - sum(found.values())).items()}


def parts(job, turns):
    "Milliseconds of the parts of a step, each on its own; and what the encoder does."
    import torch
    from simclr.augment import SimCLRAugment
    from simclr.loss import contrastive_top1, nt_xent_loss
    from simclr.optim import build_optimizer
    model, augment = job.trained(), SimCLRAugment(32, job.images.mean, job.images.std)
    generator, views, index = torch.Generator(), job.views(), torch.randperm(len(job.train))[:job.batch].tolist()
    z, optimizer = [torch.randn(job.batch, job.head[1], requires_grad=True) for _ in range(2)], build_optimizer("lars", model, 0.1, 1e-6)
    todo = {"batch": lambda: job.train.__getitems__(index),
            "two views": lambda: torch.cat(augment(job.train.x[:job.batch], generator)).contiguous(memory_format=torch.channels_last),
            "head": passes(model.head, torch.randn(len(views), model.encoder.feature_dim, requires_grad=True)),
            "loss": lambda: nt_xent_loss(*z).backward(), "top-1": lambda: contrastive_top1(*z), "optimizer": optimizer.step}
    def milliseconds(run):
        for p in model.parameters(): p.grad = torch.randn_like(p)
        taken = []
        for _ in range(22):
            start = time.perf_counter()
            run()
            taken.append(1000 * (time.perf_counter() - start))
        return digits(statistics.median(taken[2:]))
    turns.wait()
    turns.tell(dict(parts_ms={name: milliseconds(run) for name, run in todo.items()}, encoder_kinds=kinds(passes(model.encoder, views))))
    turns.wait()


CANDIDATES = {"simclr": ours, "simclr, plain": partial(ours, quick=False), "lightly": partial(theirs, fast=False),
              "lightly, bf16": partial(theirs, fast=True), "encoder": bare, "matmul": peak, "parts": parts}
PEERS = ("simclr, plain", "lightly", "lightly, bf16")


# In the parent's process

class Candidate:
    "A process that runs while it has a turn and is stopped, with its workers, while others have theirs."
    def __init__(self, name, net, folder, count, policy=None):
        self.name, self.log, count = name, folder / f"{name}-{net}-{policy}.log", str(count)
        env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS=count, MKL_NUM_THREADS=count, LIGHTLY_DID_VERSION_CHECK="True")
        env.pop("OMP_WAIT_POLICY", None)
        if policy: env["OMP_WAIT_POLICY"] = policy
        command = [sys.executable, __file__, "--candidate", name, "--nets", net, "--folder", str(folder)]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env,
                                            preexec_fn=os.setpgrp)      # a group, which dies with the parent even while it is stopped
    def turn(self, steps):
        "What the candidate tells after these steps: the seconds."
        try:
            os.killpg(self.process.pid, signal.SIGCONT)
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
            os.killpg(self.process.pid, signal.SIGSTOP)
            return answer
        except (OSError, ValueError):
            raise SystemExit(f"{self.name} failed:\n{self.log.read_text()[-2000:]}") from None
    def close(self):
        try: os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        self.process.wait()
        self.process.stdin.close(), self.process.stdout.close()


def flops(encoder):
    """Operations of an encoder for the two views of an image, forward and backward, as PyTorch's FlopCounterMode counts them: convolutions
    and matrix products, a multiplication and an addition are two operations. The gradient with respect to the pixels is not asked for."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter: encoder(torch.randn(2, 3, 32, 32)).sum().backward()
    return counter.get_total_flops()


def better_policy(name, net, folder, count, steps, warm):
    "The candidate whose threads wait for work in the way that suits it, and the seconds of both ways: spinning costs its workers time."
    tried, seconds = {}, {}
    for policy in ("active", "passive"):
        tried[policy] = Candidate(name, net, folder, count, policy)
        tried[policy].turn(warm)
        seconds[policy] = digits(tried[policy].turn(steps) / steps)
    best = min(seconds, key=seconds.get)
    tried.pop("passive" if best == "active" else "active").close()
    return tried[best], dict(seconds, chosen=best)


def take_turns(candidates, steps, rounds, matmuls, say):
    "Seconds a step of each candidate, a list with one entry a round."
    seconds = {name: [] for name in candidates}
    for n in range(rounds):
        for name, candidate in candidates.items():
            count = matmuls if name == "matmul" else steps
            seconds[name].append(candidate.turn(count) / count)
        say(f"round {n + 1} of {rounds}: " + ", ".join(f"{name} {1000 * s[-1]:,.0f} ms" for name, s in seconds.items()))
    return seconds


def figures(seconds, batch, operations):
    "What the seconds of the candidates, a list each, say: images a second, ratios, shares. Operations are those of a step."
    median = {name: statistics.median(s) for name, s in seconds.items()}
    peers = [name for name in PEERS if name in seconds]
    rows = {name: summary([batch / s for s in seconds[name]]) for name in ("simclr", *peers)}
    fraction = lambda name: digits(operations / median[name] / (2 * SIDE**3 / median["matmul"]))
    share = [1 - e / s for e, s in zip(seconds["encoder"], seconds["simclr"], strict=True)]
    faster = {name: ratio(seconds[name], seconds["simclr"]) for name in peers}
    return dict(images_per_second=rows, times_faster=faster,
                not_the_encoder=dict(summary(share), median=digits(1 - median["encoder"] / median["simclr"])),
                operations=operations, peak_gflops=digits(2 * SIDE**3 / median["matmul"] / 1e9),
                fraction_of_peak=dict(step=fraction("simclr"), encoder=fraction("encoder")),
                seconds={name: [digits(v) for v in s] for name, s in seconds.items()})


def contestants(precision):
    "Who takes turns. Where bfloat16 is only emulated it is slower than float32, and nobody would train in it."
    return [name for name in ("simclr", *PEERS, "encoder", "matmul") if precision == "bfloat16" or name != "lightly, bf16"]


def measure(net, plan, folder):
    "All figures for one net."
    say, candidates, policies = lambda text: report(f"  {net}: {text}"), {}, {}
    steps, warm, rounds, count = ((plan["nets"][net] | plan)[key] for key in ("steps", "warm", "rounds", "threads"))
    try:
        for name in contestants(plan["precision"]):
            say(f"{name} starts")
            if name.startswith("lightly") and plan["trial"]:
                candidates[name], policies[name] = better_policy(name, net, folder, count, steps, warm)
                say(f"{name}: {policies[name]}")
            else:
                candidates[name] = Candidate(name, net, folder, count)
                candidates[name].turn(plan["matmuls"] if name == "matmul" else warm)
        seconds = take_turns(candidates, steps, rounds, plan["matmuls"], say)
        candidates["parts"] = Candidate("parts", net, folder, count)
        pieces = candidates["parts"].turn(1)
    finally:
        for candidate in candidates.values(): candidate.close()
    operations = plan["batch"] * flops(Job(net, folder).model().encoder)
    return dict(figures(seconds, plan["batch"], operations), steps=steps, rounds=rounds, wait_policy=policies, **pieces)


def keep_images(folder, count):
    "Decode the files once, for all candidates; with a count, make that many pictures of noise."
    import torch
    if count:
        noise, text = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte(), f"{count} of noise"
        kept = dict(x=noise, y=torch.zeros(count), mean=(0.5,) * 3, std=(0.3,) * 3)
    else:
        images = cifar10()
        kept, text = dict(x=images.train.x, y=images.train.y, mean=images.mean, std=images.std), repr(images)
    torch.save(kept, folder / "images.pt")
    return text


def main(args):
    if args.candidate: return CANDIDATES[args.candidate](Job(args.nets[0], args.folder), Turns())
    from importlib.metadata import version
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))            # so that nothing is left behind
    from simclr.model import fast_precision
    plan = dict(QUICK if args.quick else dict(FULL, threads=threads()), precision=str(fast_precision("cpu")).removeprefix("torch."))
    with TemporaryDirectory() as folder:
        report("step: decoding the images")
        images = keep_images(Path(folder), plan["images"])
        (Path(folder) / "plan.json").write_text(json.dumps(plan))
        nets = {net: measure(net, plan, Path(folder)) for net in plan["nets"] if net in (args.nets or plan["nets"])}
    for net, found in nets.items():
        report(f"\n{net}, {found['peak_gflops']:,.0f} GFLOP/s peak, step {found['fraction_of_peak']['step']:.0%} of it, "
               f"not the encoder {found['not_the_encoder']['median']:.1%}; parts in ms: {found['parts_ms']}")
        for name, row in found["images_per_second"].items():
            times = found["times_faster"].get(name, dict(median=1))["median"]
            report(f"  {name:16} {row['median']:8,.0f} images/s ({row['q1']:,.0f} to {row['q3']:,.0f})  {times:5.2f} × the time of simclr")
    part = dict(quick=args.quick, **{key: plan[key] for key in ("threads", "precision", "batch", "head")}, images=images,
                lightly=version("lightly"), nets=nets)
    write_part(part, "step", args.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small net on noise, to see that it runs; no figures")
    parser.add_argument("--nets", nargs="+", choices=list(FULL["nets"]))
    parser.add_argument("--out", type=Path, default=RECORD, help="the record; its other parts stay as they are")
    parser.add_argument("--candidate", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    sys.exit(main(parser.parse_args()))
