"""The record of a run: what is written is whole, what is finished is safe, what differs is named, and no file runs code."""
import csv
import json
import math
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import yaml

import simclr.runs as runs_module
from simclr.loss import loss_bounds
from simclr.model import SimCLRModel, build_encoder, save_encoder
from simclr.runs import (cpu_name, curve_bounds, draw_curves, environment, load_run, new_folder, read_settings, read_snapshots, run_folder,
                         version_numbers, whole_file, write_csv, write_json)

# The machine


@pytest.mark.parametrize("missing", [(), ("scikit-learn",), ("torchvision", "numpy"), "all"])
def test_environment_without_packages(monkeypatch, missing):
    def version(name):
        if missing == "all" or name in missing: raise PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(runs_module, "version", version)
    found = environment()
    for name in ("torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn"):
        assert found[name] == (None if missing == "all" or name in missing else "1.2")
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("info, processor, expected", [
    ("model name\t: Xeon: 9\nmodel name\t: Other\n", "x", "Xeon: 9"), ("processor\t: 0\nFeatures\t: fp\n", "", platform.machine()),
    (None, "arm", "arm"), (None, "", platform.machine()), ("", "i386", "i386")])
def test_cpu_name_on_intel_arm_and_mac(monkeypatch, info, processor, expected):
    monkeypatch.setattr(Path, "exists", lambda self: info is not None)
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: info)
    monkeypatch.setattr(platform, "processor", lambda: processor)
    assert cpu_name() == expected


@pytest.mark.parametrize("best, found, expected", [
    ("AVX2", {}, "AVX2"), ("AVX512", dict(avx512_bf16=False, amx_tile=False), "AVX512"), ("AVX512", dict(avx512_bf16=True, amx_tile=False), "AVX512 AVX512-BF16"),
    ("AVX512", dict(avx512_bf16=True, amx_tile=True), "AVX512 AVX512-BF16 AMX"), ("DEFAULT", {}, "DEFAULT")])
def test_instructions_also_of_an_older_pytorch_that_cannot_say(monkeypatch, best, found, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: best)
    for name in ("avx512_bf16", "amx_tile"):
        if name in found: monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: found[name], raising=False)
        else: monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert environment()["instructions"] == expected


def test_environment_on_a_mac(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert environment()["cores"] == 10


def test_environment_names_the_gpu_but_no_person(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    found = environment()
    assert found["gpu"] == "H100" and platform.node() not in found.values()
    assert set(found) >= {"date", "python", "simclr", "torch", "system", "cpu", "cores", "gpu"}


# Records

@pytest.mark.parametrize("record", [{}, dict(a=1, b=[1.5, None, True], c="h × z"), dict(deep=dict(er=[dict(x=1)])), [1, 2]])
def test_json_round_trip(tmp_path, record):
    write_json(record, tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == record
    assert os.listdir(tmp_path) == ["r.json"]


@pytest.mark.parametrize("bad, error", [(math.nan, ValueError), (math.inf, ValueError), (-math.inf, ValueError), (Path("x"), TypeError),
                                        (torch.ones(1), TypeError), ({1, 2}, TypeError)])
def test_json_refuses_and_keeps_the_old_record(tmp_path, bad, error):
    write_json(dict(score=1), tmp_path / "r.json")
    with pytest.raises(error): write_json(dict(score=2, more=[bad]), tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == dict(score=1) and os.listdir(tmp_path) == ["r.json"]


@pytest.mark.parametrize("rows, names", [
    ([dict(a=1, b=2), dict(b=3, c=4)], ["a", "b", "c"]), ([dict(b=1), dict(a="x,\"y\"\nz")], ["b", "a"]), ([dict(é="ü")], ["é"])])
def test_csv_round_trip(tmp_path, rows, names):
    write_csv(rows, tmp_path / "m.csv")
    with open(tmp_path / "m.csv", newline="", encoding="utf-8") as f: table = csv.DictReader(f); found = list(table)
    assert table.fieldnames == names
    assert found == [{n: str(row.get(n, "")) for n in names} for row in rows]


class DiskFull:
    def __str__(self): raise OSError("no space left")


@pytest.mark.parametrize("fail", [
    lambda p: write_csv([dict(a=1), dict(a=DiskFull())], p), lambda p: write_json(dict(a="\ud800"), p),      # a lone surrogate has no UTF-8
    lambda p: half(p, KeyboardInterrupt), lambda p: half(p, ZeroDivisionError)])
def test_a_write_that_fails_midway_changes_nothing(tmp_path, fail):
    path = tmp_path / "file.x"
    path.write_text("old")
    with pytest.raises((OSError, UnicodeEncodeError, KeyboardInterrupt, ZeroDivisionError)): fail(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.x"]


def half(path, error):
    with whole_file(path) as part:
        part.write_text("ne")
        raise error


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with whole_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_nothing_written_is_an_error_and_keeps_the_old_file(tmp_path):
    (tmp_path / "f").write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "f"): pass
    assert (tmp_path / "f").read_text() == "old"


# Folders

def config(root, **changes): return dict(run_dir=str(root), backbone="resnet8", version=None, resume=False, temperature=0.5) | changes


def place(root, number, *files, settings="temperature: 0.5\nbackbone: resnet8\n"):
    folder = root / "pretrain/resnet8" / f"version_{number}"
    folder.mkdir(parents=True)
    for name in files: (folder / name).write_text(settings if name == "config.yaml" else "x")


FINISHED, UNFINISHED = ("config.yaml", "encoder.safetensors"), ("config.yaml",)


@pytest.mark.parametrize("there, asked, expected", [
    ({}, dict(), 0), ({}, dict(resume=True), 0), ({}, dict(version=5), 5), ({}, dict(version=5, resume=True), 5),
    ({0: FINISHED}, dict(), 1), ({0: UNFINISHED}, dict(), 1), ({0: ()}, dict(), 1), ({3: FINISHED}, dict(), 4), ({9: FINISHED, 10: FINISHED}, dict(), 11),
    ({0: FINISHED}, dict(version=1), 1), ({0: UNFINISHED}, dict(version=0, resume=True), 0), ({0: UNFINISHED}, dict(resume=True), 0),
    ({0: FINISHED, 1: UNFINISHED}, dict(resume=True), 1), ({"x": (), "²": (), "-1": ()}, dict(), 0), ({0: ()}, dict(version=0), 0),
    ({0: FINISHED}, dict(version=0), "finished run"), ({0: FINISHED}, dict(version=0, resume=True), "finished run"),
    ({0: FINISHED}, dict(resume=True), "finished run"), ({0: ("encoder.safetensors",)}, dict(version=0), "finished run"),
    ({0: UNFINISHED}, dict(version=0), "did not finish")])
def test_which_folder(tmp_path, there, asked, expected):
    for number, files in there.items(): place(tmp_path, number, *files)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    if isinstance(expected, str):
        with pytest.raises(FileExistsError, match=expected): run_folder(config(tmp_path, **asked), "pretrain")
    else:
        folder = run_folder(config(tmp_path, **asked), "pretrain")
        assert folder == tmp_path / f"pretrain/resnet8/version_{expected}"
        assert yaml.safe_load((folder / "config.yaml").read_text()) == dict(backbone="resnet8", temperature=0.5)
    assert {p: p.read_bytes() for p in before} == before, "no file that was there has changed"


@pytest.mark.parametrize("version", [-1, "0", 1.0, True, "../../x", [1]])
def test_odd_versions_are_refused_before_a_folder_is_made(tmp_path, version):
    with pytest.raises(ValueError, match="version="): run_folder(config(tmp_path, version=version), "pretrain")
    assert not os.listdir(tmp_path)


def test_a_setting_that_yaml_cannot_hold_makes_no_folder(tmp_path):
    with pytest.raises(yaml.YAMLError): run_folder(config(tmp_path, odd=object()), "pretrain")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("then, now, message", [
    (dict(), dict(temperature=0.1), "temperature: 0.5 then, 0.1 now"), (dict(epochs=5), dict(epochs=None), "epochs: 5 then, None now"),
    (dict(), dict(new=1), "new: None then, 1 now"), (dict(old=1), dict(), "old: 1 then, None now"),
    (dict(crop=(0.1, 1)), dict(crop=(0.2, 1)), r"crop: \[0.1, 1\] then, \[0.2, 1\] now"),
    (dict(crop=(0.1, 1.0)), dict(crop=(0.1, 1.0)), None), (dict(decay=1e-6), dict(decay=1e-6), None), (dict(workers=0), dict(workers=4), None),
    (dict(echo=True), dict(), None), (dict(name="é: [1"), dict(name="é: [1"), None)])
def test_resume_needs_the_same_settings(tmp_path, then, now, message):
    folder = run_folder(config(tmp_path, **then), "pretrain")
    before = (folder / "config.yaml").read_bytes()
    again = config(tmp_path, resume=True, **now)
    if message is None: assert run_folder(again, "pretrain") == folder
    else:
        with pytest.raises(ValueError, match=message): run_folder(again, "pretrain")
    assert (folder / "config.yaml").read_bytes() == before


def test_a_moved_run_can_go_on(tmp_path):
    run_folder(config(tmp_path / "a"), "pretrain")
    (tmp_path / "a").rename(tmp_path / "b")
    assert run_folder(config(tmp_path / "b", resume=True), "pretrain").parent == tmp_path / "b/pretrain/resnet8"


def test_runs_that_start_at_once_share_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runs_module, "version_numbers", lambda base: [])      # all of them look before any of them makes one
    with ThreadPoolExecutor(16) as pool: folders = list(pool.map(lambda _: new_folder(tmp_path), range(48)))
    assert len(set(folders)) == 48 and sorted(version_numbers(tmp_path)) == list(range(48))


@pytest.mark.parametrize("text, message", [(b"", "holds no settings"), (b"- 1\n", "holds no settings"), (b"a: [", "not valid YAML"), (b"\xff\xfe\xfa", "not valid YAML"),
                                           (b"a: !!python/object/apply:os.getpid []", "not valid YAML")])
def test_settings_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "config.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=message): read_settings(tmp_path / "config.yaml")


# The model of a run

def finished(folder, **settings):
    "A run's folder made by hand, and its model."
    torch.manual_seed(0)
    model = SimCLRModel(build_encoder("resnet8", 1, 8, width=4), 6, 3)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(hidden_dim=6, projection_dim=3) | settings))
    save_encoder(model.encoder, folder / "encoder.safetensors")
    save_state(folder, {f"model.{k}": v for k, v in model.state_dict().items()})
    return model


def save_state(folder, state): torch.save(dict(state_dict=state), folder / "checkpoints/last.ckpt")


def test_load_run_to_the_bit(tmp_path):
    model = finished(tmp_path).eval()
    model.head[1].running_mean.uniform_()
    save_state(tmp_path, {f"model.{k}": v for k, v in model.state_dict().items()} | {"augment.mean": torch.zeros(1)})
    rng, again, x = torch.get_rng_state(), load_run(tmp_path), torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(m.training for m in again.modules()) and all(p.device.type == "cpu" for p in again.parameters())
    assert torch.equal(again(x), model(x)) and torch.equal(again.encoder(x), model.encoder(x))


class Program:
    def __reduce__(self): return os.system, ("touch it_ran",)


HEAD = {f"model.head.{k}": v for k, v in SimCLRModel(build_encoder("resnet8", width=4), 6, 3).head.state_dict().items()}


@pytest.mark.parametrize("spoil, error, message", [
    (lambda f: (f / "config.yaml").unlink(), FileNotFoundError, "no config.yaml"),
    (lambda f: (f / "checkpoints/last.ckpt").unlink(), FileNotFoundError, "no last.ckpt"),
    (lambda f: (f / "encoder.safetensors").unlink(), FileNotFoundError, "no encoder"),
    (lambda f: (f / "config.yaml").write_text("a: ["), ValueError, "not valid YAML"),
    (lambda f: (f / "config.yaml").write_text("hidden_dim: 6"), ValueError, "projection_dim=None is not a whole number"),
    (lambda f: (f / "config.yaml").write_text("{hidden_dim: '6', projection_dim: 3}"), ValueError, "hidden_dim='6'"),
    (lambda f: (f / "config.yaml").write_text("{hidden_dim: 7, projection_dim: 3}"), ValueError, "size mismatch for 0.weight"),
    (lambda f: (f / "config.yaml").write_text("{hidden_dim: 99999999, projection_dim: 99999999}"), ValueError, "size mismatch"),
    (lambda f: (f / "config.yaml").write_text("{hidden_dim: 0, projection_dim: 3}"), ValueError, "hidden_dim=0 must be at least 1"),
    (lambda f: (f / "encoder.safetensors").write_bytes(b"x"), ValueError, "not a whole safetensors file"),
    (lambda f: save_state(f, {}), ValueError, "Missing key"), (lambda f: save_state(f, {"model.encoder.x": torch.ones(1)}), ValueError, "Missing key"),
    (lambda f: save_state(f, HEAD | {"model.head.9.weight": torch.ones(1)}), ValueError, "Unexpected key.*9.weight"),
    (lambda f: save_state(f, HEAD | {"model.head.0.weight": "text"}), ValueError, "no state_dict made of tensors"),
    (lambda f: save_state(f, [1]), ValueError, "not a whole checkpoint"), (lambda f: save_state(f, {1: torch.ones(1)}), ValueError, "not a whole checkpoint"),
    (lambda f: torch.save(dict(other=1), f / "checkpoints/last.ckpt"), ValueError, "not a whole checkpoint"),
    (lambda f: torch.save([1], f / "checkpoints/last.ckpt"), ValueError, "not a whole checkpoint"),
    (lambda f: (f / "checkpoints/last.ckpt").write_bytes(b""), ValueError, "not a whole checkpoint"),
    (lambda f: (f / "checkpoints/last.ckpt").write_bytes(b"noise" * 99), ValueError, "not a whole checkpoint"),
    (lambda f: (f / "checkpoints/last.ckpt").write_bytes((f / "checkpoints/last.ckpt").read_bytes()[:-200]), ValueError, "not a whole checkpoint"),
    (lambda f: save_state(f, Program()), ValueError, "without running code")])
def test_load_run_says_what_is_wrong(tmp_path, monkeypatch, spoil, error, message):
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(error, match=message): load_run(tmp_path / "run")
    assert not Path("it_ran").exists()


# Curves

def record(seed=0, batch_size=256, temperature=0.5, **more):
    curve = [dict(epoch=e, loss=5 - e / 10, top1=e / 10, **({"val_knn": 0.5} if e % 2 else {})) for e in range(1, 6)]
    return dict(config=dict(seed=seed, batch_size=batch_size, temperature=temperature), curve=curve) | more


def written(root, *records):
    folders = [root / str(i) for i in range(len(records))]
    for folder, r in zip(folders, records):
        folder.mkdir()
        write_json(r, folder / "results.json")
    return folders


@pytest.mark.parametrize("n", [1, 3, 7])
def test_each_run_has_one_look_in_all_panels(tmp_path, n):
    figure = draw_curves(written(tmp_path, *(record(seed=s) for s in range(n))))
    assert len(figure.data) == 3 * n and sum(t.showlegend for t in figure.data) == n
    for i in range(n):
        traces = figure.data[3 * i:3 * i + 3]
        assert {t.name for t in traces} == {f"run {i}, seed {i}"} and len({(t.line.color, t.line.dash) for t in traces}) == 1
        assert [t.xaxis for t in traces] == ["x", "x2", "x3"] and [list(t.x) for t in traces] == [[1, 2, 3, 4, 5]] * 2 + [[1, 3, 5]]
    for look in ("color", "dash"): assert len({t.line[look] for t in figure.data} - {None}) == min(n, 6)      # either tells runs apart


def test_bounds_are_those_of_every_run(tmp_path):
    figure = draw_curves(written(tmp_path, record(), record(batch_size=64, temperature=0.1), record(seed=9)))
    drawn = sorted(s.y0 for s in figure.layout.shapes if s.yref == "y")
    assert drawn == pytest.approx(sorted([*loss_bounds(256, 0.5), *loss_bounds(64, 0.1)]))
    assert sorted(s.y0 for s in figure.layout.shapes if s.yref == "y2") == pytest.approx([1 / 511, 1 / 127])


@pytest.mark.parametrize("images, chance", [("Images(digits: train 9; 1×16×16, 10 classes)", {0.1}), ("100 classes", {0.01}), ("0 classes", set()), (None, set())])
def test_chance_of_knn(images, chance):
    more = {} if images is None else dict(images=images)
    assert {v for panel, v, _ in curve_bounds(record(**more)) if panel == 3} == chance


def test_a_run_without_knn_scores_is_drawn(tmp_path):
    r = record()
    for row in r["curve"]: row.pop("val_knn", None)
    assert list(draw_curves(written(tmp_path, r)).data[2].x) == []


@pytest.mark.parametrize("folders, error", [([], ValueError), (["nowhere"], FileNotFoundError)])
def test_curves_of_nothing(tmp_path, folders, error):
    with pytest.raises(error): draw_curves([tmp_path / f for f in folders])


def test_curves_as_a_page_that_needs_no_network(tmp_path):
    out = draw_curves(written(tmp_path, record()), tmp_path / "curves.html")
    text = out.read_text(encoding="utf-8")
    assert out == tmp_path / "curves.html" and "Plotly.newPlot" in text and '<script src="http' not in text


# Snapshots

@pytest.mark.parametrize("names, epochs", [
    ((), []), (("epoch_0000", "epoch_0001"), [0, 1]), (("epoch_10000", "epoch_9999", "epoch_0008"), [8, 9999, 10000]),
    (("epoch_last", "epoch_-001", "epoch_", "epoch_²", "encoder", "epoch_0003"), [3])])
def test_snapshots_in_order_of_their_epochs(tmp_path, names, epochs):
    (tmp_path / "snapshots").mkdir()
    for name in names: (tmp_path / f"snapshots/{name}.safetensors").touch()
    for junk in ("epoch_0005.safetensors.part", "epoch_0006.ckpt"): (tmp_path / "snapshots" / junk).touch()
    found = read_snapshots(str(tmp_path))
    assert list(found) == epochs and all(int(path.stem[6:]) == epoch for epoch, path in found.items())


def test_a_run_without_snapshots_has_none(tmp_path): assert read_snapshots(tmp_path) == read_snapshots(tmp_path / "lost") == {}


def test_snapshots_are_free(tmp_path):
    folder = run_folder(config(tmp_path, snapshots=0), "pretrain")
    assert "snapshots" not in (folder / "config.yaml").read_text()
    assert run_folder(config(tmp_path, snapshots=6, version=0, resume=True), "pretrain") == folder
