"""Data larger than memory: python bench/large.py, writes results/bench-large.json (some four minutes on two quiet cores)

One epoch of `image_loader` over N small JPEG files, over the same in tar files, and over one tensor in memory, with 0, 1 and 2 workers,
for N = 20,000 and 200,000: images a second, and the memory of the main process and of each worker. Each case runs in a process of its own,
forked, and the files were written a moment ago, so that they are read from the page cache: what is measured is decoding, not the disk.
2,000 distinct pictures, each written again and again into files of their own; nothing is kept. `--quick` is a rehearsal of some seconds.
"""
import argparse
import multiprocessing
import os
import random
import sys
import time
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from simclr.album import Paths, tar_images, walk_images, write_shards
from simclr.batches import image_loader
from simclr.data import FileImages, TensorImages
from simclr.runs import environment, write_json

ROOT = Path(__file__).resolve().parents[1]
SIZE, BATCH, FOLDERS = 32, 256, 100
WITHOUT_WORKERS = 50_000    # images that the main process decodes itself: enough for its speed, and it has no memory to share


class ListImages(FileImages):
    "The control: paths as a list of `Path`, the usual way."
    def __init__(self, paths, y, image_size):
        super().__init__([], y[:0], image_size)
        self.paths, self.y = list(paths), y


def jpegs(count, seed):
    "Small photograph-like pictures: smooth noise, encoded."
    generator, files = np.random.default_rng(seed), []
    for coarse in generator.integers(0, 256, (count, 6, 6, 3), np.uint8):
        Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file := BytesIO(), "jpeg", quality=90)
        files.append(file.getvalue())
    return files


def write_folder(root, n, files):
    "N files in 100 sub-folders."
    for k in range(FOLDERS):
        (folder := root / f"class{k:03}").mkdir(parents=True)
        for i in range(k, n, FOLDERS): (folder / f"{i:07}.jpg").write_bytes(files[i % len(files)])
    return root


def memory(process="self"):
    "Megabytes that a process holds, those that it shares with no other, the most it ever held; and its open files."
    def fields(name): return dict(line.split(":")[:2] for line in Path(f"/proc/{process}/{name}").read_text().splitlines() if ":" in line)
    megabytes = lambda text: int(text.split()[0]) / 1e3
    smaps, status = fields("smaps_rollup"), fields("status")
    own = megabytes(smaps["Private_Clean"]) + megabytes(smaps["Private_Dirty"])
    return dict(rss=megabytes(smaps["Rss"]), own=own, peak=megabytes(status["VmHWM"]), files=len(os.listdir(f"/proc/{process}/fd")))


def images_of(kind, source, n):
    "The data set as a user would have it, and the megabytes and seconds of making it."
    y, start = torch.zeros(n, dtype=torch.long), time.perf_counter()
    if kind == "files": images = FileImages(Paths(walk_images(source)), y, SIZE)
    if kind == "list": images = ListImages(map(Path, walk_images(source)), y, SIZE)
    if kind == "shards": images = FileImages(Paths(m for tar in sorted(source.glob("*.tar")) for m, _ in tar_images(tar)), y, SIZE)
    if kind == "memory":
        some = torch.stack([torch.from_numpy(np.array(Image.open(BytesIO(f)))) for f in source]).permute(0, 3, 1, 2)
        images = TensorImages(some.repeat(-(-n // len(some)), 1, 1, 1)[:n].contiguous(), y)
    if len(images) != n: raise SystemExit(f"{len(images)} images instead of {n}")
    return images, round(time.perf_counter() - start, 2)


def case(kind, source, n, workers, seed, answer):
    "One epoch, in a process of its own: what it took."
    Path("/proc/self/clear_refs").write_text("5")                        # the peak counts from here
    torch.set_num_threads(1)
    before = memory()
    images, listing = images_of(kind, source, n)
    held = memory()["rss"] - before["rss"]
    loader, count, start = image_loader(images, BATCH, True, seed, True, workers), 0, None
    for x, _ in loader:
        if start is None:                                                # workers are up, and have read their first batch
            pids = [w.pid for w in loader._iterator._workers] if loader.num_workers else []
            first, start = [memory(pid) for pid in ("self", *pids)], time.perf_counter()
        else: count += len(x)
        if not workers and count > WITHOUT_WORKERS: break
    seconds = time.perf_counter() - start
    main, *others = last = [memory(pid) for pid in ("self", *pids)]
    answer.put(dict(
        source=kind, n=n, workers=loader.num_workers, images_per_second=round(count / seconds), seconds=round(seconds, 2),
        listing_seconds=listing, index_mb=round(held, 1), main_peak_mb=round(main["peak"] - before["rss"], 1),
        worker_peak_mb=[round(w["peak"], 1) for w in others],
        worker_growth_mb=[round(b["own"] - a["own"], 1) for a, b in zip(first[1:], others)],
        files_left_open=sum(b["files"] - a["files"] for a, b in zip(first, last))))


def measured(*arguments):
    "The answer of `case`, from a forked process."
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=case, args=(*arguments, answer := fork.SimpleQueue()))
    child.start()
    result = answer.get() if child.join(600) is None and child.exitcode == 0 else sys.exit(f"{arguments[0]}: exit code {child.exitcode}")
    print(f"{result['source']:>7} {result['n']:>8,} images, {result['workers']} workers: {result['images_per_second']:>9,} images/s, "
          f"main +{result['main_peak_mb']:.0f} MB, workers {result['worker_peak_mb']}, +{result['worker_growth_mb']} MB", flush=True)
    return result


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000], help="numbers of images")
    parser.add_argument("--quick", action="store_true", help="1,000 and 3,000 images: a rehearsal, whose figures mean little")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench-large.json")
    args = parser.parse_args(args)
    sizes, start, results = [1000, 3000] if args.quick else sorted(args.sizes), time.perf_counter(), []
    files = jpegs(min(2000, sizes[0]), args.seed)
    with TemporaryDirectory() as folder:
        for n in sizes:
            pictures = write_folder(Path(folder) / f"files{n}", n, files)
            shards = Path(folder) / f"shards{n}"
            write_shards(pictures, shards, images_per_shard=10_000)
            kinds = [("files", pictures), ("shards", shards)]
            cases = [(kind, source, n, workers, args.seed) for kind, source in kinds for workers in (0, 1, 2)]
            cases += [("memory", files, n, 0, args.seed)] + [("list", pictures, n, 1, args.seed)]
            results += [measured(*c) for c in random.Random(args.seed).sample(cases, len(cases))]
    record = dict(what="image_loader over files, tar files and memory", quick=args.quick, seed=args.seed, size=SIZE, batch_size=BATCH,
                  distinct_pictures=len(files), bytes_per_picture=round(np.mean([len(f) for f in files])), environment=environment(),
                  load=round(os.getloadavg()[0], 1), seconds=round(time.perf_counter() - start, 1), results=results)
    args.out.parent.mkdir(exist_ok=True)
    write_json(record, args.out)
    print(args.out)


if __name__ == "__main__": main()
