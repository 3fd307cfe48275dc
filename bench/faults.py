"""What happens with inputs that nobody wishes for: python bench/faults.py, writes results/faults.json

Runs the table of tests/fault_table.py (pictures, names, folders, tar files, values, runs) at every entry point, with 0 and with 1 worker,
and random sizes, modes, bytes, damage, folders and tar files by the thousand.
Each input has one right outcome; what else happens is counted as
a crash or as silently wrong, and ends this program with exit code 1. `--quick` does less.
"""
import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def rows(folder, seed, rounds, quick):
    "All that is tried, as (kind, input, entry, verdict)."
    import fault_table as ft
    from simclr.model import build_encoder, save_encoder
    save_encoder(build_encoder("resnet8", width=4, image_size=8), encoder := folder / "encoder.safetensors")
    yield from ft.try_functions()
    yield from ft.try_pictures(folder / "pictures", encoder, seed, cuts=1 if quick else 12, flips=1 if quick else 12)
    yield from ft.try_tars(folder / "tars")
    if not quick:
        yield from ft.try_pictures(folder / "workers", encoder, seed + 1, workers=1, cuts=1, flips=1, only="image_loader")
        yield from ft.try_names(folder / "names", encoder)
        yield from ft.try_trees(folder / "trees")
        (folder / "runs").mkdir()
        yield from ft.try_runs(folder / "runs")
    yield from ft.try_random(folder / "random", seed, rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=4000, help="of each kind of random input")
    parser.add_argument("--quick", action="store_true", help="a part of the table, and 20 rounds")
    parser.add_argument("--out", type=Path, default=ROOT / "results/faults.json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch
    torch.set_num_threads(1)
    from fault_table import summary
    from simclr.runs import environment, write_json
    rounds, start = 20 if args.quick else args.rounds, time.perf_counter()
    with TemporaryDirectory() as folder: kinds, bad = summary(rows(Path(folder), args.seed, rounds, args.quick))
    total = {name: sum(k[name] for k in kinds.values()) for name in ("tried", "crashes", "silent_wrong")}
    record = dict(what="inputs tried at every entry point", **total, kinds=kinds, seed=args.seed, rounds=rounds, quick=args.quick,
                  seconds=round(time.perf_counter() - start, 1), root=os.geteuid() == 0, environment=environment())
    print(f"{'kind':<28}{'tried':>8}{'crashes':>9}{'silently wrong':>16}")
    for kind, k in sorted(kinds.items()): print(f"{kind:<28}{k['tried']:>8,}{k['crashes']:>9}{k['silent_wrong']:>16}")
    print(f"{'all':<28}{total['tried']:>8,}{total['crashes']:>9}{total['silent_wrong']:>16}")
    for line in bad: print(line)
    args.out.parent.mkdir(exist_ok=True)
    write_json(record, args.out)
    print(args.out)
    return bool(bad)


if __name__ == "__main__": sys.exit(main())
