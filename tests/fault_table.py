"""Inputs by table: what a picture, a name, a folder or a tar file can be, and what each way into the library must make of it.

Shared by tests/test_inputs.py and bench/faults.py. Each input has one expected outcome: the right pixels, by an oracle that does not share
the library's code (a PNG encoder of our own, NumPy), or an error of a known kind that names the file. All else is a crash or silently wrong.
"""
import io
import os
import re
import signal
import struct
import tarfile
import zlib
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from simclr.album import decode_image, find_images, printable, tar_images
from simclr.batches import image_loader
from simclr.data import FileImages, load_images

KINDS = (ValueError, OSError)       # what an error may be
SECONDS, MEGABYTES = 20, 150        # more than this is a crash: it hangs, or eats memory


class Hang(BaseException): pass
class Wrong(AssertionError): pass


@contextmanager
def watched():
    "Stops what takes too long, and measures what takes too much memory."
    def stop(*_): raise Hang(f"more than {SECONDS} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    held = peak(reset=True)
    try: yield
    finally: signal.setitimer(signal.ITIMER_REAL, 0); signal.signal(signal.SIGALRM, before)
    if held is not None and (more := peak() - held) > MEGABYTES: raise Hang(f"{more:.0f} MB")


def peak(reset=False):
    "The most memory that this process ever held, or since the reset, in MB; None where the system does not say."
    try:
        if reset: Path("/proc/self/clear_refs").write_text("5")
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
    except OSError: return None


def judge(call, check=None, words=None):
    """'right', or 'crash: …' or 'wrong: …'. `check` looks at what the call returns and raises Wrong; None: the call has to fail.
    `words` must all stand in an error of an allowed kind; None: the call must not fail. With both, either will do."""
    try:
        with watched(): got = call()
    except KINDS as e:
        if words is not None and all(w in str(e) for w in words): return "right"
        return f"crash: {type(e).__name__}: {e}"
    except (Exception, Hang, SystemExit) as e: return f"crash: {type(e).__name__}: {e}"
    if check is None: return f"wrong: accepted; expected an error about {words}"
    try: check(got)
    except Wrong as e: return f"wrong: {e}"
    return "right"


def pixels(expected, tolerance=0):
    "A check that a tensor (C, H, W) shows an array (H, W, 3) or (H, W)."
    def check(x):
        if x.dtype != torch.uint8: raise Wrong(f"{x.dtype}")
        got, want = x.permute(1, 2, 0).numpy().astype(int), np.atleast_3d(expected).astype(int)
        if got.shape[:2] != want.shape[:2]: raise Wrong(f"shape {got.shape}, expected {want.shape}")
        if np.abs(got - want).max() > tolerance: raise Wrong(f"off by {np.abs(got - want).max()} levels, tolerance {tolerance}")
    return check


# ---- pictures

def chunk(kind, data=b""): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, values, *extra):
    "A PNG file by the specification, of samples (H, W·samples), packed to `depth` bits."
    rows = []
    for row in np.asarray(values).reshape(height, -1):
        if depth == 16: rows.append(row.astype(">u2").tobytes())
        elif depth == 8: rows.append(row.astype("u1").tobytes())
        else: rows.append(np.packbits(((row[:, None] >> np.arange(depth)[::-1]) & 1).astype("u1").ravel()).tobytes())
    data = zlib.compress(b"".join(b"\0" + r for r in rows))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + b"".join(extra)
            + chunk(b"IDAT", data) + chunk(b"IEND"))


def encoded(im, kind, **options):
    im.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def on_white(colour, alpha):
    "Colour (H, W, 3) of opacity alpha (H, W, 1), 0 to 255, on white paper."
    return np.round(colour * (alpha / 255) + 255 * (1 - alpha / 255))


def png_inputs(rng, w=9, h=7):
    "Every colour type and depth of the PNG specification, with and without its transparency."
    for colour, depths, samples in ((0, (1, 2, 4, 8, 16), 1), (2, (8, 16), 3), (3, (1, 2, 4, 8), 1), (4, (8, 16), 2), (6, (8, 16), 4)):
        for depth in depths:
            top = 2**depth - 1
            v = rng.integers(0, top + 1, (h, w, samples))
            to8 = (lambda a: a >> 8) if depth == 16 else (lambda a, top=top: a * 255 // top)
            name = f"png {('grey', '', 'RGB', 'palette', 'grey and alpha', '', 'RGBA')[colour]} {depth} bit"
            if colour == 3:
                palette, alpha = rng.integers(0, 256, (top + 1, 3)), rng.integers(0, 256, top + 1)
                plte, trns = chunk(b"PLTE", palette.astype("u1").tobytes()), chunk(b"tRNS", alpha.astype("u1").tobytes())
                yield "palette", name, "png", png(w, h, depth, 3, v, plte), palette[v[..., 0]], 0
                yield "palette", name + ", transparent", "png", png(w, h, depth, 3, v, plte, trns), on_white(palette[v[..., 0]], alpha[v]), 1
                continue
            kind = "16-bit" if depth == 16 else "ordinary"
            if colour in (0, 2):
                key = v[h // 2, w // 2].copy()
                trns = chunk(b"tRNS", key.astype(">u2").tobytes())
                clear = (v == key).all(-1, keepdims=True)
                yield kind, name, "png", png(w, h, depth, colour, v), np.broadcast_to(to8(v), (h, w, 3)), 0
                name, data, right = name + ", one level transparent", png(w, h, depth, colour, v, trns), np.where(clear, 255, np.broadcast_to(to8(v), (h, w, 3)))
                yield kind, name, "png", data, *(("16-bit colour", None) if (colour, depth) == (2, 16) else (right, 0))
            else: yield kind, name, "png", png(w, h, depth, colour, v), on_white(np.broadcast_to(to8(v[..., :-1]), (h, w, 3)), to8(v[..., -1:])), 1


def smooth(rng, w=16, h=16):
    "A picture that JPEG keeps to some levels."
    return np.array(Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8)).resize((w, h), Image.Resampling.BICUBIC))


def ordinary(rng):
    "One picture in each format: name, suffix, bytes, pixels, tolerance."
    a, im = smooth(rng), None
    im = Image.fromarray(a)
    few = np.array(im.quantize(32).convert("RGB"))
    yield "jpeg", "jpg", encoded(im, "jpeg", quality=95, subsampling=0), a, 8
    yield "jpeg, progressive", "jpeg", encoded(im, "jpeg", quality=95, subsampling=0, progressive=True), a, 8
    yield "png", "png", encoded(im, "png"), a, 0
    yield "bmp", "bmp", encoded(im, "bmp"), a, 0
    yield "gif", "gif", encoded(Image.fromarray(few), "gif"), few, 0
    yield "webp", "webp", encoded(im, "webp", lossless=True), a, 0
    yield "tiff", "tif", encoded(im, "tiff"), a, 0
    yield "tiff, lzw", "tiff", encoded(im, "tiff", compression="tiff_lzw"), a, 0
    yield "ppm", "ppm", encoded(im, "ppm"), a, 0


def pictures(seed=0):
    "Inputs (kind, name, suffix, bytes, expected): expected is pixels with their tolerance, or the error's words."
    rng = np.random.default_rng(seed)
    for kind, name, suffix, data, expected, tolerance in png_inputs(rng): yield kind, name, suffix, data, expected if tolerance is None else (expected, tolerance)
    for name, suffix, data, expected, tolerance in ordinary(rng): yield "ordinary", name, suffix, data, (expected, tolerance)
    for level in (0, 77, 255):
        flat = np.full((8, 8, 3), level, np.uint8)
        for suffix in ("png", "jpeg", "gif", "webp"): yield "constant", f"{suffix} of level {level}", suffix, encoded(Image.fromarray(flat), suffix), (flat, 1)
    for suffix in ("png", "jpeg", "gif", "bmp", "tiff", "ppm", "webp"):
        one = np.array([[[200, 200, 200]]], np.uint8)
        yield "one pixel", suffix, suffix, encoded(Image.fromarray(one), suffix), (one, 3)
    yield "one pixel", "1 × 3,000", "png", encoded(Image.new("L", (1, 3000), 9), "png"), (np.full((3000, 1, 3), 9), 0)
    yield "one pixel", "3,000 × 1", "png", encoded(Image.new("L", (3000, 1), 9), "png"), (np.full((1, 3000, 3), 9), 0)
    grey = rng.integers(0, 65536, (5, 6)).astype(np.uint16)
    high = np.repeat((grey >> 8)[..., None], 3, 2)
    yield "16-bit", "tiff", "tif", encoded(Image.fromarray(grey), "tiff"), (high, 0)
    yield "16-bit", "pgm", "pgm", b"P5 6 5 65535\n" + grey.astype(">u2").tobytes(), (high, 0)
    yield "16-bit", "tiff of 32 bits, 16 used", "tif", encoded(Image.fromarray(grey.astype(np.int32)), "tiff"), (high, 0)
    yield "16-bit", "tiff of 32 bits, all used", "tif", encoded(Image.fromarray(grey.astype(np.int32) * 4), "tiff"), "beyond 16 bits"
    yield "16-bit", "tiff below zero", "tif", encoded(Image.fromarray(grey.astype(np.int32) - 9999), "tiff"), "beyond 16 bits"
    for values in (np.nan, np.inf, 0.5): yield "NaN", f"tiff of floats, {values}", "tif", encoded(Image.fromarray(np.full((4, 4), values, np.float32)), "tiff"), "no fixed range"
    a = smooth(rng)
    im = Image.fromarray(a)
    yield "CMYK", "jpeg", "jpg", encoded(im.convert("CMYK"), "jpeg", quality=95), (a, 10)
    yield "CMYK", "tiff", "tif", encoded(im.convert("CMYK"), "tiff"), (a, 0)
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 120, 250)]
    first = np.full((8, 8, 3), 10)
    for kind, suffix in (("gif", "gif"), ("png", "png"), ("webp", "webp"), ("tiff", "tif")):
        more = dict(lossless=True) if kind == "webp" else {}
        yield "animated", kind, suffix, encoded(frames[0], kind, save_all=True, append_images=frames[1:], **more), (first, 0)
    yield "animated", "gif of 300 frames", "gif", encoded(frames[0], "gif", save_all=True, append_images=frames[1:] * 150), (first, 0)
    clear = Image.new("P", (4, 4)); clear.putpalette([0, 0, 0, 90, 90, 90]); clear.putpixel((1, 1), 1)
    half = np.full((4, 4, 3), 255); half[1, 1] = 90
    yield "palette", "gif, transparent", "gif", encoded(clear, "gif", transparency=0), (half, 0)
    for number, turn in ((3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)):
        note = Image.Exif(); note[0x0112] = number
        small = rng.integers(0, 256, (2, 3, 3), np.uint8)
        for kind in ("png", "tiff", "webp"):
            more = dict(lossless=True) if kind == "webp" else {}
            yield "turned", f"{kind}, note {number}", kind, encoded(Image.fromarray(small), kind, exif=note, **more), (turn(small), 0)
    yield from not_pictures(rng)


def not_pictures(rng):
    "Files that hold no picture, or one that is too large to be meant well."
    yield "zero bytes", "empty", "png", b"", "cannot identify"
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch ran) (w) file\nshowpage\n%%EOF\n"
    for name, data in {"html": b"<html>404</html>", "text": b"hello", "postscript": postscript, "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
                       "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "zip": b"PK\x03\x04" + bytes(60), "zeros": bytes(5000), "pdf": b"%PDF-1.7\n",
                       "noise": rng.bytes(3000), "shell": b"#!/bin/sh\ntouch ran\n"}.items(): yield "no picture", name, "jpg", data, "cannot identify"
    ihdr = lambda w, h: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 1, 0, 0, 0, 0))
    large = zlib.compressobj(9)
    rows = b"".join(large.compress(bytes(2501 * 1000)) for _ in range(20)) + large.flush()
    yield "20,000 × 20,000", "png, valid, 1 bit", "png", ihdr(20_000, 20_000) + chunk(b"IDAT", rows) + chunk(b"IEND"), "exceeds limit"
    yield "20,000 × 20,000", "png, header only", "png", ihdr(20_000, 20_000) + chunk(b"IDAT", b"") + chunk(b"IEND"), "exceeds limit"
    yield "20,000 × 20,000", "png of 2³¹ - 1", "png", ihdr(2**31 - 1, 2**31 - 1) + chunk(b"IEND"), "exceeds limit"
    yield "20,000 × 20,000", "ppm", "ppm", b"P6 20000 20000 255\n", "exceeds limit"
    yield "20,000 × 20,000", "pgm, plain", "pgm", b"P2 20000 20000 255\n0 0", "exceeds limit"
    yield "20,000 × 20,000", "gif", "gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b",\0\0\0\0\x08\0\x08\0\0\x02\0;", "exceeds limit"
    yield "20,000 × 20,000", "bmp", "bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0), "exceeds limit"
    tags = [(256, 4, 1, 20_000), (257, 4, 1, 20_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 20_000), (279, 4, 1, 8)]
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)
    yield "20,000 × 20,000", "tiff", "tif", b"II*\0" + struct.pack("<I", 8) + ifd, "exceeds limit"
    jpeg = encoded(Image.new("L", (8, 8)), "jpeg")
    at = jpeg.index(b"\xff\xc0") + 5
    yield "20,000 × 20,000", "jpeg", "jpg", jpeg[:at] + struct.pack(">HH", 20_000, 20_000) + jpeg[at + 4:], "exceeds limit"
    yield "20,000 × 20,000", "webp of 16,000", "webp", encoded(Image.new("L", (1, 1)), "webp", lossless=True)[:21] + struct.pack("<I", 15_999 | 15_999 << 14) + bytes(20), ""
    at_limit = ihdr(10_000, 8_948) + chunk(b"IDAT", b"") + chunk(b"IEND")
    yield "20,000 × 20,000", "png, the limit and a row", "png", at_limit, "over Pillow's limit"
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20), 9))
    yield "corrupted", "png with 100 MB of compressed text", "png", png(2, 2, 8, 0, np.zeros((2, 2), int), bomb), ""


def truncated(rng, cuts=12):
    "Each format, cut short: the whole picture or an error, never half of one. (name, suffix, bytes, pixels, tolerance)"
    for name, suffix, data, expected, tolerance in ordinary(rng):
        for at in sorted({*rng.integers(1, len(data), cuts).tolist(), len(data) - 1, len(data) - 2, len(data) // 2}):
            yield f"{name}, {at} of {len(data)} bytes", suffix, data[:at], expected, tolerance


def flipped(rng, times=12, bits=3):
    """Each format, with some bits flipped. (name, suffix, bytes, expected): a PNG has checksums, and is whole or refused; the others have none,
    so that nobody can tell."""
    for name, suffix, data, a, tolerance in ordinary(rng):
        for k in range(times):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 1 + rng.integers(bits)): damaged[at] ^= 1 << rng.integers(8)
            yield f"{name}, flip {k}", suffix, bytes(damaged), (a, tolerance, "or error") if suffix == "png" else None


def plausible(path):
    "A damaged file has no right pixels; what is returned must be what Pillow alone makes of it, twice the same, of the size in its header."
    def check(x):
        again = decode_image(path)
        if not torch.equal(x, again): raise Wrong("two readings differ")
        with Image.open(path) as im:
            if im.mode in ("L", "RGB", "CMYK", "1") and not {"exif", "transparency"} & set(im.info) and not im.getexif():
                return pixels(np.array(im.convert("RGB")))(x)
            sizes = im.size, im.size[::-1]
        if tuple(x.shape[:0:-1]) not in sizes: raise Wrong(f"{tuple(x.shape)} of a file of {sizes[0]}")
    return check


def put(folder, name, data):
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def good(level=50, size=8): return encoded(Image.new("L", (size, size), level), "png")


def entries(path, workers, encoder):
    """Each way in for one picture file: name, call, and what to do to the expected pixels first. All of the last four read it beside three
    good pictures, in a folder."""
    folder, size = path.parent, 8
    fit = lambda a: np.array(ImageOps.fit(Image.fromarray(np.asarray(a).astype(np.uint8)), (size, size), Image.Resampling.BILINEAR))
    grey = lambda a: np.array(ImageOps.fit(Image.fromarray(np.asarray(a).astype(np.uint8)).convert("L"), (size, size), Image.Resampling.BILINEAR))
    def in_a_tar():
        tar = folder.with_suffix(".tar")
        with tarfile.open(tar, "w") as f: f.add(path, "a/" + path.name)
        (member, name), = tar_images(tar)
        if name != "a": raise Wrong(f"class {name}")
        return decode_image(member)
    def loader():
        (x, y), = image_loader(FileImages([path], torch.tensor([7]), size), 4, workers=workers)
        if y.tolist() != [7]: raise Wrong(f"label {y}")
        return x[0]
    def folder_of():
        images = load_images("folder", folder, image_size=size, val_fraction=0)
        if len(images.train) != 4 or not torch.isfinite(torch.tensor([*images.mean, *images.std])).all() or min(images.std) <= 0: raise Wrong(f"{images}")
        return images.train.x[[p.name for p in find_images(folder)].index(path.name)]
    def features():
        from simclr.evaluate import embed_folder
        with np.load(embed_folder(str(encoder), str(folder), str(folder.with_suffix(".npz")))) as out:
            if [Path(p).name for p in out["paths"]] != [p.name for p in find_images(folder)]: raise Wrong("other paths")
            if not np.isfinite(out["h"]).all() or len(out["h"]) != 4: raise Wrong("features are not finite")
        return None
    same = lambda a: a
    return {"decode_image": (lambda: decode_image(path), same), "decode_image, 8 × 8": (lambda: decode_image(path, size), fit),
            "decode_image, grey": (lambda: decode_image(path, size, channels=1), grey), "tar": (in_a_tar, same),
            f"image_loader, {workers} workers": (loader, fit), "load_images": (folder_of, fit), "embed_folder": (features, None)}


def try_pictures(folder, encoder, seed=0, workers=0, cuts=3, flips=3, kinds=None, only=""):
    "Yields (kind, input, entry, verdict) of every picture at every entry."
    rng = np.random.default_rng(seed)
    inputs = [(kind, name, suffix, data, expected) for kind, name, suffix, data, expected in pictures(seed)]
    inputs += [("corrupted", "cut: " + name, suffix, data, (pixels_, tolerance, "or error")) for name, suffix, data, pixels_, tolerance in truncated(rng, cuts)]
    inputs += [("corrupted", *row) for row in flipped(rng, flips)]
    for number, (kind, name, suffix, data, expected) in enumerate(inputs):
        if kinds and kind not in kinds: continue
        path = put(folder / f"{number:04}", f"m.{suffix}", data)
        for i in range(3): put(path.parent, f"n{i}.png", good(60 * i))
        for entry, (call, change) in entries(path, workers, encoder).items():
            if entry.startswith(only): yield kind, name, entry, judge(call, *expectation(path, expected, entry, change))


def expectation(path, expected, entry, change):
    "check and words for `judge`: of pixels, of an error's words, of pixels or an error, or (None) of a damaged file."
    if isinstance(expected, str): return None, (path.name, expected)
    words = (path.name,) if expected is None or len(expected) > 2 else None
    if expected is None: return plausible(path) if entry == "decode_image" else anything, words
    if change is None: return anything, words                        # its own call has looked
    return pixels(change(expected[0]), expected[1] + (entry not in ("decode_image", "tar"))), words     # resizing rounds once more


def anything(_): pass


# ---- names

NAMES = ["line\nbreak.png", "return\r.png", "tab\t.png", "quote'\".png", "<img src=x onerror=alert(1)>.png", "-rf.png", "--help.png", "%00.png", "%2e%2e%2f.png",
         "a" * 251 + ".png", "ж" * 125 + ".png", "Grüße 猫 🐈.png", b"\xff\xfe.png", b"caf\xe9.PNG", " space .png", "back\\slash.png", "\x1b[31mred.png",
         "\u202egnp.exe.png", "e\u0301.png", "*.png", "$(touch ran).png", "`touch ran`.png", "; touch ran.png", "a.tar.png", "~.png", "None.png", "0.png", "x.JpEg",
         "..png", "{0}.png", "%s%n.png", "\x7f.png", "\u2028.png", "con.png", "a:b.png", "&amp;.png"]


def try_names(folder, encoder, workers=0, embed_every=1):
    "Every hostile name, as a picture's and as a class's: found, decoded, loaded, embedded; and named in one line where the file is broken."
    for number, name in enumerate(NAMES):
        text, hidden = os.fsdecode(name), os.fsdecode(name).startswith(".")
        root = folder / f"name{number}"
        path = put(root / "pictures", name, good(50))
        for i in range(3): put(path.parent, f"zz{i}.png", good(100 + i))
        shown = ascii(text)[1:-1]
        def listed(found, path=path, hidden=hidden):
            if (path in found) == hidden or len(found) != 4 - hidden: raise Wrong(f"found {found}")
        yield "name", shown, "find_images", judge(lambda: find_images(path.parent), listed)
        yield "name", shown, "decode_image", judge(lambda: decode_image(path), pixels(np.full((8, 8, 3), 50)))
        def loaded(images, hidden=hidden):
            if sorted(images.train.x[:, 0, 0, 0].tolist()) != [50] * (not hidden) + [100, 101, 102]: raise Wrong("other pictures")
        yield "name", shown, "load_images", judge(lambda: load_images("folder", path.parent, val_fraction=0), loaded)
        yield "name", shown, f"image_loader, {workers} workers", judge(
            lambda: next(iter(image_loader(FileImages([path], torch.zeros(1), 8), 1, workers=workers)))[0][0], pixels(np.full((8, 8, 3), 50)))
        if number % embed_every == 0: yield "name", shown, "embed", judge(lambda: embed_command(encoder, path.parent, folder / "h.npz"), saved_paths(folder / "h.npz", path, hidden))
        classes = root / "classes"
        for k, c in enumerate((name, "zz")):
            for i in range(3): put(classes / os.fsdecode(c), f"{i}.png", good(10 * k))
        def classed(images, text=text, hidden=hidden):
            if set(images.classes) != {"zz"} | ({text} if not hidden else set()): raise Wrong(f"{images.classes}")
            if any((x[0, 0, 0] == 10) != (images.classes[y] == "zz") for x, y in zip(*images.train[:])): raise Wrong("labels")
        yield "name", shown, "load_images, of a class", judge(lambda: load_images("folder", classes), classed)
        path.write_bytes(b"broken")
        if hidden or number % embed_every: continue
        def one_line(message, path=path):
            if len(message.splitlines()) != 1 or printable(path) not in message or "\x1b" in message: raise Wrong(f"{message!r}")
        yield "name", shown, "embed, broken", judge(lambda: embed_command(encoder, path.parent, folder / "h.npz", 2), one_line)


def embed_command(encoder, images, out, code=0):
    "`simclr embed` in this process; what it wrote to stderr."
    from simclr.cli import main
    with redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()):
        try: main(["embed", str(encoder), "--images", os.fspath(images), "--out", str(out)])
        except SystemExit as e:
            if e.code != code or not code: raise ValueError(f"exit code {e.code}: {err.getvalue()}") from e
            return err.getvalue().rstrip("\n")
    if code: raise Wrong("exit code 0")
    return err.getvalue()


def saved_paths(out, path, hidden):
    def check(_):
        with np.load(out) as saved:
            if (str(path) in saved["paths"].tolist()) == hidden or len(saved["h"]) != 4 - hidden or not np.isfinite(saved["h"]).all(): raise Wrong("other paths")
    return check


# ---- folders

def trees(classes=3000):
    "Folders: name, function that fills one, expected: levels of the pictures by class, or the words of an error."
    def fill(root, **files):
        for name, data in files.items(): put(root, name.replace("__", "/"), data)
    def case(name, expected):
        def add(make): found.append((name, make, expected)); return make
        return add
    found, p = [], {f"a__{i}.png": good(i) for i in range(4)}

    @case("one class", {"a": [0, 1, 2, 3]})
    def _(root): fill(root, **p)
    @case("no class", {None: [0, 1, 2]})
    def _(root): [put(root, f"{i}.png", good(i)) for i in range(3)]
    @case("empty", "no images in")
    def _(root): root.mkdir()
    @case("missing", "no folder")
    def _(root): pass
    @case("a file", "no folder")
    def _(root): put(root.parent, root.name, good())
    @case("a fifo for a folder", "no folder")
    def _(root): os.mkfifo(root)
    @case("one picture", "1 training image")
    def _(root): put(root, "x.png", good())
    @case("broken link", "gone.png")
    def _(root): fill(root, **p); (root / "a/gone.png").symlink_to("nowhere.png")
    @case("link to itself", "loop.png")
    def _(root): fill(root, **p); (root / "a/loop.png").symlink_to("loop.png")
    @case("link to a picture elsewhere", {"a": [0, 1, 2, 3, 9]})
    def _(root): fill(root, **p); put(root.parent, "elsewhere.png", good(9)); (root / "a/z.png").symlink_to("../../elsewhere.png")
    @case("link to a folder within a class is not followed", {"a": [0, 1, 2, 3]})
    def _(root): fill(root, **p); (root / "a/again").symlink_to("../a")
    @case("link to the folder above, within a class", {"a": [0, 1, 2, 3]})
    def _(root): fill(root, **p); (root / "a/up").symlink_to("..")
    @case("class that is a link to the folder itself", "is a link to a folder that is read already")
    def _(root): fill(root, **p); (root / "b").symlink_to(".")
    @case("class that is a link to another class", "is a link to a folder that is read already")
    def _(root): fill(root, **p); (root / "b").symlink_to("a")
    @case("class that is a link to the folder above", "is a link to a folder that is read already")
    def _(root): fill(root, **p); (root / "b").symlink_to("..")
    @case("class that is a link to a folder elsewhere", {"a": [0, 1, 2, 3], "b": [7, 8]})
    def _(root): fill(root, **p); [put(root.parent / "other", f"{i}.png", good(i)) for i in (7, 8)]; (root / "b").symlink_to("../other")
    @case("class that is a broken link", {"a": [0, 1, 2, 3]})
    def _(root): fill(root, **p); (root / "b").symlink_to("nowhere")
    @case("folder called x.jpg, within a class", {"a": [0, 1, 2, 3, 9]})
    def _(root): fill(root, **p); put(root / "a/x.jpg", "z.png", good(9))
    @case("empty folder called x.jpg, within a class", {"a": [0, 1, 2, 3]})
    def _(root): fill(root, **p); (root / "a/x.jpg").mkdir()
    @case("class called x.jpg", {"a": [0, 1, 2, 3], "x.jpg": [9, 9]})
    def _(root): fill(root, **p); [put(root / "x.jpg", f"{i}.png", good(9)) for i in range(2)]
    @case("link called x.jpg to a folder", "x.jpg")
    def _(root): fill(root, **p); (root / "a/x.jpg").symlink_to(".")
    @case("fifo called x.png", "x.png")
    def _(root): fill(root, **p); os.mkfifo(root / "a/x.png")
    @case("fifo called notes.txt", {"a": [0, 1, 2, 3]})
    def _(root): fill(root, **p); os.mkfifo(root / "a/notes.txt")
    @case("fifo beside classes", "beside")
    def _(root): fill(root, **p); os.mkfifo(root / "x.png")
    @case("link to a device", "zero.png")
    def _(root): fill(root, **p); (root / "a/zero.png").symlink_to("/dev/zero")
    @case("pictures beside classes", "stray.png lies beside")
    def _(root): fill(root, **p); put(root, "stray.png", good())
    @case("pictures beside train", "stray.png beside train")
    def _(root): [put(root, f"train/a/{i}.png", good(i)) for i in range(3)]; put(root, "stray.png", good())
    @case("hidden files", {"a": [0, 1, 2, 3]})
    def _(root): fill(root, **p); put(root, "a/.x.png", b""); put(root, "a/._1.png", b""); put(root, ".cache/x.png", b""); put(root, ".x.png", b"")
    @case("an empty class", "no images in")
    def _(root): fill(root, **p); (root / "b").mkdir()
    @case("500 folders deep", {"a": [0, 1, 2, 3, 9]})
    def _(root): fill(root, **p); put(root, "a/" + "d/" * 500 + "x.png", good(9))
    @case(f"{classes:,} classes of two", {f"c{k:04}": [k % 256] * 2 for k in range(classes)})
    def _(root):
        for k in range(classes):
            (root / f"c{k:04}").mkdir(parents=True)
            put(root, f"c{k:04}/a.png", good(k % 256)); os.link(root / f"c{k:04}/a.png", root / f"c{k:04}/b.png")
    @case("a name twice but for case", {"a": [1, 2]})
    def _(root): put(root, "a/x.png", good(1)); put(root, "a/X.png", good(2))
    return found


def try_trees(folder, classes=3000):
    for number, (name, make, expected) in enumerate(trees(classes)):
        root = folder / f"tree{number}" / "root"
        root.parent.mkdir(parents=True)
        make(root)
        call = lambda: load_images("folder", root, val_fraction=0)
        yield "folder", name, "load_images", judge(call, None if isinstance(expected, str) else by_class(expected), (expected,) if isinstance(expected, str) else None)
        def files():
            images = load_images("folder", root, image_size=8, val_fraction=0, in_memory=False)
            for part in (images.train, images.test): list(image_loader(part, 64))
            return images
        yield "folder", name, "load_images, in files", judge(files, None if isinstance(expected, str) else by_class(expected), (expected,) if isinstance(expected, str) else None)


def by_class(expected):
    "A check that the parts of a data set together hold these levels in these classes."
    def check(images):
        got = {}
        for part in (images.train, images.val, images.test):
            for i in range(len(part)):
                x, y = part[i]
                got.setdefault(images.classes[y] if y >= 0 else None, []).append(int(x[0, 0, 0]))
        if {c: sorted(v) for c, v in got.items()} != {c: sorted(v) for c, v in expected.items()}: raise Wrong(f"{got}"[:300])
    return check


# ---- tar files

class Type(bytes):
    "A member's type, where it is no file."


def tar_of(files):
    "Bytes of a tar file of (name, data), where data may be a `Type`."
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as tar:
        for name, data in files:
            m = tarfile.TarInfo(name)
            if isinstance(data, Type): m.type, m.linkname = data, "/etc/passwd"; data = b""
            m.size = len(data)
            tar.addfile(m, io.BytesIO(data))
    return out.getvalue()


def tars():
    "Tar files: name, {file: bytes}, expected levels by class, or the words of an error."
    p = [(f"{c}/{i}.png", good(10 * k + i)) for k, c in enumerate("ab") for i in range(3)]
    right = {"a": [0, 1, 2], "b": [10, 11, 12]}
    flat = [(f"{i}.png", good(i)) for i in range(4)]
    cls = lambda *labels: [x for i, c in enumerate(labels) for x in ((f"{i}.png", good(i)), (f"{i}.cls", c))]
    tail = lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)
    yield "folders", {"0.tar": tar_of(p)}, right
    yield "two shards", {"0.tar": tar_of(p[:2]), "1.tar": tar_of(p[2:])}, right
    yield "numbers start anew in each shard", {"0.tar": tar_of(flat), "1.tar": tar_of(flat)}, {None: [0, 1, 2, 3] * 2}
    yield "with ./", {"0.tar": tar_of([("./" + n, d) for n, d in p])}, right
    yield "folders' own entries", {"0.tar": tar_of([("a", Type(tarfile.DIRTYPE)), ("x.png", Type(tarfile.DIRTYPE)), *p])}, right
    yield "no classes", {"0.tar": tar_of(flat)}, {None: [0, 1, 2, 3]}
    yield "numbers beside", {"0.tar": tar_of(cls(b"10", b"9", b"9", b"10\n"))}, {"9": [1, 2], "10": [0, 3]}
    yield "names beside", {"0.tar": tar_of(cls(b"dog", b"cat", b"cat", "犬".encode()))}, {"cat": [1, 2], "dog": [0], "犬": [3]}
    yield "class before picture", {"0.tar": tar_of(cls(b"1", b"2")[::-1])}, {"1": [0], "2": [1]}
    yield "long names", {"0.tar": tar_of([("a/" + "n" * 240 + ".png", good(1)), ("a/" + "ж" * 200 + ".png", good(2))])}, {"a": [1, 2]}
    yield "name of bytes that are no text", {"0.tar": tar_of([(os.fsdecode(b"a/\xff.png"), good(1)), ("a/2.png", good(2))])}, {"a": [1, 2]}
    yield "other files", {"0.tar": tar_of([("a/notes.txt", b"hello"), ("a/0.json", b"{}"), *p])}, right
    yield "hidden files", {"0.tar": tar_of([("a/._0.png", b"x"), (".cache/x.png", b"x"), *p])}, right
    yield "other numbers of one shard", {"0.tar": tar_of(cls(b"3", b"5"))}, {"3": [0], "5": [1]}
    yield "hidden shard", {"0.tar": tar_of(p), "._0.tar": b"x"}, right
    yield "empty file", {"0.tar": b""}, "0.tar"
    yield "no picture", {"0.tar": tar_of([("notes.txt", b"hello")])}, "0.tar: no images"
    yield "empty archive", {"0.tar": tar_of([])}, "0.tar: no images"
    yield "text", {"0.tar": b"hello" * 300}, "0.tar"
    yield "gzip", {"0.tar": __import__("gzip").compress(tar_of(p))}, "0.tar"
    yield "cut in a picture", {"0.tar": tar_of(p)[:-10000]}, "0.tar"
    yield "cut in the last picture", {"0.tar": tar_of(p)[:512 * 11 + 30]}, "0.tar"
    yield "cut in a header", {"0.tar": tar_of(p)[:1024 + 100]}, "0.tar: cut short"
    yield "cut between pictures", {"0.tar": tar_of(p)[:1024]}, "0.tar: cut short"
    yield "end missing", {"0.tar": tail(tar_of(p))}, "0.tar: cut short"
    yield "damaged header", {"0.tar": tar_of(p)[:1024] + b"x" * 512 + tar_of(p)[1536:]}, "0.tar: cut short or damaged at byte 1024"
    yield "two archives in a row", {"0.tar": tar_of(p) + tar_of(flat)}, "0.tar: cut short or damaged"
    yield "second shard cut", {"0.tar": tar_of(p), "1.tar": tar_of(p)[:1000]}, "1.tar"
    yield "member that is no picture", {"0.tar": tar_of([*p, ("b/bad.png", b"hello")])}, "0.tar: b/bad.png"
    yield "member of zero bytes", {"0.tar": tar_of([*p, ("b/bad.png", b"")])}, "0.tar: b/bad.png"
    yield "name with a line break", {"0.tar": tar_of([*p, ("b/bad\n.png", b"")])}, "bad\\n.png"
    yield "name twice", {"0.tar": tar_of([*p, p[0]])}, "a/0.png"
    yield "name twice but for its suffix", {"0.tar": tar_of([*p, ("a/0.jpg", good())])}, "a/0.jpg"
    yield "name twice, with ./", {"0.tar": tar_of([*p, ("./a/0.png", good())])}, "a/0.png"
    yield "symbolic link", {"0.tar": tar_of([*p, ("a/link.png", Type(tarfile.SYMTYPE))])}, "a/link.png"
    yield "hard link", {"0.tar": tar_of([*p, ("a/link.png", Type(tarfile.LNKTYPE))])}, "a/link.png"
    yield "device", {"0.tar": tar_of([*p, ("a/device.png", Type(tarfile.CHRTYPE))])}, "a/device.png"
    yield "fifo", {"0.tar": tar_of([*p, ("a/fifo.png", Type(tarfile.FIFOTYPE))])}, "a/fifo.png"
    yield "link for a class", {"0.tar": tar_of([*cls(b"1"), ("1.png", good()), ("1.cls", Type(tarfile.SYMTYPE))])}, "1.cls"
    yield "path outside", {"0.tar": tar_of([*p, ("../../x.png", good())])}, "../../x.png"
    yield "path outside, later", {"0.tar": tar_of([*p, ("a/../../x.png", good())])}, "x.png"
    yield "absolute path", {"0.tar": tar_of([*p, ("/tmp/x.png", good())])}, "/tmp/x.png"
    yield "picture without class", {"0.tar": tar_of([*cls(b"1", b"2"), ("9.png", good())])}, "'9'"
    yield "class without picture", {"0.tar": tar_of([*cls(b"1", b"2"), ("9.cls", b"1")])}, "'9'"
    yield "empty class", {"0.tar": tar_of(cls(b"1", b" \n"))}, "1.cls"
    yield "classes in one shard alone", {"0.tar": tar_of(p), "1.tar": tar_of(flat)}, "some pictures"
    yield "classes beside pictures", {"0.tar": tar_of([*p, *flat])}, "some pictures"
    yield "pictures beside shards", {"0.tar": tar_of(p), "x.png": good()}, "x.png lies beside"
    yield "folders beside shards", {"0.tar": tar_of(p), "a/x.png": good()}, "a lies beside"
    yield "train and test", {"train/0.tar": tar_of(p), "test/0.tar": tar_of([("b/9.png", good(19))])}, {**right, "b": [10, 11, 12, 19]}
    yield "class of test alone", {"train/0.tar": tar_of(p), "test/0.tar": tar_of([("c/9.png", good(19))])}, "c in"


def try_tars(folder):
    for number, (name, files, expected) in enumerate(tars()):
        root = folder / f"tar{number}"
        for file, data in files.items(): put(root, file, data)
        for in_memory in (True, False):
            def call():
                images = load_images("folder", root, image_size=8, val_fraction=0, in_memory=in_memory)
                if not in_memory: [list(image_loader(part, 2)) for part in (images.train, images.test)]
                return images
            check, words = (None, (expected,)) if isinstance(expected, str) else (by_class(expected), None)
            yield "tar", name, "load_images" + ", in files" * (not in_memory), judge(call, check, words)
        if number and sorted(p.name for p in root.rglob("*") if p.is_file()) != sorted(Path(f).name for f in files): yield "tar", name, "disk", "wrong: something was unpacked"


# ---- functions

def try_functions():
    "Values that the augmentation and the loss must take or refuse."
    from simclr.augment import SimCLRAugment
    from simclr.loss import nt_xent_loss
    from simclr.data import TensorImages
    augment = SimCLRAugment(8)
    byte = lambda *shape, level=0: torch.full(shape, level, dtype=torch.uint8)
    for level in (0, 1, 128, 255):
        def flat(views, level=level):
            for v in views:
                v = v * augment.std + augment.mean
                if not v.isfinite().all() or (v.amax((2, 3)) - v.amin((2, 3))).max() > 1e-4 or v.min() < -1e-5 or v.max() > 1 + 1e-5: raise Wrong("not flat, or beyond [0, 1]")
                if level == 0 and v.abs().max() > 1e-5: raise Wrong("black is no longer black")
        for shape in ((4, 3, 8, 8), (1, 3, 8, 8), (4, 3, 1, 1), (2, 3, 1, 50), (2, 3, 50, 1), (64, 3, 5, 7)):
            yield "constant" if shape[-1] > 1 else "one pixel", f"level {level}, {shape}", "SimCLRAugment", judge(lambda: augment(byte(*shape, level=level)), flat)
    for name, x in {"NaN": torch.full((2, 3, 8, 8), torch.nan), "infinite": torch.full((2, 3, 8, 8), torch.inf), "float": torch.zeros(2, 3, 8, 8), "int16": torch.zeros(2, 3, 8, 8, dtype=torch.int16),
                    "one image": byte(3, 8, 8), "grey": byte(2, 1, 8, 8), "four channels": byte(2, 4, 8, 8)}.items():
        yield "NaN" if "NaN" in name else "shape", name, "SimCLRAugment", judge(lambda: augment(x), None, ("expected uint8" if x.shape[-3] == 3 or x.ndim == 3 and x.shape[0] != 3 else "channels",) if x.ndim == 4 and x.dtype == torch.uint8 and x.shape[1] != 3 else ("expected uint8",))
        if x.dtype != torch.uint8 or x.ndim != 4: yield "NaN" if "NaN" in name else "shape", name, "TensorImages", judge(lambda: TensorImages(x, torch.zeros(2)), None, ("expected uint8",))
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    for chunk in (None, 3):
        loss = lambda a=z, b=z.flip(0), t=0.5: nt_xent_loss(a, b, t, chunk_size=chunk)
        entry = f"nt_xent_loss, chunk_size={chunk}"
        for t in (0, 0.0, -0.5, float("nan"), float("inf"), -float("inf")): yield "temperature", f"{t}", entry, judge(lambda: loss(t=t), None, (f"temperature={t}",))
        for n in (0, 1): yield "N < 2", f"N = {n}", entry, judge(lambda: loss(z[:n], z[:n]), None, (f"N={n}",))
        for name, a in {"three axes": z[None], "one axis": z[0], "other N": z[:3], "other D": z[:, :5]}.items(): yield "shape", name, entry, judge(lambda: loss(a), None, ("expected two of the same shape",))
        for bad in (torch.nan, torch.inf):
            rows = z.clone(); rows[1, 2] = bad
            yield "NaN", f"a row with {bad}", entry, judge(lambda: loss(rows), is_nan)
        for name, a in {"equal rows": torch.ones(4, 8), "zeros": torch.zeros(4, 8), "tiny": torch.full((4, 8), 1e-8), "huge": torch.full((4, 8), 1e12)}.items():
            yield "constant", name, entry, judge(lambda: loss(a, a), near(np.log(7)))


def is_nan(loss):
    if not torch.isnan(loss): raise Wrong(f"the loss is {loss}: NaN went unnoticed")


def near(value, eps=1e-4):
    def check(x):
        if not abs(float(x) - value) < eps: raise Wrong(f"{float(x)} instead of {value}")
    return check


# ---- runs

def try_runs(folder):
    "Pre-training on folders that are hardly data sets."
    from simclr.pretrain import pretrain
    tiny = dict(dataset="folder", backbone="resnet8", width=4, image_size=8, hidden_dim=8, projection_dim=4, batch_size=4, epochs=1, warmup_epochs=0.0,
                optimizer="adamw", learning_rate=1e-3, lr_scaling_method="none", echo=False, knn_every=0, workers=0)
    def classes(**levels): return lambda root: [put(root, f"{c}/{i}.png", good(v)) for c, vs in levels.items() for i, v in enumerate(vs)]
    noise = [encoded(Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)), "png") for i in range(8)]
    def noisy(root, n=8): [put(root, f"a/{i}.png", noise[i]) for i in range(n)]
    def plus(name, data): return lambda root: (noisy(root), put(root, name, data))
    cases = [("constant", "all black, one class", classes(a=[0] * 8), {}, None), ("constant", "all white, two classes", classes(a=[255] * 6, b=[255] * 6), {}, None),
             ("constant", "a level a class", classes(a=[10] * 6, b=[200] * 6), {}, None), ("one class", "eight pictures", noisy, {}, None),
             ("batch larger than the data", "8 pictures, batch 64", noisy, dict(batch_size=64), "batch_size=64"), ("N < 2", "one picture", lambda r: noisy(r, 1), {}, "1 training image"),
             ("N < 2", "batch of one", noisy, dict(batch_size=1), "batch_size"), ("N < 2", "no picture", lambda r: r.mkdir(), {}, "no images"),
             ("corrupted", "a broken picture", plus("a/zz.png", b"broken"), {}, "zz.png"), ("zero bytes", "an empty picture", plus("a/zz.png", b""), {}, "zz.png"),
             *[("temperature", f"{t}", noisy, dict(temperature=t), "temperature") for t in (0.0, -1.0, float("nan"), float("inf"))]]
    for number, (kind, name, make, more, words) in enumerate(cases):
        root = folder / f"run{number}" / "pictures"
        root.parent.mkdir()
        make(root)
        yield kind, name, "pretrain", judge(lambda: pretrain(**tiny | more, root=str(root), run_dir=str(root.parent / "runs")), None if words else finished, (words,) if words else None)


def finished(run):
    "The run has a finite loss and a finite encoder."
    from simclr.model import load_encoder
    with open(Path(run) / "metrics.csv") as f: text = f.read().lower()
    if "nan" in text or "inf" in text or len(text.splitlines()) < 2: raise Wrong(text[-300:])
    if not all(p.isfinite().all() for p in load_encoder(run).state_dict().values()): raise Wrong("the encoder is not finite")


# ---- at random

MAGIC = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"RIFF\x99\0\0\0WEBPVP8 ", b"RIFF\x99\0\0\0WEBPVP8L",
         b"RIFF\x99\0\0\0WEBPVP8X", b"P1\n", b"P2\n", b"P5 9 9 255\n", b"P6 9 9 65535\n", b"Pf 2 2 -1\n", b"%!PS-Adobe", b"\x80\x04", b"PK\x03\x04", b"\0\0\0\x1cftypavif"]


def random_picture(rng):
    "A picture of any size and mode in a format that holds it exactly: suffix, bytes, pixels, tolerance."
    w, h, mode = int(rng.integers(1, 41)), int(rng.integers(1, 41)), str(rng.choice(["1", "L", "P", "RGB", "LA", "RGBA", "16", "CMYK"]))
    formats = {"1": "png tiff pgm bmp", "L": "png tiff pgm bmp webp", "P": "png gif bmp tiff", "RGB": "png tiff ppm bmp webp", "LA": "png tiff", "RGBA": "png tiff webp",
               "16": "png tiff pgm", "CMYK": "tiff"}[mode].split()
    suffix = str(rng.choice(formats))
    more = {"webp": dict(lossless=True, exact=True), "tiff": dict(compression=str(rng.choice(["raw", "tiff_lzw", "tiff_deflate", "packbits"])))}.get(suffix, {})
    shape = {"LA": (h, w, 2), "RGB": (h, w, 3), "RGBA": (h, w, 4), "CMYK": (h, w, 3)}.get(mode, (h, w))
    a = rng.integers(0, 65536 if mode == "16" else 256, shape)
    if mode == "16": data, expected = a.astype(np.uint16), a[..., None] >> 8
    elif mode == "1": data, expected = a > 127, (a > 127)[..., None] * 255
    else: data, expected = a.astype(np.uint8), a if a.ndim == 3 else a[..., None]
    im = Image.fromarray(data)
    if mode == "P":
        colours = rng.integers(0, 256, (256, 3))
        im, expected = Image.frombytes("P", (w, h), data.tobytes()), colours[a]
        im.putpalette(colours.astype(np.uint8).tobytes())
    if mode == "CMYK": im = im.convert("CMYK")
    if mode in ("LA", "RGBA"): expected = on_white(expected[..., :-1], expected[..., -1:])
    file = encoded(im, "ppm" if suffix in ("pgm", "ppm") else suffix, **more)
    return f"{mode} {w}×{h}", suffix, file, np.broadcast_to(expected, (h, w, 3)), 1 if mode in ("LA", "RGBA") else 0


def random_tree(rng, root):
    "Random folders with pictures, other files and links; returns the paths that are to be found, in order."
    names = ["a", "b", "B", "z z", "x.png", "é", "-", "0", ".h", "a.b"]
    def level(folder, depth):
        folder.mkdir(parents=True)
        for name in rng.permutation(names)[:rng.integers(0, 5)]:
            path, kind = folder / str(name), rng.integers(6)
            if kind < 2 and depth < 4: level(path, depth + 1)
            elif kind == 2: path.with_name(f"{name}.txt").write_text("text")
            elif kind == 3: path.with_name(f"{name}~link").symlink_to(root)
            else: put(folder, f"{name}{rng.choice(['.png', '.PNG', '.jpg', '.tIf'])}", good())
    level(root, 0)
    parts = [p.relative_to(root).parts for p in root.rglob("*") if p.is_file() and p.suffix.lower() in (".png", ".jpg", ".tif")]
    return [root.joinpath(*p) for p in sorted(parts) if not any(part.startswith(".") for part in p)]


def shards_of(rng):
    "A good tar file of six pictures of different levels, and what is in it."
    levels = {c: sorted(rng.permutation(200)[:3].tolist()) for c in "ab"}
    return tar_of([(f"{c}/{i}.png", good(v)) for c, vs in levels.items() for i, v in enumerate(vs)]), levels


def try_random(folder, seed, rounds):
    "Yields as the others do, for `rounds` of each kind."
    for k in range(rounds):
        rng = np.random.default_rng((seed, k))
        name, suffix, data, expected, tolerance = random_picture(rng)
        path = put(folder / "random", f"p.{suffix}", data)
        yield "random size and mode", name, "decode_image", judge(lambda: decode_image(path), pixels(expected, tolerance))
        noise = put(folder / "random", f"n.{suffix}", MAGIC[rng.integers(len(MAGIC))] + rng.bytes(int(rng.integers(0, 3000))))
        yield "random bytes", f"round {k}", "decode_image", judge(lambda: decode_image(noise), plausible(noise), (noise.name,))
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), 1 + rng.integers(4)): damaged[at] = rng.integers(256)
        if rng.integers(3) == 0: del damaged[rng.integers(len(damaged)):]
        broken = put(folder / "random", f"b.{suffix}", bytes(damaged))
        check = pixels(expected, tolerance) if suffix == "png" else plausible(broken)     # a PNG has checksums
        yield "random damage", f"{name}, round {k}", "decode_image", judge(lambda: decode_image(broken), check, None if damaged == data else (broken.name,))
        root = folder / f"random tree {k}"
        right = random_tree(rng, root)
        yield "random folders", f"round {k}", "find_images", judge(lambda: find_images(root), equal(right))
        shards, levels = shards_of(rng)
        at, bit = rng.integers(len(shards)), 1 << rng.integers(8)
        flip = shards[:at] + bytes([shards[at] ^ bit]) + shards[at + 1:]
        put(folder / f"random tar {k}", "0.tar", flip if rng.integers(2) else shards[:at])
        yield "random tar damage", f"round {k}", "load_images", judge(
            lambda: load_images("folder", folder / f"random tar {k}", image_size=8, val_fraction=0), by_class(levels), ("0.tar",))


def equal(right):
    def check(got):
        if got != right: raise Wrong(f"{got} instead of {right}"[:300])
    return check


# ---- the table

def summary(rows):
    "Counts by kind of what `try_…` yielded, and the rows that went wrong."
    kinds, bad = {}, []
    for kind, name, entry, verdict in rows:
        count = kinds.setdefault(kind, dict(tried=0, crashes=0, silent_wrong=0))
        count["tried"] += 1
        count["crashes"] += verdict.startswith("crash")
        count["silent_wrong"] += verdict.startswith("wrong")
        if verdict != "right": bad.append(f"{kind} | {name} | {entry}: {verdict}")
    return kinds, bad
