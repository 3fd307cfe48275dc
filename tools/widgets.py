"""Make the widgets of the site and a picture of each: python tools/widgets.py [--repack] [explorer] [studio] [playground]

Pre-trains on digits as the demo does (50 epochs, seed 0), trains the same net from scratch with labels, and writes
nbs/widgets/NAME-digits.html, nbs/images/NAME.png and results/widgets.json. --repack trains nothing: it puts today's scripts and styles
around the data that the files hold.
"""
import argparse
import base64
import gzip
import io
import json
import re
import sys
import time
from pathlib import Path

from chromium import chromium
from notebooks import ROOT

sys.path.insert(0, str(ROOT))
WIDGETS, IMAGES, RECORD = ROOT / "nbs/widgets", ROOT / "nbs/images", ROOT / "results/widgets.json"
SCRIPTS = dict(explorer="explore", studio="studio", playground="playground")
STATES = dict(explorer="pick=42&views=1", studio="", playground="")            # of the address, for the picture
SCRATCH = dict(backbone="resnet8", width=32, epochs=20, flip_prob=0.0, padding=2, learning_rate=0.05)


def digits_runs(folder):
    "A SimCLR run with snapshots, a shorter one, and the same net from scratch with labels."
    from simclr.baseline import train_from_scratch
    from simclr.cli import DEMO
    from simclr.pretrain import pretrain
    where = dict(seed=0, run_dir=str(folder), echo=False)
    return [pretrain(**DEMO, epochs=50, batch_size=128, warmup_epochs=2, snapshots=6, **where),
            pretrain(**DEMO, epochs=8, batch_size=128, warmup_epochs=1, **where),
            train_from_scratch(dataset="digits", **SCRATCH, **where)]


def build(name, runs):
    "The widget of that name."
    if name == "explorer":
        from simclr.explore import build_explorer
        return build_explorer(runs[::2], images=1000, aligned=500)
    if name == "studio":
        from simclr.studio import Studio
        return Studio.from_run(runs[0])
    from simclr.playground import Playground
    return Playground.from_run(runs[0], beside=[runs[1]])


def parts(page):
    "Buffer, state and title of a saved widget."
    found = {key: re.search(rf'id="{key}">(.*?)</script>', page, re.S)[1] for key in ("blob", "state")}
    return gzip.decompress(base64.b64decode(found["blob"])), json.loads(found["state"]), re.search("<title>(.*?)</title>", page)[1]


def repacked(name, page):
    "A saved widget with today's script and style around its data."
    from simclr.widget import html_page, javascript, stylesheet
    blob, state, title = parts(page)
    return html_page(javascript(SCRIPTS[name]), stylesheet(SCRIPTS[name]), blob, state, title)


def picture(browser, path, state):
    "A page as a PNG of 128 colours, once its widget has drawn."
    from PIL import Image
    page = browser.new_page(viewport=dict(width=1000, height=700))
    page.goto(f"{path.as_uri()}#{state}")
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    page.wait_for_timeout(1500)
    shot, out = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB"), io.BytesIO()
    page.close()
    shot.quantize(128).save(out, "png", optimize=True)
    return out.getvalue()


def draw(names):
    "The pictures of some widgets."
    with chromium() as browser:
        for name in names: (IMAGES / f"{name}.png").write_bytes(picture(browser, WIDGETS / f"{name}-digits.html", STATES[name]))


def record_of(runs, seconds):
    "What the numbers in the widgets were made from."
    from simclr.runs import environment, read_record
    keep = ("dataset", "backbone", "width", "epochs", "batch_size", "learning_rate", "temperature", "seed", "val_fraction")
    configs = [{k: v for k, v in read_record(run)["config"].items() if k in keep} for run in runs]
    return dict(configs=dict(zip(("SimCLR", "SimCLR, short", "from scratch"), configs)), environment=environment(), seconds=seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repack", action="store_true", help="train nothing")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCRIPTS))
    args = parser.parse_args()
    names = args.names or list(SCRIPTS)
    if unknown := set(names) - set(SCRIPTS): parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(SCRIPTS)}")
    for folder in (WIDGETS, IMAGES): folder.mkdir(exist_ok=True)
    if args.repack:
        for name in names:
            path = WIDGETS / f"{name}-digits.html"
            path.write_text(repacked(name, path.read_text(encoding="utf-8")), encoding="utf-8")
        return draw(names)
    from tempfile import TemporaryDirectory
    from simclr.runs import write_json
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        runs = digits_runs(Path(folder))
        seconds = dict(record.get("seconds", {}), training=round(time.perf_counter() - start, 1))
        for name in names:
            start = time.perf_counter()
            path = build(name, runs).save(WIDGETS / f"{name}-digits.html", f"{name.capitalize()}: handwritten digits")
            seconds[name] = round(time.perf_counter() - start, 1)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB", flush=True)
        write_json(record_of(runs, seconds), RECORD)
    draw(names)


if __name__ == "__main__": sys.exit(main())
