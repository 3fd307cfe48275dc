"""Data: oracles by loops and NumPy, torchvision faked so that nothing needs the network, and a table of every fault."""
import inspect
import random
import time
import warnings
from collections import Counter
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from simclr.data import (DATASETS, FileImages, TensorImages, _channel_stats, decode_image, find_images, load_images,
                         stratified_split)


def picture(path, value=None, size=(8, 8), mode="L"):
    "A file with one level (its number, so that it can be recognised after loading), or noise."
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size[::-1], value, np.uint8) if value is not None else np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def tree(root, counts, start=0):
    "Class folders with numbered pictures: {'cat': 3} makes cat/0000.png … ; returns the next free number."
    for name, n in counts.items():
        for i in range(n): picture(root / name / f"{i:04}.png", start + i)
        start += n
    return start


def numbers(part): return [int(part[i][0][0, 0, 0]) for i in range(len(part))]


# ---- tensors ----

def test_tensor_images_index_like_loops():
    x = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = TensorImages(x, torch.arange(7))
    for index in ([6, 0, 6], torch.tensor([6, 0, 6]), np.array([6, 0, 6])):
        bx, by = images[index]
        assert bx.shape == (3, 3, 4, 5) and by.tolist() == [6, 0, 6]
        for k, i in enumerate((6, 0, 6)): assert (bx[k] == x[i]).all()
    assert len(images.subset([])) == 0 and images.subset([]).x.shape == (0, 3, 4, 5)
    assert images.to("cpu").x.dtype == torch.uint8


@pytest.mark.parametrize("x, n", [(torch.zeros(2, 1, 4, 4), 2), (torch.zeros(1, 4, 4, dtype=torch.uint8), 1),
                                  (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), 3), (torch.zeros(2, 1, 4, 4, dtype=torch.int16), 2)])
def test_tensor_images_refuse(x, n):
    with pytest.raises(ValueError, match=r"expected uint8 \(N, C, H, W\)"): TensorImages(x, torch.zeros(n))


@pytest.mark.parametrize("before, after", [(32, 16), (8, 16), (28, 17), (96, 32)])
def test_resize_is_pillows_bilinear_to_one_level(before, after):
    x = np.random.default_rng(before).integers(0, 256, (3, before, before), np.uint8)
    ours = TensorImages(torch.from_numpy(x)[:, None], torch.zeros(3)).resize(after).x[:, 0].numpy()
    for a, b in zip(ours, x):
        pillow = np.asarray(Image.fromarray(b).resize((after, after), Image.Resampling.BILINEAR))
        assert np.abs(a.astype(int) - pillow).max() <= 1      # Pillow rounds after each of its two passes


# ---- one file ----

COLOUR = (200, 40, 90)

@pytest.mark.parametrize("mode, suffix", [("RGB", "png"), ("RGB", "bmp"), ("RGB", "tif"), ("RGB", "ppm"), ("RGBA", "png"), ("P", "png"),
                                          ("P", "gif"), ("RGB", "webp"), ("RGB", "jpg"), ("CMYK", "jpg"), ("CMYK", "tif")])
def test_every_kind_of_colour_file(tmp_path, mode, suffix):
    im = Image.new("RGB", (9, 9), COLOUR)
    (im.quantize(4) if mode == "P" else im.convert(mode)).save(tmp_path / f"x.{suffix}", **(dict(lossless=True) if suffix == "webp" else {}))
    x = decode_image(tmp_path / f"x.{suffix}")
    assert x.shape == (3, 9, 9) and x.dtype == torch.uint8 and x.is_contiguous()
    for channel, level in zip(x, COLOUR): assert (channel.int() - level).abs().max() <= (4 if suffix == "jpg" else 0)


@pytest.mark.parametrize("mode, suffix", [("L", "png"), ("L", "jpg"), ("L", "pgm"), ("1", "png"), ("LA", "png"), ("P", "png")])
def test_every_kind_of_grey_file(tmp_path, mode, suffix):
    level = 255 if mode == "1" else 77
    Image.new("L", (5, 4), level).convert(mode).save(tmp_path / f"x.{suffix}")
    assert (decode_image(tmp_path / f"x.{suffix}", channels=1) == level).all()
    assert decode_image(tmp_path / f"x.{suffix}").shape == (3, 4, 5)


@pytest.mark.parametrize("kind", ["<u2 png", "<u2 tif", ">u2 tif", "<i4 tif"])
def test_sixteen_bits_keep_their_contrast(tmp_path, kind):
    dtype, suffix = kind.split()
    ramp = np.arange(256) * 257                              # every 8-bit level, as 16 bits write it
    im = Image.fromarray(ramp[None].astype(dtype)) if dtype[0] == "<" else Image.frombytes("I;16B", (256, 1), ramp.astype(dtype).tobytes())
    im.save(tmp_path / f"x.{suffix}")
    assert decode_image(tmp_path / f"x.{suffix}", channels=1)[0, 0].tolist() == list(range(256))


def test_transparency_lies_on_white(tmp_path):
    alpha = np.array([[0, 128, 255]], np.uint8)
    Image.fromarray(np.dstack([np.zeros((1, 3, 3), np.uint8), alpha])).save(tmp_path / "x.png")
    assert decode_image(tmp_path / "x.png")[0, 0].tolist() == [255, 127, 0]          # black ink: white · (1 - alpha)
    palette = Image.new("P", (1, 1)); palette.putpalette([0, 0, 0]); palette.save(tmp_path / "p.png", transparency=bytes([0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(tmp_path / "p.png").flatten().tolist() == [255] * 3


ORIENTATION = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose, 6: lambda a: np.rot90(a, -1),
               7: lambda a: np.rot90(a, 2).T, 8: np.rot90}

@pytest.mark.parametrize("number", ORIENTATION)
def test_upright_by_exif(tmp_path, number):
    a, exif = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, Image.Exif()
    exif[0x0112] = number
    Image.fromarray(a).save(tmp_path / "x.png", exif=exif)
    assert decode_image(tmp_path / "x.png", channels=1)[0].tolist() == ORIENTATION[number](a).tolist()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 13), (64, 64), (200, 10)])
def test_odd_sizes_come_out_square(tmp_path, size):
    picture(tmp_path / "x.png", 9, size)
    assert (decode_image(tmp_path / "x.png", 16) == 9).all() and decode_image(tmp_path / "x.png", 16).shape == (3, 16, 16)
    assert decode_image(tmp_path / "x.png").shape == (3, *size[::-1])


def test_centre_crop_cuts_both_ends(tmp_path):
    a = np.zeros((8, 24), np.uint8); a[:, 8:16] = 255
    Image.fromarray(a).save(tmp_path / "x.png")
    assert (decode_image(tmp_path / "x.png", 8) == 255).all()


@pytest.mark.parametrize("exif", [1, 6])
def test_large_jpeg_decoded_small_is_the_same_picture(tmp_path, exif):
    y, x = np.mgrid[:400, :600]
    note = Image.Exif(); note[0x0112] = exif
    im = Image.fromarray(np.dstack([x * 255 // 600, y * 255 // 400, (x + y) * 255 // 1000]).astype(np.uint8))
    im.save(tmp_path / "x.jpg", quality=95, exif=note); im.save(tmp_path / "x.png", exif=note)
    small, whole = (decode_image(tmp_path / f"x.{s}", 32).int() for s in ("jpg", "png"))
    assert (small - whole).abs().float().mean() < 1.5 and (small - whole).abs().max() < 12


def test_a_jpeg_keeps_the_detail_that_its_size_can_show(tmp_path):
    x = np.arange(400)
    a = np.broadcast_to(128 + 100 * np.sin(2 * np.pi * x / 16), (400, 400)).astype(np.uint8)      # stripes, 5 pixels apart in 128
    Image.fromarray(a).save(tmp_path / "x.jpg", quality=95); Image.fromarray(a).save(tmp_path / "x.png")
    small, whole = (decode_image(tmp_path / f"x.{s}", 128).float() for s in ("jpg", "png"))
    assert whole.std() > 40 and (small - whole).abs().mean() < 2


def broken(tmp_path):
    good = {s: picture(tmp_path / f"good.{s}", size=(64, 64)).read_bytes() for s in ("png", "jpg", "gif")}
    files = {"zero.png": b"", "text.jpg": b"<html>404</html>", "cut.png": good["png"][:len(good["png"]) // 2],
             "cut.jpg": good["jpg"][:len(good["jpg"]) // 2], "head.gif": good["gif"][:8], "wrong-crc.png": good["png"][:20] + b"????" + good["png"][24:]}
    for name, content in files.items(): (tmp_path / name).write_bytes(content)
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    return [*files, "link.png", "folder.png", "float.tif", "missing.png"]


def test_every_unreadable_file_is_named(tmp_path):
    for name in broken(tmp_path):
        with pytest.raises(ValueError) as e: decode_image(tmp_path / name, 8)
        assert f"cannot read the image {tmp_path / name}: " in str(e.value), name


@pytest.mark.parametrize("limit", [30, 50])                   # 64 pixels: above Pillow's error at twice the limit, and between warning and error
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_pixels_than_pillow_allows(tmp_path, monkeypatch, limit):
    picture(tmp_path / "bomb.png", 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64); decode_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None); decode_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match="bomb.png.*(limit|exceeds)"): decode_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_damaged_bytes_give_a_picture_or_a_named_error(tmp_path, suffix):
    good, chance = picture(tmp_path / f"good.{suffix}", size=(12, 12)).read_bytes(), random.Random(0)
    for _ in range(60):
        bad = bytearray(good[:chance.randrange(1, len(good) + 1)])
        for _ in range(chance.randrange(4)): bad[chance.randrange(len(bad))] = chance.randrange(256)
        path = tmp_path / f"bad.{suffix}"; path.write_bytes(bad)
        try: assert decode_image(path, 8).shape == (3, 8, 8)
        except ValueError as e: assert str(path) in str(e)


def test_decoding_is_quick(tmp_path):
    path, start = picture(tmp_path / "x.jpg", size=(32, 32)), time.process_time()
    for _ in range(200): decode_image(path, 32)
    assert (time.process_time() - start) / 200 < 2e-3         # 0.15 ms where measured: 60,000 files in about 10 s


# ---- the split ----

@pytest.mark.parametrize("seed", range(8))
def test_stratified_split_counts(seed):
    chance = random.Random(seed)
    sizes, fraction = [chance.randrange(1, 60) for _ in range(7)], chance.choice([0, 0.1, 0.25, 0.5, 0.9, 0.99])
    y = [c - 1 for c, n in enumerate(sizes) for _ in range(n)]      # -1 is a class like any other here
    chance.shuffle(y)
    kept, held = stratified_split(torch.tensor(y), fraction, seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(y))) and kept.tolist() == sorted(kept.tolist())
    count = Counter(y[i] for i in held.tolist())
    for c, n in Counter(y).items(): assert count[c] == min(round(fraction * n), n - 1)
    torch.manual_seed(99)
    assert torch.equal(stratified_split(torch.tensor(y), fraction, seed)[1], held)


def test_stratified_split_is_a_fair_draw():
    held = torch.zeros(20)
    for seed in range(600): held[stratified_split(torch.arange(20) % 2, 0.3, seed)[1]] += 1
    assert (held / 600 - 0.3).abs().max() < 4 * (0.3 * 0.7 / 600) ** 0.5          # four standard errors, 20 images


@pytest.mark.parametrize("fraction", [-0.01, 1, 2.0, float("nan")])
def test_stratified_split_refuses(fraction):
    with pytest.raises(ValueError, match="at least 0 and below 1"): stratified_split(torch.zeros(4), fraction)


def test_digits_split_is_pinned():
    images = load_images("digits")
    assert repr(images) == "Images(digits: train 1,295, val 143, test 359; 1×16×16, 10 classes)"
    again = load_images("digits", image_size=8)               # the size has no part in it
    for part in ("train", "val", "test"): assert torch.equal(getattr(images, part).y, getattr(again, part).y)
    rows = {x.numpy().tobytes() for part in (again.train, again.val, again.test) for x in part.x}
    assert len(rows) == 1797
    assert images.val.y.bincount().tolist() == [14, 15, 14, 15, 14, 15, 14, 14, 14, 14]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("layout", ["classes", "train", "train and test"])
def test_no_image_is_in_two_parts(tmp_path, layout, in_memory):
    root = tmp_path if layout == "classes" else tmp_path / "train"
    last = tree(root, {"a": 40, "b": 30, "c": 20})
    if layout == "train and test": last = tree(tmp_path / "test", {"c": 5, "b": 7}, last)
    images = load_images("folder", tmp_path, val_fraction=0.2, in_memory=in_memory)
    parts = [numbers(p) for p in (images.train, images.val, images.test)]
    assert sorted(sum(parts, [])) == list(range(last))
    assert images.classes == ("a", "b", "c") and type(images.train).__name__ == ("TensorImages" if in_memory else "FileImages")
    truth = [0] * 40 + [1] * 30 + [2] * 20 + [2] * 5 + [1] * 7
    for part, found in zip((images.train, images.val, images.test), parts): assert part.y.tolist() == [truth[i] for i in found]
    if layout == "train and test": assert parts[2] == [95, 96, 97, 98, 99, 100, 101, 90, 91, 92, 93, 94]   # sorted by class
    else: assert [len(p) for p in parts] == [58, 14, 18]      # test 8 + 6 + 4; of the other 32 + 24 + 16, val 6 + 5 + 3
    assert images.pool is images.train


# ---- statistics ----

def test_channel_stats_are_numpys(tmp_path):
    a = np.random.default_rng(1).integers(0, 256, (50, 3, 9, 9), np.uint8)
    a[:, 1] //= 3
    mean, std = _channel_stats(TensorImages(torch.from_numpy(a), torch.zeros(50)))
    assert np.allclose(mean, (a / 255).mean((0, 2, 3)), atol=5.1e-5) and np.allclose(std, (a / 255).std((0, 2, 3)), atol=5.1e-5)
    for i, x in enumerate(a): Image.fromarray(x.transpose(1, 2, 0)).save(tmp_path / f"{i:02}.png")
    files = FileImages(find_images(tmp_path), torch.zeros(50), 9)
    assert _channel_stats(files) == (mean, std)
    some = _channel_stats(files, sample=20)
    assert some == _channel_stats(files, sample=20) != (mean, std) and np.allclose(some[0], mean, atol=0.03)


def test_statistics_see_the_training_part_alone(tmp_path):
    tree(tmp_path / "train", {"a": 30}); tree(tmp_path / "test", {"a": 10}, 200)
    images = load_images("folder", tmp_path)
    assert images.mean[0] == pytest.approx(np.mean(numbers(images.train)) / 255, abs=5.1e-5)


# ---- folders ----

def test_find_images(tmp_path):
    for name in ("b.PNG", "a.jpeg", "deep/er/c.tiff", ".hidden.png", ".cache/d.png", "deep/.x/e.png", "notes.txt", "png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True); (tmp_path / name).write_bytes(b"")
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)] == ["a.jpeg", "b.PNG", "deep/er/c.tiff"]
    hidden_above = tmp_path / ".cache"
    assert [p.name for p in find_images(hidden_above)] == ["d.png"] and len(find_images(str(tmp_path))) == 3
    with pytest.raises(FileNotFoundError, match="no folder"): find_images(tmp_path / "b.PNG")


@pytest.mark.parametrize("where", ["", "train"])
def test_flat_folder_has_no_labels(tmp_path, where):
    for i in range(6): picture(tmp_path / where / f"{i}.png", i)
    if where: [picture(tmp_path / "test" / f"{i}.png", 100 + i) for i in range(2)]
    images = load_images("folder", tmp_path)
    assert (len(images.train), len(images.val), len(images.test), images.classes) == (6, 0, 2 if where else 0, ())
    assert set(images.train.y.tolist()) == {-1} and numbers(images.pool) == list(range(6))


def test_order_on_disk_has_no_part(tmp_path):
    tree(tmp_path / "one", {"a": 12, "b": 12})
    for p in reversed(find_images(tmp_path / "one")): picture(tmp_path / "two" / p.parent.name / p.name, int(decode_image(p)[0, 0, 0]))
    one, two = (load_images("folder", tmp_path / name) for name in ("one", "two"))
    for part in ("train", "val", "test"): assert numbers(getattr(one, part)) == numbers(getattr(two, part))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path)); tree(tmp_path / "pets", {"a": 4})
    assert len(load_images("folder", "~/pets").train) == 3


def test_mixed_sizes_and_modes_with_an_image_size(tmp_path):
    for i, (size, mode) in enumerate([((8, 9), "L"), ((40, 20), "RGB"), ((3, 3), "LA"), ((16, 16), "P")]): picture(tmp_path / f"a/{i}.png", i, size, mode)
    images = load_images("folder", tmp_path, image_size=16)
    assert sorted(numbers(images.train) + numbers(images.test)) == [0, 1, 2, 3] and images.image_size == 16 and images.channels == 3


FOLDER_FAULTS = {                                             # files (a name with / at the end is a folder), arguments, error, what it says
    "wrong root": ({}, dict(root="nowhere"), FileNotFoundError, "no folder .*nowhere"),
    "root is a file": ({"x.png": 1}, dict(root="x.png"), FileNotFoundError, "no folder .*x.png"),
    "empty": ({}, {}, ValueError, r"no images in .*looked for .bmp"),
    "text only": ({"a/notes.txt": None}, {}, ValueError, "no images in .*a: fill or remove"),
    "empty class": ({"a/x.png": 1, "a/y.png": 2, "b/": None, "c/": None}, {}, ValueError, "no images in .*b, .*c: fill or remove"),
    "one image": ({"a/x.png": 1}, {}, ValueError, "1 training image in"),
    "one left by the split": ({"a/x.png": 1, "a/y.png": 2}, dict(val_fraction=0.9), ValueError, "1 training image in"),
    "sizes": ({"a/x.png": 1, "a/y.png": (9, 9)}, {}, ValueError, r"8×8 \(x.png\), 9×9 \(y.png\): pass image_size="),
    "oblong": ({"a/x.png": (9, 8), "a/y.png": (9, 8)}, {}, ValueError, r"images of 9×8 \([xy].png\): pass image_size="),
    "test class": ({"train/a/x.png": 1, "train/a/y.png": 2, "test/b/z.png": 3}, {}, ValueError, "b in .*test: its classes must be among"),
    "test without labels": ({"train/a/x.png": 1, "train/a/y.png": 2, "test/z.png": 3}, {}, ValueError, "no labels in .*test"),
    "test with labels": ({"train/x.png": 1, "train/y.png": 2, "test/b/z.png": 3}, {}, ValueError, "b in .*test"),
    "empty test": ({"train/a/x.png": 1, "train/a/y.png": 2, "test/": None}, {}, ValueError, "no images in .*test"),
    "val": ({"train/a/x.png": 1, "train/a/y.png": 2, "val/a/z.png": 3}, {}, ValueError, "val beside train in .*only train and test are read"),
    "zero bytes": ({"a/x.png": 1, "a/y.png": b""}, {}, ValueError, "cannot read the image .*y.png"),
    "zero bytes, sized": ({"a/x.png": 1, "a/y.png": b""}, dict(image_size=8), ValueError, "cannot read the image .*y.png"),
    "no root": ({}, dict(root=None), ValueError, "needs root="),
    "small": ({"a/x.png": 1, "a/y.png": 2}, dict(image_size=7), ValueError, "image_size=7 must be .* at least 8"),
    "half a pixel": ({"a/x.png": 1, "a/y.png": 2}, dict(image_size=8.5), ValueError, "image_size=8.5 must be a whole number"),
    "size in words": ({"a/x.png": 1, "a/y.png": 2}, dict(image_size="8"), ValueError, "image_size='8' must be a whole number"),
    "fraction": ({"a/x.png": 1, "a/y.png": 2}, dict(val_fraction=1.0), ValueError, "val_fraction=1.0 must be .*at least 0 and below 1"),
    "fraction in words": ({"a/x.png": 1, "a/y.png": 2}, dict(val_fraction="0.1"), ValueError, "val_fraction='0.1' must be a number"),
}

@pytest.mark.parametrize("case", FOLDER_FAULTS)
def test_folder_faults(tmp_path, case):
    files, arguments, error, message = FOLDER_FAULTS[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"): (tmp_path / name).mkdir()
        elif isinstance(content, bytes) or content is None: (tmp_path / name).write_bytes(content or b"hello")
        else: picture(tmp_path / name, content if isinstance(content, int) else 0, content if isinstance(content, tuple) else (8, 8))
    root = arguments.pop("root", "") if "root" in arguments else ""
    with pytest.raises(error, match=message): load_images("folder", root if root is None else tmp_path / root, **arguments)


@pytest.mark.parametrize("name", ["mnist", "CIFAR10", "", "folder "])
def test_unknown_names(name):
    with pytest.raises(ValueError) as e: load_images(name)
    assert all(known in str(e.value) for known in DATASETS)


# ---- torchvision, faked ----

class Fake:
    "Stands in for a torchvision data set: numbered pictures, the layout of the real one's `data`."
    def __init__(self, root, layout, n, classes, asked):
        assert asked["download"] is True
        generator = np.random.default_rng(n)
        self.data = generator.integers(0, 256, (n, *layout), np.uint8)
        self.classes, self.y = classes, [i % len(classes) for i in range(n)]


def fake(monkeypatch):
    made = {}
    def cifar(name, k):
        def make(root, train=True, **asked):
            d = Fake(root, (32, 32, 3), 200 if train else 100, [f"c{i}" for i in range(k)], asked); d.targets = d.y; made[name, train] = d; return d
        return make
    def fashion(root, train=True, **asked):
        d = Fake(root, (28, 28), 200 if train else 100, [f"c{i}" for i in range(10)], asked)
        d.data, d.targets = torch.from_numpy(d.data), torch.tensor(d.y); made["fashion_mnist", train] = d; return d
    def stl(root, split="train", **asked):
        d = Fake(root, (3, 96, 96), dict(train=60, test=40, unlabeled=30)[split], [f"c{i}" for i in range(10)], asked)
        d.labels = np.array(d.y) if split != "unlabeled" else np.full(30, -1); made["stl10", split] = d; return d
    for name, make in dict(CIFAR10=cifar("cifar10", 10), CIFAR100=cifar("cifar100", 100), FashionMNIST=fashion, STL10=stl).items():
        monkeypatch.setattr(torchvision.datasets, name, make)
    return made


@pytest.mark.parametrize("name, shape, classes, sizes", [
    ("cifar10", (3, 32, 32), 10, (180, 20, 100)), ("cifar100", (3, 32, 32), 100, (200, 0, 100)),
    ("fashion_mnist", (1, 28, 28), 10, (180, 20, 100)), ("stl10", (3, 96, 96), 10, (50, 10, 40))])
def test_torchvision_sets(monkeypatch, tmp_path, name, shape, classes, sizes):
    made = fake(monkeypatch)
    images = load_images(name, tmp_path)
    assert tuple(images.train.x.shape[1:]) == shape and len(images.classes) == classes and isinstance(images.classes, tuple)
    assert (len(images.train), len(images.val), len(images.test)) == sizes and len(images.mean) == shape[0]
    assert images.test.x.dtype == torch.uint8 and images.test.y.dtype == torch.int64
    source = made[name, "test" if name == "stl10" else False]
    for n, c, h, w in ((0, 0, 0, 5), (7, shape[0] - 1, 3, 1), (39, 0, 20, 27)):          # the pixel, by its own axes
        at = (n, c, h, w) if name == "stl10" else (n, h, w) if name == "fashion_mnist" else (n, h, w, c)
        assert images.test.x[n, c, h, w] == int(source.data[at]) and images.test.y[n] == n % classes
    assert load_images(name, tmp_path, image_size=16).image_size == 16


def test_stl10_pool_is_train_and_unlabelled(monkeypatch, tmp_path):
    fake(monkeypatch)
    images = load_images("stl10", tmp_path, image_size=32)
    assert len(images.pool) == 50 + 30 and torch.equal(images.pool.x[:50], images.train.x) and set(images.pool.y[50:].tolist()) == {-1}
    pool = {x.numpy().tobytes() for x in images.pool.x}
    assert not pool & {x.numpy().tobytes() for part in (images.val, images.test) for x in part.x}
    assert len(images.to("cpu").pool) == 80


@pytest.mark.parametrize("error", [URLError("no route to host"), OSError("disk full"), RuntimeError("File not found or corrupted."), PermissionError("denied")])
@pytest.mark.parametrize("name, class_name", [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("fashion_mnist", "FashionMNIST"), ("stl10", "STL10")])
def test_failed_download_says_what_to_do(monkeypatch, tmp_path, name, class_name, error):
    def fail(*args, **kwargs): raise error
    monkeypatch.setattr(torchvision.datasets, class_name, fail)
    with pytest.raises(ConnectionError) as e: load_images(name, tmp_path)
    text = str(e.value)
    assert f"cannot get {name} into {tmp_path}" in text and str(error) in text and "Put its files there" in text and "digits" in text


def test_the_fakes_take_what_torchvision_takes():
    for name in ("CIFAR10", "CIFAR100", "FashionMNIST"): assert {"root", "train", "download"} <= set(inspect.signature(getattr(torchvision.datasets, name)).parameters)
    assert {"root", "split", "download"} <= set(inspect.signature(torchvision.datasets.STL10).parameters)
    assert {"train", "test", "unlabeled"} <= set(torchvision.datasets.STL10.splits)
