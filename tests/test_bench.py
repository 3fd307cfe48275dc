"bench/: the arithmetic of the figures against cases by hand, and that each part runs. No time is tested here."
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from conftest import ROOT
from simclr.model import build_encoder, count_macs, fast_precision

sys.path.append(str(ROOT / "bench"))
import all as everything  # noqa: E402
import loss  # noqa: E402
import measure  # noqa: E402
import minutes  # noqa: E402
import step  # noqa: E402


# Arithmetic

@pytest.mark.parametrize("values, expected", [
    ([3.0], (3, 3, 3)), ([1, 2, 3], (1.5, 2, 2.5)), ([4, 1, 3, 2], (1.75, 2.5, 3.25)), ([5, 1, 1, 1, 1], (1, 1, 1)), ([1.23456789] * 2, (1.2346,) * 3)])
def test_summary(values, expected):
    assert measure.summary(values) == dict(zip(("q1", "median", "q3"), expected), turns=len(values))


def test_ratio_of_medians_with_quartiles_of_the_rounds():
    found = measure.ratio([2, 4, 9], [1, 4, 2])              # medians 4 and 2; rounds 2, 1, 4.5
    assert found == dict(q1=1.5, median=2, q3=3.25, turns=3)
    with pytest.raises(ValueError): measure.ratio([1, 2], [1])


def test_figures_of_a_step_by_hand():
    matmul = 2 * step.SIDE**3 / 1e12                         # a peak of 1,000 GFLOP/s
    seconds = {"simclr": [1.0, 2.0, 4.0], "simclr, plain": [2.0, 2.0, 2.0], "lightly": [6.0, 6.0, 6.0], "lightly, bf16": [3.0, 1.0, 4.0], "encoder": [0.9, 1.5, 3.6], "matmul": [matmul] * 3}
    found = step.figures(seconds, 256, 5e11)
    assert [found["images_per_second"][k]["median"] for k in ("simclr", "lightly", "lightly, bf16")] == [128, 42.667, 85.333]
    assert (found["times_faster"]["lightly"]["median"], found["times_faster"]["lightly, bf16"]["median"]) == (3, 1.5)
    assert found["not_the_encoder"] == dict(q1=0.1, median=0.25, q3=0.175, turns=3)         # rounds 0.1, 0.25, 0.1
    assert found["peak_gflops"] == 1000 and found["fraction_of_peak"] == dict(step=0.25, encoder=0.33333)


def test_without_bfloat16_its_peer_is_left_out():
    assert "lightly, bf16" in step.contestants("bfloat16")
    left = step.contestants("float32")
    assert left == [name for name in step.contestants("bfloat16") if name != "lightly, bf16"]
    found = step.figures({name: [2.0, 2.0] for name in left}, 256, 5e11)
    assert set(found["times_faster"]) == {"simclr, plain", "lightly"} and "lightly, bf16" not in found["images_per_second"]


@pytest.mark.parametrize("net, first", [("resnet8", 4 * 4 * 3 * 64 * 16 * 16), ("resnet18", 3 * 3 * 3 * 64 * 32 * 32)])
def test_operations_are_three_forward_passes_but_for_the_pixels(net, first):
    encoder = build_encoder(net)
    assert step.flops(encoder) == 2 * 2 * (3 * count_macs(encoder, (3, 32, 32)) - first)    # two views, two operations a multiply-accumulate


def test_what_does_not_fit_in_memory_is_left_out(monkeypatch):
    monkeypatch.setattr(loss, "free_gigabytes", lambda: 24)
    assert loss.left_out(256) == {}                          # 4.5 · 512 · 512 · 510 floats are 2.4 GB
    assert loss.left_out(1024) == {"pytorch-metric-learning": "needs about 154 GB"}


def test_the_reference_of_the_loss_is_the_loss_in_loops():
    z1, z2 = loss.pair(3, 4)
    value, gradient = loss.reference(z1, z2, rows=2)
    a = torch.cat([z1, z2]).detach().double().requires_grad_()
    unit, total = a / a.norm(dim=1, keepdim=True), 0
    for i in range(6):
        total = total - (unit[i] @ unit[(i + 3) % 6] / 0.5 - torch.stack([unit[i] @ unit[j] / 0.5 for j in range(6) if j != i]).exp().sum().log()) / 6
    total.backward()
    assert math.isclose(value, total.item(), rel_tol=1e-12) and torch.allclose(gradient, a.grad, rtol=1e-9, atol=1e-12)


def test_a_part_replaces_itself_alone(tmp_path):
    measure.write_part(dict(x=1), "step", tmp_path / "b.json")
    measure.write_part(dict(x=2), "start", tmp_path / "b.json")
    measure.write_part(dict(x=3), "step", tmp_path / "b.json")
    found = json.loads((tmp_path / "b.json").read_text())
    assert {k: v["x"] for k, v in found.items()} == dict(step=3, start=2) and "cpu" in found["start"]["environment"]


# Running

def test_one_part_that_fails_does_not_keep_others_from_running(monkeypatch, tmp_path, capsys):
    ran = []
    def run(command, **_):
        ran.append(command)
        return subprocess.CompletedProcess(command, 7 * command[1].endswith("step.py"))
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit, match="failed: step"): everything.main(["step", "start", "loss", "--out", str(tmp_path)])
    assert [os.path.basename(c[1]) for c in ran] == ["step.py", "start.py", "loss.py"]
    assert [os.path.basename(c[3]) for c in ran] == ["bench.json", "bench.json", "bench-loss.json"]
    assert "step: FAILED with code 7" in capsys.readouterr().out
    with pytest.raises(SystemExit): everything.main(["stop"])


@pytest.mark.parametrize("part", ["start", "loss", "evaluate", "step"])
def test_the_quick_form_runs_and_says_that_it_is_quick(part, tmp_path):
    command = everything.command(part, True, tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=dict(os.environ, PYTHONPATH=str(ROOT)), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    path = tmp_path / f"{everything.PARTS[part]}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (record if part == "loss" else record[part])["quick"] is True
    assert "/tmp" not in path.read_text() and str(ROOT) not in path.read_text()
    if part == "step":
        found = record["step"]["nets"]["resnet8"]
        assert record["step"]["precision"] == str(fast_precision("cpu")).removeprefix("torch.")
        assert set(step.contestants(record["step"]["precision"])) == set(found["seconds"])
        assert {len(s) for s in found["seconds"].values()} == {2} and min(map(min, found["seconds"].values())) > 0
        assert math.isclose(sum(found["encoder_kinds"].values()), 1, abs_tol=0.01)


def test_a_run_of_lightlys_recipe_goes_on_where_it_was_cut_off(monkeypatch, tmp_path):
    monkeypatch.setattr(minutes, "NET", dict(backbone="resnet8", width=8))
    pictures = torch.randint(256, (512, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))       # two batches
    images, steps = SimpleNamespace(train=SimpleNamespace(x=pictures), mean=(0.5,) * 3, std=(0.25,) * 3), iter(range(2))
    def cut():
        if next(steps, None) is None: raise minutes.Enough                      # after the first step of the second epoch
    runs = [tmp_path / name for name in ("whole", "in two parts")]
    for folder in runs: folder.mkdir()
    curve = minutes.lightly(images, 2, runs[0], lambda: None)
    with pytest.raises(minutes.Enough): minutes.lightly(images, 2, runs[1], cut)
    assert not (runs[1] / "encoder.safetensors").exists()
    assert [r["loss"] for r in minutes.lightly(images, 2, runs[1], lambda: None)] == [r["loss"] for r in curve]
    whole, parts = (load_file(folder / "encoder.safetensors") for folder in runs)
    assert all(torch.equal(whole[name], parts[name]) for name in whole | parts)
