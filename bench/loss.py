"""nt_xent_loss, forward and backward, against the same loss of two peers in one run: python bench/loss.py [--sizes 256 1024]

The candidates take turns in an order drawn anew each time, so that a busy moment of the machine, or the caches that one of
them leaves behind, hit all alike. Checks first that all give the same loss and gradient, prints medians and ratios (above 1:
ours is faster), writes results/bench-loss.json.

pytorch-metric-learning pairs anything with anything: its 2N positive pairs meet all 2N(2N-2) negative pairs in one matrix, so
time and memory grow with N cubed. Where that would not fit in memory it is left out, and the record says so.
"""
import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
import warnings
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch

from simclr.loss import nt_xent_loss

ROOT = Path(__file__).resolve().parents[1]
PEERS = ["lightly", "pytorch-metric-learning"]
TAU = 0.5
SECONDS = 30                                # a candidate that has used this much, and has 5 timings, sits out further turns


def candidates():
    "Name → function of two tensors of shape (N, D)."
    from lightly.loss import NTXentLoss as LightlyLoss
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss
    metric_learning = SelfSupervisedLoss(NTXentLoss(temperature=TAU))
    return {"simclr": lambda a, b: nt_xent_loss(a, b, TAU), "simclr, chunks of 256": lambda a, b: nt_xent_loss(a, b, TAU, chunk_size=256),
            "lightly": LightlyLoss(temperature=TAU), "pytorch-metric-learning": lambda a, b: metric_learning(a, b)}


def step(loss, z1, z2):
    "One forward and backward pass; returns the loss and the gradient of z1."
    z1.grad = z2.grad = None
    value = loss(z1, z2)
    value.backward()
    return value.item(), z1.grad


def check(losses, z1, z2):
    "All candidates compute one loss, to 1e-4 (fp32 sums of some thousand terms, in different orders)."
    ours, gradient = step(losses["simclr"], z1, z2)
    gradient = gradient.clone()
    for name, loss in losses.items():
        value, other = step(loss, z1, z2)
        if abs(value - ours) > 1e-4 or (other - gradient).abs().max() > 1e-4 * gradient.abs().max() + 1e-7:
            raise SystemExit(f"{name} computes something else: {value} against {ours}")


def free_gigabytes():
    "Memory that is free for use, or infinity where the system does not say."
    try: return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError, AttributeError): return float("inf")


def left_out(n):
    "Name → reason for the candidates that cannot run at this size; measured peak: about 4.5 matrices of 2N × 2N(2N-2) floats."
    needed = 4.5 * 2 * n * 2 * n * (2 * n - 2) * 4 / 1e9
    if needed < 0.7 * free_gigabytes(): return {}
    return {"pytorch-metric-learning": f"needs about {needed:.0f} GB"}


def measure(n, dims, rounds, skip, seed=0):
    "Median and quartile milliseconds of each candidate for N = n."
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = (torch.randn(n, dims, generator=generator).requires_grad_() for _ in range(2))
    losses = {name: loss for name, loss in candidates().items() if name not in skip}
    check(losses, z1, z2)
    times, order = {name: [] for name in losses}, random.Random(seed)
    for turn in range(rounds + 2):                                      # the first two turns warm up
        for name in order.sample(list(losses), len(losses)):
            if len(times[name]) >= 5 and sum(times[name]) > 1000 * SECONDS: continue
            start = time.perf_counter()
            step(losses[name], z1, z2)
            if turn > 1: times[name].append(1000 * (time.perf_counter() - start))
    return {name: summary(ms) for name, ms in times.items()}


def summary(ms):
    q1, median, q3 = (round(v, 3) for v in statistics.quantiles(ms, n=4))
    return dict(median=median, q1=q1, q3=q3, turns=len(ms))


def environment():
    "What the numbers depend on."
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return dict(date=datetime.now(timezone.utc).strftime("%Y-%m-%d"), cpu=model, cores=os.cpu_count(), threads=torch.get_num_threads(),
                load=round(os.getloadavg()[0], 1), python=platform.python_version(), torch=torch.__version__,
                **{name: version(name) for name in PEERS})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024], help="images N; the loss sees 2N rows")
    parser.add_argument("--dims", type=int, default=128, help="dimensions of z")
    parser.add_argument("--rounds", type=int, default=50, help="timed turns of each candidate")
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench-loss.json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    where = environment()
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    if where["load"] > 0.5 * where["cores"]: print("note: the machine is busy, and then slow candidates look slower than they are")
    results = []
    for n in args.sizes:
        skip = left_out(n)
        times = measure(n, args.dims, args.rounds, skip)
        ours = times["simclr"]["median"]
        ratios = {name: round(t["median"] / ours, 2) for name, t in times.items() if name != "simclr"}
        results.append(dict(n=n, dims=args.dims, milliseconds=times, ratio_to_simclr=ratios, left_out=skip))
        print(f"\nN = {n}, D = {args.dims}, forward and backward")
        for name, t in times.items():
            print(f"  {name:<24} {t['median']:9.2f} ms  ({t['q1']:.2f} to {t['q3']:.2f}) {t['median'] / ours:7.2f} × the time of simclr")
        for name, reason in skip.items(): print(f"  {name:<24} left out: {reason}")
    args.out.parent.mkdir(exist_ok=True)
    record = dict(what="nt_xent_loss, forward and backward", rounds=args.rounds, temperature=TAU, environment=where, results=results)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{args.out}")


if __name__ == "__main__": sys.exit(main())
