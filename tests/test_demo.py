"What `simclr demo` promises, measured: the one slow test."
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_demo_beats_its_controls_over_three_seeds(tmp_path):
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-m", "simclr.cli", "demo", "--seeds", "3"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((tmp_path / "runs/demo/demo.json").read_text(encoding="utf-8"))
    one = {name: s["few_labels"]["1"]["mean"] for name, s in record["mean"].items()}
    assert one["SimCLR h"] >= one["pixels"] + 0.08
    assert one["SimCLR h"] >= one["random encoder"] + 0.25
    assert record["mean"]["SimCLR h"]["linear"] > record["mean"]["pixels"]["linear"]
    assert record["mean"]["SimCLR h, shuffled labels"]["linear"] < 0.2       # chance is 0.1
    assert record["config"]["seeds"] == len(record["scores"]) == len(record["runs"]) == 3
    assert {s["SimCLR h"]["linear"] for s in record["scores"]} and record["environment"]["cpu"] is not None
    mean = sum(s["SimCLR h"]["few_labels"]["1"]["mean"] for s in record["scores"]) / 3
    assert abs(mean - one["SimCLR h"]) < 1e-9                                # the mean is the mean of what is beside it

    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    cells = {row[1]: row[2:-1] for row in ([cell.strip() for cell in line.split("|")] for line in table)}
    assert set(record["mean"]) <= set(cells)
    for name, s in record["mean"].items():
        assert cells[name][1].startswith(f"{s['linear']:.1%}")
        assert f"{one[name]:.1%} ± {s['few_labels']['1']['sd']:.1%}" in cells[name]
    for name in ("curves.html", "sweep.html", "demo.json", "explorer.html"): assert f"runs/demo/{name}" in done.stdout and (tmp_path / "runs/demo" / name).stat().st_size
    for run in record["runs"]: assert f"runs/demo/{run}: " in done.stdout and (tmp_path / "runs/demo" / run / "encoder.safetensors").exists()
