"""Inputs that nobody wishes for: the table of tests/fault_table.py at every entry point, and hypothesis. bench/faults.py runs more of both."""
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import fault_table as ft
from conftest import ROOT
from simclr.album import FORMATS, SUFFIXES, Member, Paths, decode_image, find_images, tar_images, write_shards
from simclr.batches import image_loader
from simclr.data import load_images
from simclr.model import build_encoder, save_encoder

pytestmark = pytest.mark.filterwarnings("ignore")          # Pillow warns of what it then refuses
FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PICTURE_KINDS = sorted({kind for kind, *_ in ft.pictures()})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(build_encoder("resnet8", width=4, image_size=8), path := tmp_path_factory.mktemp("encoder") / "encoder.safetensors") or path


def passed(rows, at_least):
    kinds, bad = ft.summary(rows)
    assert not bad, "\n".join(bad[:20])
    assert sum(k["tried"] for k in kinds.values()) >= at_least
    return kinds


# ---- the table

@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_pictures(tmp_path, encoder, kind): passed(ft.try_pictures(tmp_path, encoder, kinds=(kind,)), 7)
def test_names(tmp_path, encoder): passed(ft.try_names(tmp_path, encoder, embed_every=5), 5 * 30)
def test_folders(tmp_path): passed(ft.try_trees(tmp_path, classes=200), 60)
def test_tar_files(tmp_path): passed(ft.try_tars(tmp_path), 100)
def test_functions(): passed(ft.try_functions(), 60)
def test_runs(tmp_path): passed(ft.try_runs(tmp_path), 14)
def test_at_random(tmp_path): passed(ft.try_random(tmp_path, seed=1, rounds=60), 300)


def test_workers_meet_the_same(tmp_path, encoder):
    passed(ft.try_pictures(tmp_path, encoder, workers=1, kinds=("zero bytes", "CMYK"), only="image_loader"), 3)


@pytest.mark.parametrize("entry", ["decode_image", "load_images"])
def test_a_file_that_may_not_be_read(tmp_path, entry):
    for i in range(3): ft.put(tmp_path, f"a/{i}.png", ft.good())
    (tmp_path / "a/1.png").chmod(0)
    try: (tmp_path / "a/1.png").read_bytes()
    except PermissionError: pass
    else: pytest.skip("this user may read everything")
    with pytest.raises(ValueError, match="1.png.*[Pp]ermission"):
        decode_image(tmp_path / "a/1.png") if entry == "decode_image" else load_images("folder", tmp_path)


def test_a_folder_that_may_not_be_read(tmp_path):
    for i in range(3): ft.put(tmp_path, f"a/b/{i}.png", ft.good())
    (tmp_path / "a/b").chmod(0)
    try: os.listdir(tmp_path / "a/b")
    except PermissionError: pass
    else: pytest.skip("this user may read everything")
    try:
        with pytest.raises(PermissionError, match="b"): find_images(tmp_path)
    finally: (tmp_path / "a/b").chmod(0o700)


def test_the_table_can_fail(tmp_path, encoder, monkeypatch):
    "A library that clips 16 bits, takes half a file, or ends with another error, is found out."
    def clips(path, image_size=None, channels=3): return torch.from_numpy(np.atleast_3d(np.array(Image.open(path).convert("RGB")))).permute(2, 0, 1)
    monkeypatch.setattr(ft, "decode_image", clips)
    kinds, bad = ft.summary(ft.try_pictures(tmp_path, encoder, kinds=("16-bit", "zero bytes")))
    assert kinds["16-bit"]["silent_wrong"] > 5 and "off by" in "".join(bad)
    assert ft.judge(lambda: 1 / 0, ft.anything).startswith("crash: ZeroDivisionError") and ft.judge(lambda: sys.exit(), ft.anything).startswith("crash")
    assert ft.judge(lambda: int("x"), None, ("x.png",)).startswith("crash: ValueError")      # names no file
    assert ft.judge(lambda: 1, None, ("x",)).startswith("wrong: accepted")
    monkeypatch.setattr(ft, "SECONDS", 0.05)
    def hangs():
        while True: pass
    assert "more than 0.05 s" in ft.judge(hangs, ft.anything)
    monkeypatch.setattr(ft, "SECONDS", 20)
    if ft.peak() is not None: assert "MB" in ft.judge(lambda: np.ones(60_000_000).sum(), ft.anything)


def test_only_pictures_are_opened(tmp_path):
    "Pillow hands PostScript to another program; a picture's suffix must not be enough for that."
    with pytest.raises(ValueError, match="cannot identify"): decode_image(ft.put(tmp_path, "x.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"))
    assert not {"EPS", "PDF", "WMF", "MPEG"} & set(FORMATS)
    assert {Image.registered_extensions()[s] for s in SUFFIXES} <= {*FORMATS, "MPO"}


def test_no_flipped_bit_of_a_png_goes_unnoticed():
    "Pillow alone takes some of these files, with other pixels: it does not look at the checksums unless asked."
    (data, right), = [(d, a) for name, suffix, d, a, _ in ft.ordinary(np.random.default_rng(5)) if name == "png"]
    fates = {"refused": 0, "whole": 0, "pillow": 0}
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try: x = decode_image(io.BytesIO(flipped))
        except ValueError: fates["refused"] += 1
        else: assert np.array_equal(x.permute(1, 2, 0).numpy(), right), bit; fates["whole"] += 1
        try: fates["pillow"] += not np.array_equal(np.asarray(Image.open(io.BytesIO(flipped)).convert("RGB")), right)
        except Exception: pass
    assert fates["refused"] > 7 * len(data) and fates["pillow"] > 0


# ---- hypothesis

@FEW
@given(magic=st.sampled_from(ft.MAGIC), data=st.binary(max_size=600), suffix=st.sampled_from(["png", "jpg", "gif", "tif", "webp", "bmp", "ppm"]))
def test_any_bytes(tmp_path_factory, magic, data, suffix):
    path = ft.put(tmp_path_factory.getbasetemp(), f"any.{suffix}", magic + data)
    assert ft.judge(lambda: decode_image(path), ft.plausible(path), (path.name,)) == "right"


@FEW
@given(which=st.integers(0, 8), changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6), cut=st.floats(0, 1))
def test_any_damage(tmp_path_factory, which, changes, cut):
    name, suffix, data, expected, tolerance = list(ft.ordinary(np.random.default_rng(0)))[which]
    damaged = bytearray(data)
    for at, byte in changes: damaged[int(at * len(data))] = byte
    path = ft.put(tmp_path_factory.getbasetemp(), f"damaged.{suffix}", bytes(damaged[:round(cut * len(data))]))
    check = ft.pixels(expected, tolerance) if suffix == "png" or damaged == data else ft.plausible(path)
    assert ft.judge(lambda: decode_image(path), check, (path.name,)) == "right"


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_any_size_and_mode(tmp_path_factory, seed):
    name, suffix, data, expected, tolerance = ft.random_picture(np.random.default_rng(seed))
    path = ft.put(tmp_path_factory.getbasetemp(), f"any.{suffix}", data)
    assert ft.judge(lambda: decode_image(path), ft.pixels(expected, tolerance)) == "right", name


NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda s: s not in (".", "..") and len(os.fsencode(s)) < 80)

@FEW
@given(files=st.dictionaries(st.tuples(NAME, NAME, st.sampled_from([".png", ".PNG", ".txt", ""])), st.integers(0, 255), max_size=8))
@example(files={("a", "b\n", ".png"): 1, ("a", "b", ".png"): 2, ("a ", "b", ".png"): 3, ("a.b", "\x1b", ".png"): 4})
def test_any_names(tmp_path_factory, files):
    root, right = tmp_path_factory.mktemp("names"), {}
    for (folder, name, suffix), level in files.items():
        path = ft.put(root, f"{folder}/{name}{suffix}", ft.good(level))
        if os.path.splitext(path)[1].lower() == ".png" and not folder.startswith(".") and not path.name.startswith("."): right[path] = level
    assert find_images(root) == sorted(right)
    packed = Paths(right)
    assert [packed[i] for i in range(len(packed))] == list(right)
    for path, level in right.items(): assert (decode_image(path) == level).all()


@FEW
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=9), batch=st.integers(1, 12), drop=st.booleans(), shuffle=st.booleans())
def test_any_batches(sizes, batch, drop, shuffle):
    from simclr.data import TensorImages
    n = sum(sizes)
    images = TensorImages(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.arange(n))
    if drop and batch > n:
        with pytest.raises(ValueError, match=f"batch_size={batch}"): image_loader(images, batch, shuffle, drop_last=True)
        return
    found = [y.tolist() for _, y in image_loader(images, batch, shuffle, drop_last=drop)]
    assert sorted(sum(found, [])) == list(range(n)) if not drop else all(len(b) == batch for b in found) and len(found) == n // batch


# ---- paths in one buffer, tar files

def test_paths_are_a_list_of_paths():
    paths = [Path("a/b.png"), "c d", os.fsdecode(b"\xff"), Member("x.tar", 512, 70_000_000_000, "a/\n.png"), Path("é")]
    packed = Paths(iter(paths))
    assert len(packed) == 5 and list(packed) == [Path("a/b.png"), Path("c d"), Path(os.fsdecode(b"\xff")), paths[3], Path("é")]
    assert packed[-1] == Path("é") and list(packed.subset([3, 0])) == [paths[3], paths[0]] and list(packed.subset(slice(1, 2))) == [Path("c d")]
    assert packed.subset(torch.tensor([2, 2])).text is packed.text and len(packed.subset([])) == 0 and len(Paths([])) == 0
    assert list(packed.subset([4, 3, 2]).subset([0])) == [Path("é")]
    with pytest.raises(IndexError): packed[5]


def test_paths_are_small():
    one = "some/folder/class0001/picture_000000.jpg"
    packed = Paths(one for _ in range(50_000))
    assert packed.text.nbytes + packed.start.nbytes + packed.end.nbytes < 50_000 * (len(one) + 17)      # a Path takes some hundred bytes


@pytest.mark.parametrize("labels", [True, False])
def test_shards_hold_what_the_folder_holds(tmp_path, labels):
    rng = np.random.default_rng(0)
    for i in range(23): ft.put(tmp_path, f"pets/{f'{rng.integers(4)}/' * labels}{i:02}.{'jpg' if i % 2 else 'png'}", ft.encoded(Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)), "jpeg" if i % 2 else "png"))
    ft.put(tmp_path, "pets/0/deep/er/x.png" if labels else "pets/x.png", ft.good()); ft.put(tmp_path, "pets/.hidden.png", b"")
    shards = write_shards(tmp_path / "pets", tmp_path / "shards", images_per_shard=10)
    assert [p.name for p in shards] == ["00000.tar", "00001.tar", "00002.tar"] and [len(tar_images(p)) for p in shards] == [10, 10, 4]
    files, tars = (load_images("folder", tmp_path / name, in_memory=False) for name in ("pets", "shards"))
    memory = load_images("folder", tmp_path / "shards")
    assert files.classes == tars.classes == memory.classes and files.mean == tars.mean and files.std == tars.std
    for part in ("train", "val", "test"):
        a, b, c = (getattr(images, part) for images in (files, tars, memory))
        assert len(a) == len(b) and torch.equal(a.y, b.y) and [p.name for p in a.paths] == [p.name for p in b.paths]
        if len(a): assert torch.equal(a.load().x, b.load().x) and torch.equal(a.load().x, c.x)
    with tarfile.open(shards[0]) as tar: tar.extractall(tmp_path / "out", filter="data")           # any tar reads it
    assert (tmp_path / "out" / tar_images(shards[0])[0][0].file).read_bytes() == tar_images(shards[0])[0][0].read()
    again = write_shards(tmp_path / "pets", tmp_path / "again", images_per_shard=10)
    assert [a.read_bytes() == b.read_bytes() for a, b in zip(shards, again)] == [True] * 3          # the same bytes each time


WRITE_FAULTS = {"no folder": (lambda root: None, {}, FileNotFoundError, "no folder"), "no images": (lambda root: ft.put(root, "x.txt", b""), {}, ValueError, "no images"),
                "two of one name": (lambda root: [ft.put(root, f"a/0.{s}", ft.good()) for s in ("jpg", "png")], {}, ValueError, "a/0.jpg' and 'a/0.png': rename one"),
                "train and test": (lambda root: [ft.put(root, f"{part}/cat/0.png", ft.good()) for part in ("train", "test")], {}, ValueError, "is split: pack its train into .*out/train"),
                "none a shard": (lambda root: ft.put(root, "x.png", b""), dict(images_per_shard=0), ValueError, "images_per_shard=0"),
                "fifo": (lambda root: (root.mkdir(), os.mkfifo(root / "x.png")), {}, ValueError, "x.png is no regular file"),
                "broken link": (lambda root: (root.mkdir(), (root / "x.png").symlink_to("gone")), {}, ValueError, "x.png is no regular file"),
                "out is there": (lambda root: (ft.put(root, "x.png", b""), (root.parent / "out").mkdir()), {}, FileExistsError, "out")}

@pytest.mark.parametrize("case", WRITE_FAULTS)
def test_write_shards_refuses(tmp_path, case):
    make, options, error, message = WRITE_FAULTS[case]
    make(tmp_path / "pictures")
    with ft.watched(), pytest.raises(error, match=message): write_shards(tmp_path / "pictures", tmp_path / "out", **options)


def test_half_written_shards_are_noticed(tmp_path):
    ft.put(tmp_path, "pictures/a/0.png", ft.good()); (tmp_path / "pictures/a/1.png").symlink_to("gone")
    with pytest.raises(ValueError, match="1.png"): write_shards(tmp_path / "pictures", tmp_path / "out")
    with pytest.raises(ValueError, match="cut short"): load_images("folder", tmp_path / "out")


def test_shards_leave_no_file_open(tmp_path):
    for i in range(40): ft.put(tmp_path, f"pets/{i % 2}/{i}.png", ft.good(i))
    write_shards(tmp_path / "pets", tmp_path / "shards", 7)
    if not os.path.isdir("/proc/self/fd"): pytest.skip("no /proc here")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3): [list(image_loader(part, 8)) for part in (load_images("folder", tmp_path / name, in_memory=False).train for name in ("pets", "shards"))]
    assert len(os.listdir("/proc/self/fd")) == before


# ---- the two measurements

def test_large_is_measured(tmp_path):
    import subprocess
    if not os.path.exists("/proc/self/smaps_rollup"): pytest.skip("no /proc here")
    done = subprocess.run([sys.executable, str(ROOT / "bench/large.py"), "--sizes", "600", "--out", str(tmp_path / "large.json")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "large.json").read_text())
    assert {(r["source"], r["n"], r["workers"]) for r in record["results"]} == {
        (s, n, w) for n in (600,) for s, ws in (("files", (0, 1, 2)), ("shards", (0, 1, 2)), ("memory", (0,)), ("list", (1,))) for w in ws}
    assert all(r["images_per_second"] > 0 and r["files_left_open"] < 20 and len(r["worker_peak_mb"]) == r["workers"] for r in record["results"])
    assert record["seed"] == 0 and record["environment"]["cores"]


def test_faults_are_counted(tmp_path):
    import subprocess
    done = subprocess.run([sys.executable, str(ROOT / "bench/faults.py"), "--quick", "--out", str(tmp_path / "faults.json")], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    record = json.loads((tmp_path / "faults.json").read_text())
    assert record["crashes"] == record["silent_wrong"] == 0 and record["tried"] == sum(k["tried"] for k in record["kinds"].values()) > 500
