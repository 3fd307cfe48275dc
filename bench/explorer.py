"""What the Explorer costs: python bench/explorer.py RUN [RUN], writes results/bench-explorer.json

Builds one from 5,000 held-out images of the given runs (CIFAR-10 for the record) on two maps, nine layouts, 16 views; and one of 10,000
random points on two maps. Both are opened in headless Chromium. Nothing of the pictures is kept.
"""
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
ROUNDS = 9
WATCH = """() => {
  const w = window.watch = {};
  document.addEventListener('pointerup', () => { w.start = performance.now(); }, true);
  const done = (name) => requestAnimationFrame(() => setTimeout(() => { w[name] = performance.now() - w.start; }));
  const observe = (name) => new MutationObserver(() => done(name)).observe(document.querySelector('.' + name), {childList: true});
  ['caught', 'facts'].forEach(observe);
}"""


def large(points):
    "An Explorer of random pictures, features and maps."
    from simclr.data import TensorImages
    from simclr.explore import Explorer
    from simclr.spaces import Gallery, Space
    generator = torch.Generator().manual_seed(0)
    normal = lambda width: torch.randn(points, width, generator=generator)
    images = TensorImages(torch.randint(0, 256, (points, 3, 8, 8), generator=generator, dtype=torch.uint8), torch.arange(points) % 10)
    spaces = [Space(name, normal(16), [normal(2).numpy()], None) for name in "ab"]
    return Explorer(spaces, Gallery(images, torch.ones(points, dtype=torch.bool), tuple("0123456789"), None), ((15, 0.1),))


def opened(browser, path):
    "A page, and what went wrong on it or was asked of others."
    page, wrong = browser.new_page(viewport=dict(width=1200, height=900)), dict(requests=0, errors=0)
    def count(key): wrong[key] += 1
    page.on("pageerror", lambda _: count("errors"))
    page.on("console", lambda m: count("errors") if m.type == "error" else None)
    page.on("request", lambda r: None if r.url.startswith(("blob:", "data:")) or r.url == path.as_uri() else count("requests"))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    return page, wrong


def gesture(page, name):
    "Milliseconds from letting the mouse go to the next frame after the result is there: `caught` for a lasso, `facts` for a click."
    box = page.locator("canvas.marks").first.bounding_box()
    at = lambda u, v: (box["x"] + u * box["width"], box["y"] + v * box["height"])
    page.get_by_role("button", name="clear").click()
    page.wait_for_timeout(150)
    page.evaluate("() => { watch.caught = watch.facts = null; }")
    page.mouse.move(*at(*((0.3, 0.2) if name == "caught" else (0.5, 0.5))))
    page.mouse.down()
    for corner in ((0.7, 0.2), (0.7, 0.8), (0.3, 0.8)) if name == "caught" else (): page.mouse.move(*at(*corner), steps=8)
    page.mouse.up()
    end = time.monotonic() + 20
    while (taken := page.evaluate(f"watch.{name}")) is None:
        if time.monotonic() > end: raise TimeoutError(f"no {name} after 20 s")
        page.wait_for_timeout(20)
    return taken


def measured(runs, folder):
    "Rows of the record."
    from chromium import chromium
    from simclr.explore import build_explorer
    start = time.perf_counter()
    real = build_explorer(runs, images=5000, controls=len(runs) == 1, aligned=0, progress=True)
    seconds = time.perf_counter() - start
    what = f"file of 5,000 images, {len(real.spaces)} maps in nine layouts, 16 views"
    path, many = real.save(folder / "real.html", "bench"), large(10_000).save(folder / "many.html", "bench")
    with chromium() as browser:
        page, wrong = opened(browser, path)
        gesture_page, more = opened(browser, many)
        gesture_page.evaluate(WATCH)
        taken = {name: statistics.median(gesture(gesture_page, name) for _ in range(ROUNDS)) for name in ("caught", "facts")}
    return [dict(what=what, value=round(path.stat().st_size / 1e6, 2), unit="MB", goal="≤ 3 MB"),
            dict(what="building it", value=round(seconds), unit="s", goal=""),
            dict(what="requests to anybody, of both pages", value=wrong["requests"] + more["requests"], unit="", goal="0"),
            dict(what="errors, of both pages", value=wrong["errors"] + more["errors"], unit="", goal="0"),
            dict(what="10,000 points on two maps: lasso", value=round(taken["caught"]), unit="ms", goal="< 1,500 ms"),
            dict(what="10,000 points on two maps: click", value=round(taken["facts"]), unit="ms", goal="< 50 ms")]


def main(runs):
    from simclr.runs import environment, read_record, write_json
    if not 1 <= len(runs) <= 2: sys.exit(__doc__)
    with TemporaryDirectory() as folder: rows = measured(runs, Path(folder))
    for row in rows: print(f"{row['what']:70} {row['value']:>8,g} {row['unit']:3} {row['goal']}")
    images = [read_record(run)["images"] for run in runs]
    write_json(dict(rows=rows, rounds=ROUNDS, images=images, environment=environment()), ROOT / "results/bench-explorer.json")


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
