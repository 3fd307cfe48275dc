"""Peak memory and time of one training step with and without gradient caching: python bench/cache.py [--images 4096 --micro 256]

Each figure of memory comes from a process of its own: resident peak of the step above what the process held before it. It is taken twice:
`megabytes` with an allocator that gives freed blocks of a MiB and more back at once, so that it is what the step has in use, and `kept` as
glibc comes, which holds on to part of what was freed. Times are medians of steps that take turns in an order drawn anew, in one process.
The chunk of the loss is chosen as pretrain does. Writes results/bench-cache.json.
"""
import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from simclr.cache import loss_chunk, micro_batched
from simclr.loss import nt_xent_loss
from simclr.model import SimCLRModel, build_encoder
from simclr.runs import environment, write_json

ROOT, SIZE, WIDTH = Path(__file__).resolve().parents[1], 32, 16
GIVE_BACK = dict(MALLOC_MMAP_THRESHOLD_=str(2**20))     # glibc's malloc; without it the threshold rises with each block that is freed


def peak():
    "Largest resident memory of this process so far, MB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def make(images):
    "A small net and its views."
    torch.manual_seed(0)
    model = SimCLRModel(build_encoder("resnet8", 1, SIZE, width=WIDTH), 256)
    return model, torch.randn(2 * images, 1, SIZE, SIZE).contiguous(memory_format=torch.channels_last)


def step(model, views, micro):
    "Forward and backward of the whole batch; micro images at a time through the encoder."
    for p in model.parameters(): p.grad = None
    z1, z2 = micro_batched(model, views, micro).chunk(2)
    loss = nt_xent_loss(z1, z2, chunk_size=loss_chunk(len(z1)))
    loss.backward()
    return loss.item()


def memory(images, micro):
    "MB that one step takes above what is there already; runs in a process of its own."
    model, views = make(images)
    step(model, views[:64], 32)                         # the library's own buffers come with the first step
    before = peak()
    step(model, views, micro)
    return round(peak() - before, 1)


def memory_elsewhere(images, micro, **changes):
    "`memory` in a new process, with changes of its environment."
    command = [sys.executable, __file__, "--probe", str(images), str(micro)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | changes).stdout)


def row(images, micro):
    "Peaks of one step: in use, and as the allocator comes."
    return dict(images=images, micro=micro, megabytes=memory_elsewhere(images, micro, **GIVE_BACK), kept=memory_elsewhere(images, micro))


def times(images, sizes, rounds):
    "Median and quartile seconds of a step for each micro-batch size."
    (model, views), found, order = make(images), {m: [] for m in sizes}, random.Random(0)
    for turn in range(rounds + 1):                      # the first turn warms up
        for m in order.sample(sizes, len(sizes)):
            start = time.perf_counter()
            step(model, views, m)
            if turn: found[m].append(time.perf_counter() - start)
    return {m: dict(zip(("q1", "median", "q3"), (round(v, 3) for v in statistics.quantiles(s, n=4)))) for m, s in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4096, help="images N of the large batch; the net sees 2N views")
    parser.add_argument("--micro", type=int, default=256, help="images at a time through the encoder")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns")
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench-cache.json")
    parser.add_argument("--probe", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe: return print(json.dumps(memory(*args.probe)))
    N, m = args.images, args.micro
    rows = [row(n, c) for n, c in ((m, m), (N // 4, m), (N // 4, N // 4), (N, m), (N, N))]
    seconds = times(N, [m, N], args.rounds)
    ratio = seconds[m]["median"] / seconds[N]["median"]
    for r in rows: print(f"N = {r['images']:>6,}, {r['micro']:>6,} at a time: {r['megabytes']:8,.1f} MB in use, {r['kept']:8,.1f} MB kept")
    print(f"time of a step of N = {N:,}, {m} at a time against all at once: {ratio:.2f} (arithmetic alone says 4/3)")
    write_json(dict(what=f"a step of resnet8, width {WIDTH}, {SIZE}×{SIZE} pixels, float32", threads=torch.get_num_threads(), memory=rows,
                    seconds=seconds, time_ratio=round(ratio, 3), environment=environment()), args.out)
    print(args.out)


if __name__ == "__main__": sys.exit(main())
