"The browser that pictures, widgets, benchmarks and tests use."
import os
import shutil
from contextlib import contextmanager

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium():
    "A headless Chromium: CHROMIUM names it, else the first on the PATH. FileNotFoundError where there is none."
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not program: raise FileNotFoundError("no Chromium on the PATH: install it (.ci/run does), or name it in CHROMIUM")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=OPTIONS)
        try: yield browser
        finally: browser.close()
