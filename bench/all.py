"""Every benchmark, one after the other: python bench/all.py [--quick] [PART …], ten minutes on two quiet cores (large adds 4;
without bfloat16 the part step alone takes 18)

start, step and evaluate write results/bench.json, each other part a record of its own. One that fails does not keep others from running;
the exit code then is 1. Each part holds the environment it was measured in, and may be measured again alone.
"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from measure import RESULTS, ROOT, report

PARTS = dict(start="bench", step="bench", loss="bench-loss", evaluate="bench", cache="bench-cache", large="bench-large", faults="faults")


def command(part, quick, folder):
    "How a part is run; None if it is not there, or has no quick form when one is wanted."
    script = Path(__file__).with_name(f"{part}.py")
    if not script.exists() or quick and "--quick" not in script.read_text(encoding="utf-8"): return None
    return [sys.executable, str(script), "--out", str(folder / f"{PARTS[part]}.json")] + ["--quick"] * quick


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="see that all of it runs; no figures")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS): parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in args.parts:
        if (run := command(part, args.quick, args.out)) is None:
            report(f"== {part}: left out")
            continue
        report(f"== {part}")
        start = time.perf_counter()
        code = subprocess.run(run, cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT))).returncode
        report(f"== {part}: {'done' if code == 0 else f'FAILED with code {code}'} in {time.perf_counter() - start:.0f} s\n")
        if code: failed.append(part)
    if failed: sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__": sys.exit(main())
