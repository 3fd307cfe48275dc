"""What the benchmarks share: medians and quartiles, ratios, memory, and the record's form."""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
RECORD = RESULTS / "bench.json"


def summary(values):
    "Median and quartiles, to five digits, and how many values there were. One value is its own quartiles."
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return dict(median=digits(median), q1=digits(q1), q3=digits(q3), turns=len(values))


def digits(value, n=5): return float(f"{value:.{n}g}")


def ratio(times, ours):
    "How many times faster than them we are: the ratio of the medians, and the quartiles of the ratios within each round."
    rounds = summary([t / o for t, o in zip(times, ours, strict=True)])
    return dict(rounds, median=digits(statistics.median(times) / statistics.median(ours)))


def threads():
    "Cores that this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def megabytes(field):
    "VmRSS (now) or VmHWM (the most so far) of this process, in 10⁶ bytes; Linux only."
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


def child(script, *args):
    "What a fresh process of a script prints as its last line, read as JSON: a peak of memory is a process's own."
    command = [sys.executable, str(script), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    if done.returncode: raise SystemExit(f"{Path(script).name} {' '.join(map(str, args))} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def cifar10():
    "CIFAR-10 from a folder of JPEG files, or where that is missing from torchvision, which downloads it. Decoded, in memory."
    from simclr.data import load_images
    root = Path("~/.cache/simclr/cifar10-jpeg").expanduser()
    return load_images("folder", str(root), 32) if root.is_dir() else load_images("cifar10")


def report(text): print(text, flush=True)


def write_part(part, name, path=RECORD):
    "One part of the record. The others stay as they are, each with the environment it was measured in."
    from simclr.runs import environment, write_json
    parts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json({**parts, name: dict(part, environment=dict(environment(), load=round(os.getloadavg()[0], 1)))}, path)
