"The widgets with a kernel: JupyterLab in a real browser, and Python on the other end."
import io
import json
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from conftest import ROOT
from toy_explorer import CLASSES, N, toy_images

CODE = f"""import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import json
from pathlib import Path
from toy_explorer import toy_explorer
explorer = toy_explorer()
def note(change): Path("state.json").write_text(json.dumps(dict(selected=explorer.selected, pick=explorer.pick)))
explorer.observe(note, ["selected", "pick"])
explorer"""
LESSONS = """import torch
from IPython.display import display
from simclr.loss import nt_xent_loss
from simclr.model import SimCLRModel, build_encoder
from simclr.playground import Playground
from simclr.studio import Studio
from toy_explorer import CLASSES, toy_images
torch.manual_seed(0)
images = toy_images(8)
z1, z2 = torch.randn(8, 6), torch.randn(8, 6)
playground = Playground({"random": (z1, z2)}, images.x, images.x, images.y, CLASSES)
def told(change):
    now = dict(loss=playground.loss, meant=nt_xent_loss(z1, z2, playground.temperature).item(), temperature=playground.temperature)
    Path("loss.json").write_text(json.dumps(now))
playground.observe(told, ["loss"])
studio = Studio(SimCLRModel(build_encoder("resnet8", 3, 16, width=4), 8, 6), images, CLASSES)
display(playground, studio)"""
SETTINGS = ["--no-browser", "--IdentityProvider.token=", "--allow-root", "--LabApp.news_url=", "--ServerApp.port_retries=0",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab in a folder with one notebook; its address and the folder."
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
    nbformat.write(new_notebook(cells=[new_code_cell(CODE), new_code_cell(LESSONS)], metadata=kernel), folder / "x.ipynb")
    command = [sys.executable, "-m", "jupyterlab", *SETTINGS, f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}"]
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        for _ in range(240):
            if process.poll() is not None: pytest.fail((folder / "log.txt").read_text())
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0: break
            time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/lab/tree/x.ipynb", folder
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def page(lab, browser):
    "The notebook, run, with its widget on the screen; errors of the page and requests to other hosts are collected."
    url, _ = lab
    page = browser.new_page(viewport=dict(width=1300, height=1100))
    page.wrong = []
    page.on("pageerror", lambda e: page.wrong.append(str(e)))
    page.on("dialog", lambda d: (page.wrong.append("a dialog"), d.dismiss()))
    page.on("request", lambda r: None if "//127.0.0.1" in r.url or r.url.startswith(("blob:", "data:")) else page.wrong.append(r.url))
    page.goto(url)
    page.locator(".jp-Notebook").wait_for(timeout=90_000)
    page.get_by_text("| Idle").wait_for(timeout=90_000)                    # before that, JupyterLab asks which kernel and runs nothing
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.locator(".simclr.explorer canvas.marks").first.wait_for(timeout=120_000)
    page.wait_for_timeout(500)
    yield page
    page.close()


def in_python(lab, key, wanted, seconds=20, file="state.json"):
    "Wait until the kernel has the wanted value; the last one that it had."
    path, end = lab[1] / file, time.monotonic() + seconds
    while time.monotonic() < end:
        found = json.loads(path.read_text())[key] if path.exists() and path.stat().st_size else None
        if found == wanted: return found
        time.sleep(0.1)
    return found


def app(page, expression):
    return page.evaluate(f"""() => {{
        const node = Array.from(document.querySelectorAll('*')).find((n) => n.explorer);
        const e = node.explorer; return {expression}; }}""")


def test_the_lasso_counts_the_same_in_javascript_and_in_python(page, lab):
    box = page.locator("canvas.marks").first.bounding_box()
    corners = [(0.2, 0.15), (0.7, 0.15), (0.7, 0.8), (0.2, 0.8)]
    at = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in corners]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]: page.mouse.move(x, y, steps=5)
    page.mouse.up()
    caught = app(page, "e.get('selected')")
    assert 5 < len(caught) < N and in_python(lab, "selected", caught) == caught
    assert page.locator(".caught b").inner_text() == f"{len(caught)} images"


def test_a_click_reaches_python_and_pictures_of_the_views_come_back(page, lab):
    box, (x, y) = page.locator("canvas.marks").first.bounding_box(), app(page, "e.panels[0].spot(20)")
    page.mouse.click(box["x"] + x, box["y"] + y)
    picked = app(page, "e.get('pick')")
    assert picked >= 0 and in_python(lab, "pick", picked) == picked
    page.get_by_role("button", name="4 views").click()
    page.locator(".views .tile").nth(3).wait_for(timeout=20_000)
    assert page.locator(".views .tile").count() == 4


def test_arrow_keys_are_the_widgets_and_not_the_notebooks(page):
    marks = page.locator("canvas.marks").first
    marks.focus()
    before = app(page, "e.step")
    marks.press("ArrowRight")
    marks.press("ArrowRight")
    assert app(page, "e.step") == max(before, -1) + 2
    assert marks.get_attribute("data-lm-suppress-shortcuts") == "true"


def test_a_picture_of_ones_own_is_placed(page, tmp_path):
    Image.fromarray(toy_images().x[33].permute(1, 2, 0).numpy()).save(tmp_path / "mine <b>.png")
    page.locator("input[type=file]").set_input_files(tmp_path / "mine <b>.png")
    page.locator(".guest").wait_for(timeout=20_000)
    assert "mine <b>.png" in page.locator(".guest").inner_text() and app(page, "e.guests.length") == 1
    assert app(page, "e.guests[0].rows[0].near[0]") == 33


def test_what_is_no_picture_is_said(page, tmp_path):
    (tmp_path / "x.png").write_bytes(io.BytesIO(b"no picture").getvalue())
    page.locator("input[type=file]").set_input_files(tmp_path / "x.png")
    page.locator(".explorer .status", has_text=" ").wait_for(timeout=20_000)
    assert page.locator(".explorer .status").inner_text() and app(page, "e.guests.length") == 1


def test_the_playgrounds_loss_in_python_is_that_of_the_browser(page, lab):
    page.locator(".simclr.playground").wait_for(timeout=60_000)
    slider = page.locator(".simclr.playground input[type=range]").first
    slider.scroll_into_view_if_needed()
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        path = lab[1] / "loss.json"
        found = json.loads(path.read_text()) if path.exists() and path.stat().st_size else dict(temperature=0.5)
        if found["temperature"] < 0.5: break
        time.sleep(0.1)
    assert found["temperature"] < 0.5 and found["loss"] == pytest.approx(found["meant"], rel=1e-5)


def test_the_studio_asks_the_kernel(page):
    studio = page.locator(".simclr.studio")
    studio.scroll_into_view_if_needed()
    studio.locator(".cosine").first.wait_for(timeout=30_000)
    before = studio.locator(".number").inner_text()
    studio.get_by_role("button", name="draw again").click()
    for _ in range(100):
        if studio.locator(".number").inner_text() != before: break
        page.wait_for_timeout(100)
    assert studio.locator(".number").inner_text() != before


def test_nothing_went_wrong_and_nobody_was_asked(page):
    assert page.wrong == [] and page.locator(".explorer .legend").inner_text().count(CLASSES[2]) == 1
