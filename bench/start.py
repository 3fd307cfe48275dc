"""What a user waits for before anything happens: python bench/start.py [--quick], writes the part `start` of results/bench.json

Each command runs in a fresh process, all in turns; wall-clock seconds from start to end, Python's own start included.
"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from measure import RECORD, ROOT, report, summary, write_part

PYTHON, SIMCLR = sys.executable, str(Path(sys.executable).with_name("simclr"))
COMMANDS = {"python -c pass": [PYTHON, "-c", "pass"], "import simclr": [PYTHON, "-c", "import simclr"],
            "simclr --help": [SIMCLR, "--help"], "simclr pretrain --help": [SIMCLR, "pretrain", "--help"]}


def seconds(command):
    start = time.perf_counter()
    subprocess.run(command, env=dict(os.environ, PYTHONPATH=str(ROOT)), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds; no figures")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record; its other parts stay as they are")
    args = parser.parse_args()
    taken, rounds = {name: [] for name in COMMANDS}, 2 if args.quick else 9
    for turn in range(rounds + 1):                                      # the first warms the disk's cache
        for name, command in COMMANDS.items():
            found = seconds(command)
            if turn: taken[name].append(found)
    rows = {name: summary(values) for name, values in taken.items()}
    for name, row in rows.items(): report(f"  {name:24} {row['median']:.3f} s ({row['q1']:.3f} to {row['q3']:.3f})")
    write_part(dict(quick=args.quick, rounds=rounds, seconds=rows), "start", args.out)


if __name__ == "__main__": sys.exit(main())
