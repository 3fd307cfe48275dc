"""nt_xent_loss, forward and backward, against the same loss of two peers in one run: python bench/loss.py [--quick] [--sizes 256 1024 4096]

The candidates take turns in an order drawn anew each time, so that a busy moment of the machine, or the caches that one of
them leaves behind, hit all alike. Checks first that all give the same loss and gradient, prints medians and ratios (above 1:
ours is faster), writes results/bench-loss.json.

Then the loss in chunks, of 32,768 rows: its peak of memory above the inputs in a process of its own, its distance from a reference in
float64 that shares no code with it, and its time for each similarity beside that of the whole matrix at N = 4,096.

pytorch-metric-learning pairs anything with anything: its 2N positive pairs meet all 2N(2N-2) negative pairs in one matrix, so
time and memory grow with N cubed. Where that would not fit in memory it is left out, and the record says so.
"""
import argparse
import json
import os
import random
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import RESULTS, child, digits, megabytes, ratio, report, summary, threads

from simclr.loss import nt_xent_loss
from simclr.runs import environment, write_json

PEERS = ["lightly", "pytorch-metric-learning"]
TAU = 0.5
SECONDS = 12                                # a candidate that has used this much, and has 5 timings, sits out further turns
CHUNK = 256                                 # rows of similarities at a time


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


def pair(n, dims, seed=0):
    "Projections of two views of n images: leaves of the graph."
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dims, generator=generator).requires_grad_() for _ in range(2)]


def reference(z1, z2, rows=1024):
    "The loss and its gradients in float64, by autograd, some rows of the matrix of similarities at a time."
    a, b = (z.detach().double().requires_grad_() for z in (z1, z2))
    z = F.normalize(torch.cat([a, b]), dim=1)
    unit, total, count = z.detach().requires_grad_(), 0.0, len(z)
    for index in torch.arange(count).split(rows):
        similarity = unit[index] @ unit.T / TAU                                                        # (rows, 2N)
        similarity = similarity.masked_fill(index[:, None] == torch.arange(count), -torch.inf)
        loss = F.cross_entropy(similarity, (index + len(a)) % count, reduction="sum") / count
        loss.backward()
        total += loss.item()
    z.backward(unit.grad)
    return total, torch.cat([a.grad, b.grad])


def memory(n, dims):
    "In a fresh process: megabytes above the inputs while the loss of n images runs in chunks, and its distance from float64."
    step(lambda a, b: nt_xent_loss(a, b, TAU, chunk_size=CHUNK), *pair(2 * CHUNK, dims))   # threads and libraries are there
    z1, z2 = pair(n, dims)
    before = megabytes("VmRSS")
    value, _ = step(lambda a, b: nt_xent_loss(a, b, TAU, chunk_size=CHUNK), z1, z2)
    above = megabytes("VmHWM") - before
    exact, gradient = reference(z1, z2)
    off = (torch.cat([z1.grad, z2.grad]) - gradient).abs().max()
    return dict(megabytes=round(above, 1), value=value, value_error=abs(value - exact), gradient_error=off.item(),
                relative_gradient_error=(off / gradient.abs().max()).item())


def chunked(n, whole, dims, rounds):
    "The loss in chunks at n images beside the whole matrix at `whole` images, in turns: seconds, and nanoseconds for each similarity."
    report(f"\nin chunks of {CHUNK}, N = {n:,}: memory, and the distance from float64")
    found = child(__file__, "--memory", n, "--dims", dims)
    size, seconds = dict(chunks=n, whole=whole), dict(chunks=[], whole=[])
    inputs = {name: pair(count, dims) for name, count in size.items()}
    for turn in range(rounds + 1):
        for name, z in inputs.items():
            start = time.perf_counter()
            step(lambda a, b: nt_xent_loss(a, b, TAU, chunk_size=CHUNK if name == "chunks" else None), *z)
            if turn: seconds[name].append(time.perf_counter() - start)
    each = {name: [s / (2 * size[name])**2 for s in taken] for name, taken in seconds.items()}
    found |= dict(n=n, whole_n=whole, chunk=CHUNK, dims=dims, seconds={name: summary(taken) for name, taken in seconds.items()},
                  nanoseconds_a_similarity={name: digits(summary(taken)["median"] * 1e9) for name, taken in each.items()},
                  time_ratio=ratio(each["chunks"], each["whole"]))
    report(f"  {found['megabytes']:,.0f} MB above the inputs; from float64: value {found['value_error']:.1e}, gradient "
           f"{found['relative_gradient_error']:.1e} of the largest\n  {found['seconds']['chunks']['median']:.2f} s; for each similarity "
           f"{found['time_ratio']['median']:.2f} × the time of the whole matrix at N = {whole:,}")
    return found


def sized(n, dims, rounds):
    "The row of the record for N = n."
    skip = left_out(n)
    times = measure(n, dims, rounds, skip)
    ours = times["simclr"]["median"]
    report(f"\nN = {n:,}, D = {dims}, forward and backward")
    for name, t in times.items():
        report(f"  {name:<24} {t['median']:9.2f} ms  ({t['q1']:.2f} to {t['q3']:.2f}) {t['median'] / ours:7.2f} × the time of simclr")
    for name, reason in skip.items(): report(f"  {name:<24} left out: {reason}")
    ratios = {name: round(t["median"] / ours, 2) for name, t in times.items() if name != "simclr"}
    return dict(n=n, dims=dims, milliseconds=times, ratio_to_simclr=ratios, left_out=skip)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; no figures")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096], help="images N; the loss sees 2N rows")
    parser.add_argument("--dims", type=int, default=128, help="dimensions of z")
    parser.add_argument("--rounds", type=int, default=30, help="timed turns of each candidate, fewer where they are long")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench-loss.json")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.memory: return print(json.dumps(memory(args.memory, args.dims)))
    torch.set_num_threads(1 if args.quick else threads())
    sizes, large, whole, rounds = ([16, 32], 512, 64, 2) if args.quick else (args.sizes, 16_384, 4_096, args.rounds)
    where = dict(environment(), threads=torch.get_num_threads(), load=round(os.getloadavg()[0], 1))
    where |= {name: version(name) for name in PEERS}
    if where["load"] > 0.5 * where["cores"]: report("note: the machine is busy, and then slow candidates look slower than they are")
    results = [sized(n, args.dims, rounds) for n in sizes]
    part = dict(what="nt_xent_loss, forward and backward", quick=args.quick, rounds=rounds, temperature=TAU, environment=where,
                results=results, chunked=chunked(large, whole, args.dims, 1 if args.quick else 3))
    write_json(part, args.out)
    report(f"\n{args.out.name}")


if __name__ == "__main__": sys.exit(main())
