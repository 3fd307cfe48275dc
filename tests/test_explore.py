"The Explorer: what goes to the browser, what the browser makes of it (in a real one), and what the kernel answers."
import base64
import io
import json
import time
from urllib.parse import quote

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from simclr.data import TensorImages
from simclr.explore import Explorer, on_unit_square, scaled, thumbnails
from simclr.spaces import K, Gallery, judge, probe
from simclr.widget import unpack
from toy_explorer import CLASSES, EPOCHS, LAYOUTS, M, N, toy_encode, toy_explorer, toy_images, toy_spaces

HOME = LAYOUTS.index((15, 0.1))


@pytest.fixture(scope="module")
def explorer(): return toy_explorer()


@pytest.fixture(scope="module")
def saved(explorer, tmp_path_factory): return explorer.save(tmp_path_factory.mktemp("page") / "explorer.html", "toy")


class Opened:
    "A page with the Explorer, and all that went wrong on it or was asked of others."
    def __init__(self, browser, url, **context):
        self.context = browser.new_context(viewport=dict(width=1200, height=1000), **context)
        self.page, self.errors, self.requests = self.context.new_page(), [], []
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("dialog", lambda d: (self.errors.append("a dialog"), d.dismiss()))
        self.page.on("request", lambda r: None if r.url.startswith(("blob:", "data:")) else self.requests.append(r.url))
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]", timeout=20_000)

    def app(self, expression):
        "A value from the running Explorer, called `e` in the expression."
        return self.page.evaluate(f"(() => {{ const e = document.getElementById('widget').explorer; return {expression}; }})()")

    def until(self, expression, seconds=10):
        "Wait for what the Explorer will become; the page's own policy forbids Playwright's wait_for_function."
        end = time.monotonic() + seconds
        while not self.app(expression):
            assert time.monotonic() < end, f"never: {expression}"
            self.page.wait_for_timeout(50)

    def state(self, key): return self.app(f"e.get({key!r})")

    def spot(self, i, panel=0):
        "Where image i lies on the screen."
        box = self.page.locator("canvas.marks").nth(panel).bounding_box()
        x, y = self.app(f"e.panels[{panel}].spot({i})")
        return box["x"] + x, box["y"] + y

    def lasso(self, corners, panel=0):
        "Draw a polygon with the mouse."
        box = self.page.locator("canvas.marks").nth(panel).bounding_box()
        at = lambda corner: (box["x"] + corner[0], box["y"] + corner[1])
        self.page.mouse.move(*at(corners[0]))
        self.page.mouse.down()
        for corner in corners[1:]: self.page.mouse.move(*at(corner), steps=5)
        self.page.mouse.up()


@pytest.fixture
def opened(browser, saved):
    page = Opened(browser, saved.as_uri())
    yield page
    assert page.errors == [] and page.requests == [saved.as_uri()]
    page.context.close()


# What goes to the browser

def test_a_map_fills_the_unit_square_and_keeps_its_shape():
    positions = np.array([[0., 0.], [4., 1.], [2., 2.]], np.float32)
    (middle,), scale = on_unit_square([positions])
    back = scaled(positions, middle, scale).astype(float) / 65535
    assert back.min() == 0 and back.max() == 1
    assert np.allclose((back - back[0]) * 4, positions - positions[0], atol=4 / 65535)


def test_maps_of_the_epochs_share_one_scale():
    small, large = np.array([[0., 0.], [1., 1.]]), np.array([[0., 0.], [5., 5.]])
    middles, scale = on_unit_square([small, large])
    assert scale == 5 and np.ptp(scaled(small, middles[0], scale).astype(float)) == pytest.approx(65535 / 5, abs=1)


def test_a_map_of_one_point_is_no_division_by_zero():
    (middle,), scale = on_unit_square([np.ones((3, 2))])
    assert scaled(np.ones((3, 2)), middle, scale).tolist() == [[32768, 32768]] * 3


def test_the_buffer_holds_what_was_found(explorer):
    meta, arrays = unpack(explorer.blob)
    assert (meta["N"], meta["M"], meta["k"], meta["epochs"], meta["home"], meta["views"]) == (N, M, K, list(EPOCHS), HOME, 4)
    assert meta["layouts"] == [dict(n=n, d=d) for n, d in LAYOUTS] and meta["classes"] == list(CLASSES)
    for j, space in enumerate(explorer.spaces):
        h = F.normalize(space.h, dim=1)
        cosine = (h @ h.T).fill_diagonal_(-2)
        best = cosine.sort(dim=1, descending=True, stable=True)
        assert np.array_equal(arrays[f"index{j}"], best.indices[:, :K])
        assert np.abs(arrays[f"cosine{j}"] / 1000 - best.values[:, :K].numpy()).max() < 5.1e-4          # half a step of a thousandth, and float32
        same = (explorer.gallery.images.y[best.indices[:, :K]] == explorer.gallery.images.y[:, None]).sum(1)
        assert np.array_equal(arrays[f"purity{j}"][0], same)
        assert arrays[f"map{j}"].shape == (len(LAYOUTS), N, 2) and arrays[f"views{j}"].shape == (N, 4, 2)
    assert "frames0" in arrays and "frames1" not in arrays and arrays["frames0"].shape == (len(EPOCHS), M, 2)
    assert [age["knn"] for age in meta["spaces"][0]["ages"]] == [judge(h, [p], explorer.gallery.images.y[:M]).quality[0]["knn"]
                                                                 for h, p in explorer.spaces[0].ages.values()]


def test_without_labels_nothing_is_said_of_classes():
    images = TensorImages(toy_images().x, torch.full((N,), -1))
    meta, arrays = unpack(Explorer(toy_spaces(images), Gallery(images, torch.zeros(N, dtype=bool), (), None), LAYOUTS).blob)
    assert meta["labelled"] is False and not [name for name in arrays if name.startswith(("said", "purity", "fsaid", "views"))]
    assert set(meta["spaces"][0]["qualities"][0]) == {"trustworthiness"}


def test_large_images_are_shown_small():
    x = torch.randint(0, 256, (5, 3, 128, 128), dtype=torch.uint8)
    assert thumbnails(x).shape == (5, 3, 64, 64) and thumbnails(x[..., :32, :32]) is not None
    assert torch.equal(thumbnails(x[..., :64, :64]), x[..., :64, :64])


@pytest.mark.parametrize("change, message", [
    (dict(layouts=LAYOUTS[:2]), "60 images on 4 maps, not 60 on 2"),
    (dict(views=1), "views=1 must be from 2 to 32"),
    (dict(views=33), "views=33"),
])
def test_what_does_not_fit_is_named(change, message, explorer):
    arguments = dict(spaces=explorer.spaces, gallery=explorer.gallery, layouts=LAYOUTS, augment=explorer.augment, views=4) | change
    with pytest.raises(ValueError, match=message): Explorer(**arguments)


# In a browser

def test_it_opens_without_errors_and_asks_nobody(opened):
    assert opened.page.locator("canvas.marks").count() == 2
    assert opened.page.locator(".numbers").first.inner_text().startswith("kNN ")


def test_the_hovered_tile_is_the_right_image(opened, explorer, tmp_path):
    for i in (3, 17, 44):
        opened.page.mouse.move(5, 5)
        opened.page.mouse.move(*opened.spot(i))
        tip = opened.page.locator(".tip")
        assert tip.get_attribute("data-image") == str(i) and f"photo <i>{i}</i>.jpg" in tip.inner_text() and CLASSES[i % 3] in tip.inner_text()
        shown = np.asarray(Image.open(io.BytesIO(tip.locator(".tile").screenshot())).convert("RGB"))[32:60, 32:60].mean((0, 1))
        meant = explorer.gallery.images.x[i, :, 8:, 8:].float().mean((1, 2)).numpy()
        others = explorer.gallery.images.x[:, :, 8:, 8:].float().mean((2, 3)).numpy()
        assert np.abs(shown - meant).max() < 8                                                   # WebP is not exact
        assert np.abs(others - shown).max(1).argmin() == i


def test_the_lasso_catches_what_lies_inside(opened):
    box = opened.page.locator("canvas.marks").first.bounding_box()
    left, top, right, bottom = box["width"] * 0.15, box["height"] * 0.1, box["width"] * 0.6, box["height"] * 0.85
    opened.lasso([(left, top), (right, top), (right, bottom), (left, bottom)])
    spots = [opened.app(f"e.panels[0].spot({i})") for i in range(N)]
    expected = [i for i, (x, y) in enumerate(spots) if left < x < right and top < y < bottom]
    assert 5 < len(expected) < N and opened.state("selected") == expected
    counts = {c: sum(i % 3 == c for i in expected) for c in range(3)}
    shown = {row.locator("span").first.inner_text(): int(row.locator("span").last.inner_text()) for row in opened.page.locator(".count").all()}
    assert shown == {CLASSES[c]: n for c, n in counts.items() if n}
    assert [int(t.get_attribute("data-image")) for t in opened.page.locator(".caught .near").all()] == expected


def test_a_lasso_that_crosses_itself_closes_all_the_same(opened):
    box = opened.page.locator("canvas.marks").first.bounding_box()
    w, h = box["width"], box["height"]
    opened.lasso([(0.1 * w, 0.1 * h), (0.9 * w, 0.9 * h), (0.9 * w, 0.1 * h), (0.1 * w, 0.9 * h)])
    for i in opened.state("selected"):
        x, y = opened.app(f"e.panels[0].spot({i})")
        assert 0.1 < x / w < 0.9 and abs(x / w - 0.5) >= abs(y / h - 0.5) - 0.02                  # the two triangles of a bow tie


def test_a_click_shows_neighbours_as_brute_force_finds_them(opened, explorer):
    opened.page.mouse.click(*opened.spot(21))
    picked = opened.state("pick")
    near = explorer.spaces[0].maps[HOME]
    assert np.hypot(*(near[picked] - near[21])) < 0.4                       # 21, or one that lies on it
    for j, space in enumerate(explorer.spaces):
        h = F.normalize(space.h, dim=1)
        cosine = h @ h[picked]
        cosine[picked] = -2
        tiles = opened.page.locator(f'.row[data-space="{j}"] .tiles:not(.views) .near').all()
        assert [int(t.get_attribute("data-image")) for t in tiles] == cosine.sort(descending=True, stable=True).indices[:K].tolist()
        assert [float(t.inner_text()) for t in tiles] == pytest.approx(cosine.sort(descending=True).values[:K].tolist(), abs=0.0056)
        wrong = ["wrong" in t.get_attribute("class") for t in tiles]
        assert wrong == [int(t.get_attribute("data-image")) % 3 != picked % 3 for t in tiles]
        assert f"{wrong.count(False)}/{K} share its label" in opened.page.locator(f'.row[data-space="{j}"]').inner_text()


def test_labels_and_names_are_text(opened):
    opened.page.mouse.click(*opened.spot(2))
    assert CLASSES[2] in opened.page.locator(".legend").inner_text()
    assert opened.page.locator("#widget img, #widget i, #widget .map b").count() == 0


def test_the_address_says_what_is_shown_and_shows_what_it_says(browser, saved):
    page = Opened(browser, f"{saved.as_uri()}#pick=7&epoch=4&colour=trust&layout=5/0.5")
    assert [page.state(key) for key in ("pick", "epoch", "colour", "variant")] == [7, 3, "trust", 2]            # 3 is the kept epoch next to 4
    page.page.evaluate("location.hash = '#pick=9'")
    page.until("e.get('pick') === 9")
    assert [page.state(key) for key in ("epoch", "colour", "variant")] == [-1, "label", HOME]
    page.page.evaluate(f"location.hash = '#find={quote(CLASSES[2])}'")
    page.until("e.get('selected').length > 0")
    assert page.state("selected") == list(range(2, N, 3)) and page.state("pick") == -1
    page.page.get_by_role("button", name="clear").click()
    page.page.locator("select").first.select_option("purity")
    assert page.page.evaluate("location.hash") == "#colour=purity"
    for nonsense in ("pick=-1", "pick=99999", "pick=x", "epoch=x", "colour=constructor", "layout=1/1", "find=%00", "views=7", "%%%"):
        page.page.evaluate(f"location.hash = '#{nonsense}'")
        page.page.wait_for_timeout(30)
    assert page.errors == [] and page.state("pick") == -1


def test_a_page_opens_as_it_was_saved(browser, tmp_path):
    saved, start = toy_explorer(), dict(colour="trust", variant=2, epoch=3, pick=7)
    for key, value in (start | dict(selected=[4, 5])).items(): setattr(saved, key, value)
    page = Opened(browser, saved.save(tmp_path / "moved.html").as_uri())
    state = lambda: {key: page.state(key) for key in start}
    assert state() == start and page.state("selected") == [4, 5] and page.page.evaluate("location.hash") == ""
    page.page.get_by_role("button", name="clear").click()
    page.page.locator("select").first.select_option("label")
    assert page.page.evaluate("location.hash") == "#pick=-1&colour=label"                   # what differs from the start, also where it is less
    page.page.evaluate("location.hash = '#epoch=9&pick=9'")
    page.until("e.get('pick') === 9")
    assert state() == start | dict(epoch=9, pick=9) and page.state("selected") == [4, 5]
    page.page.evaluate("location.hash = ''")
    page.until("e.get('pick') === 7")
    assert state() == start and page.errors == []
    page.context.close()


def test_the_address_and_the_lasso_do_not_mix(opened):
    address = lambda: opened.page.evaluate("location.hash")
    opened.page.get_by_role("searchbox").fill("cat")
    opened.page.get_by_role("searchbox").press("Enter")
    assert address() == "#find=cat"
    opened.app("e.select([1, 2, 3])")
    assert opened.page.get_by_role("searchbox").input_value() == "" and address() == ""     # the lasso is not what was searched for
    opened.page.evaluate("location.hash = '#pick=9'")
    opened.until("e.get('pick') === 9")
    assert opened.state("selected") == [] and opened.page.locator(".caught").inner_text() == ""
    opened.page.evaluate("location.hash = '#find=cat'")
    opened.until("e.get('selected').length > 3")
    opened.page.get_by_role("button", name="clear").click()
    assert address() == "" and opened.state("selected") == []
    opened.page.evaluate("location.hash = '#colour=constructor'")
    opened.page.wait_for_timeout(50)
    assert opened.state("colour") == "label"


def test_epochs_move_the_maps_of_those_that_have_them(opened, explorer):
    opened.page.emulate_media(reduced_motion="reduce")
    slider = opened.page.get_by_label("epoch", exact=True)
    slider.focus()
    slider.press("Home")
    assert opened.state("epoch") == 0 and opened.app("e.panels.map((p) => p.scene.count)") == [M, N]
    middles, scale = on_unit_square([p for _, p in explorer.spaces[0].ages.values()])
    expected = (explorer.spaces[0].ages[0][1] - middles[0]) / scale + 0.5
    shown = np.array(opened.app("Array.from(e.panels[0].shown)")).reshape(-1, 2)
    assert np.abs(shown - expected).max() < 1e-4
    slider.press("ArrowRight")
    assert opened.state("epoch") == EPOCHS[1] and f"epoch {EPOCHS[1]}, {M} of {N} images" in opened.page.locator(".ages output").inner_text()
    slider.press("End")
    assert opened.state("epoch") == -1


def test_networks_may_have_epochs_of_their_own(browser, tmp_path):
    images = toy_images()
    first, second = toy_spaces(images)
    short = second._replace(ages={5: first.ages[0], 20: first.ages[3]})
    explorer = Explorer([first, short], Gallery(images, torch.ones(N, dtype=torch.bool), CLASSES, None), LAYOUTS)
    page = Opened(browser, explorer.save(tmp_path / "two.html").as_uri() + "#epoch=9")
    assert page.app("e.data.epochs") == [0, 3, 5, 9, 20]
    shown = "e.panels.map((p) => p.scene.key)"
    assert page.app(shown) == ["epoch 9", "epoch 5"]
    for epoch, keys in ((0, ["epoch 0", "epoch 5"]), (20, ["epoch 9", "epoch 20"]), (3, ["epoch 3", "epoch 5"])):
        page.page.evaluate(f"location.hash = '#epoch={epoch}'")
        page.until(f"e.get('epoch') === {epoch}")
        assert page.app(shown) == keys
    assert page.errors == []
    page.context.close()


def test_play_goes_through_the_epochs_and_stops(opened):
    opened.page.get_by_role("button", name="play").click()
    opened.until(f"e.get('epoch') === {EPOCHS[-1]}")
    opened.page.get_by_role("button", name="▶ play").wait_for(timeout=5000)


def test_layouts_change_without_a_kernel(opened, explorer):
    opened.page.emulate_media(reduced_motion="reduce")
    opened.page.get_by_label("n_neighbors").select_option("5")
    assert LAYOUTS[opened.state("variant")] == (5, 0.1)
    opened.page.get_by_label("min_dist").select_option("0.5")
    assert LAYOUTS[opened.state("variant")] == (5, 0.5)
    positions = explorer.spaces[0].maps[2]
    (middle,), scale = on_unit_square([positions])
    shown = np.array(opened.app("Array.from(e.panels[0].shown)")).reshape(-1, 2)
    assert np.abs(shown - ((positions - middle) / scale + 0.5)).max() < 1e-4


def test_arrow_keys_walk_along_the_neighbours(opened, explorer):
    opened.page.mouse.click(*opened.spot(30))
    start = opened.state("pick")
    marks = opened.page.locator("canvas.marks").first
    marks.focus()
    marks.press("ArrowRight")
    marks.press("ArrowRight")
    h = F.normalize(explorer.spaces[0].h, dim=1)
    cosine = h @ h[start]
    cosine[start] = -2
    second = cosine.sort(descending=True, stable=True).indices[1].item()
    assert opened.app("e.pointed") == second
    assert f"neighbour 2 of {K}: photo <i>{second}</i>.jpg, {CLASSES[second % 3]}, cosine" in opened.page.locator("[aria-live]").inner_text()
    marks.press("ArrowDown")
    assert "pixels & <b>more</b>, neighbour 2" in opened.page.locator("[aria-live]").inner_text()
    marks.press("ArrowUp")
    marks.press("Enter")
    assert opened.state("pick") == second
    marks.press("Escape")
    assert opened.state("pick") == -1


@pytest.mark.parametrize("text, selected, pick", [("cat", list(range(0, N, 3)), -1), ("CAT", list(range(0, N, 3)), -1), ("do", list(range(1, N, 3)), -1),
                                                  ("#12", [], 12), ("12", [], 12), ("photo <i>33", [33], -1), ("#60", [], -1), ("zebra", [], -1)])
def test_search_by_class_number_and_name(opened, text, selected, pick):
    box = opened.page.get_by_role("searchbox")
    box.fill(text)
    box.press("Enter")
    assert (opened.state("selected"), opened.state("pick")) == (selected, pick)
    assert bool(opened.page.locator(".status").inner_text()) == (not selected and pick < 0)


def test_views_land_where_python_says(opened, explorer):
    opened.page.mouse.click(*opened.spot(11))
    picked = opened.state("pick")
    opened.page.get_by_role("button", name="4 views").click()
    _, arrays = unpack(explorer.blob)
    cosines = arrays["viewcos0"][picked] / 255
    assert f"mean {cosines.mean():.2f}, from {cosines.min():.2f} to {cosines.max():.2f}" in opened.page.locator(".seen").first.inner_text()
    data = opened.app("Array.from(e.panels[0].marks.getContext('2d').getImageData(0, 0, e.panels[0].marks.width, e.panels[0].marks.height).data)")
    drawn = np.array(data).reshape(opened.app("e.panels[0].marks.height"), -1, 4)
    for u, v in arrays["views0"][picked] / 255:
        x, y = opened.app(f"e.panels[0].screen({u}, {v})")
        assert drawn[int(y), int(x), 3] > 200                                                  # a mark lies on the spot
    opened.page.get_by_role("button", name="4 views").click()
    assert opened.page.locator(".seen").count() == 0


@pytest.mark.parametrize("mode, words", [("label", "cat"), ("prediction", "cat"), ("right", "wrong"), ("purity", "neighbours in its class"),
                                         ("trust", "neighbours kept on the map")])
def test_each_colour_has_its_legend(opened, mode, words):
    opened.page.locator("select").first.select_option(mode)
    assert words in opened.page.locator(".legend").inner_text() and opened.state("colour") == mode


def test_ten_classes_differ_in_colour_and_in_shape(opened):
    styles = opened.page.evaluate("""() => { const e = document.getElementById('widget').explorer;
        e.data.classes = Array.from({length: 10}, (_, i) => `c${i}`); e.set('colour', 'label'); e.panels[0].show();
        return e.panels[0].look.styles.slice(0, 10).map((s) => [s.colour, s.shape]); }""")
    assert len({colour for colour, _ in styles}) == len({shape for _, shape in styles}) == 10


def test_zoom_keeps_what_lies_under_the_mouse_and_drag_moves(opened):
    x, y = opened.spot(5)
    opened.page.mouse.move(x, y)
    opened.page.keyboard.down("Control")
    opened.page.mouse.wheel(0, -100)
    opened.page.keyboard.up("Control")
    assert opened.app("e.panels[0].zoom") > 1.1 and np.allclose(opened.spot(5), (x, y), atol=0.5)
    opened.page.keyboard.down("Shift")
    opened.page.mouse.down()
    opened.page.mouse.move(x + 40, y + 30, steps=4)
    opened.page.mouse.up()
    opened.page.keyboard.up("Shift")
    assert np.allclose(opened.spot(5), (x + 40, y + 30), atol=0.5) and opened.state("selected") == [] and opened.state("pick") == -1


def test_dark_mode_and_a_phone(browser, saved):
    page = Opened(browser, saved.as_uri(), color_scheme="dark")
    page.page.wait_for_selector(".simclr.dark")
    page.page.set_viewport_size(dict(width=390, height=800))
    page.page.wait_for_timeout(200)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.app("e.panels[0].width") < 390 and page.errors == []
    page.context.close()


def test_a_page_around_it_says_which_theme(opened):
    opened.page.evaluate("postMessage({simclrTheme: 'dark'}, '*')")
    opened.page.wait_for_selector(".simclr.dark")
    opened.page.evaluate("postMessage({simclrTheme: 'light'}, '*')")
    opened.page.wait_for_selector(".simclr:not(.dark)")


def test_touch_scrolls_the_page_and_taps_pick(browser, saved):
    page = Opened(browser, saved.as_uri(), has_touch=True, is_mobile=True)
    page.page.touchscreen.tap(*page.spot(8))
    assert page.state("pick") >= 0 and page.state("selected") == []
    assert page.app("getComputedStyle(e.panels[0].marks).touchAction") == "pan-x pan-y"
    page.page.get_by_role("button", name="lasso").tap()
    assert page.app("getComputedStyle(e.panels[0].marks).touchAction") == "none" and page.errors == []
    page.context.close()


def test_a_frame_in_a_notebook_works_without_a_kernel(browser, explorer, tmp_path):
    (tmp_path / "page.html").write_text(f"<!doctype html><body>{explorer.static(500).data}</body>", encoding="utf-8")
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto((tmp_path / "page.html").as_uri())
    page.frame_locator("iframe").locator("canvas.marks").first.wait_for(timeout=20_000)
    assert errors == []
    page.close()


# With a kernel

class Heard(list):
    "Messages that an Explorer sends."
    def __call__(self, content, buffers=None): self.append((content, buffers))


@pytest.fixture
def heard(explorer, monkeypatch):
    monkeypatch.setattr(explorer, "send", heard := Heard())
    return heard


def test_a_picture_of_ones_own_lands_beside_its_twin(explorer, heard):
    file = io.BytesIO()
    Image.fromarray(explorer.gallery.images.x[25].permute(1, 2, 0).numpy()).save(file, "png")
    explorer.answer(dict(ask="place", name="<b>mine</b>"), [file.getvalue()])
    content, buffers = heard[0]
    assert (content["tell"], content["labels"], content["count"]) == ("placed", ["<b>mine</b>"], 1)
    assert content["rows"][0]["near"][0] == 25 and "cosine 1.00" in content["rows"][0]["text"]
    assert len(content["places"]) == 2 and len(content["places"][0]) == len(LAYOUTS)
    assert all(-0.01 <= v <= 1.01 for place in content["places"][0] for v in place)
    json.dumps(content)
    sent = np.asarray(Image.open(io.BytesIO(buffers[0])).convert("RGB")).astype(int)
    assert sent.shape == (16, 16, 3) and sent[:3, :3].mean() < 60 < sent[:3, -3:].mean()         # the dark corner is still on the left


def test_views_in_the_buffer_are_where_the_probe_puts_them(explorer):
    _, arrays = unpack(explorer.blob)
    space = explorer.spaces[0]
    places, cosine = probe(space, explorer.augment, explorer.gallery.images.x, 4, HOME, explorer.seed)
    corner, side = space.maps[HOME].min(0), np.ptp(space.maps[HOME], axis=0)
    middle, scale = corner + side / 2, side.max()
    assert np.abs(arrays["views0"] / 255 - np.clip((places - middle) / scale + 0.5, 0, 1)).max() <= 0.5 / 255 + 1e-6
    assert np.abs(arrays["viewcos0"] / 255 - cosine.clip(0, 1)).max() <= 0.5 / 255 + 1e-6


def test_views_of_the_picked_image_are_sent_as_pictures(explorer, heard):
    explorer.answer(dict(ask="views", image=4), [])
    content, buffers = heard[0]
    assert (content["tell"], content["image"], content["count"]) == ("views", 4, 4)
    assert Image.open(io.BytesIO(buffers[0])).size == (32, 32)


LISTEN = """() => { const e = document.getElementById("widget").explorer, { createObjectURL: make, revokeObjectURL: end } = URL;
    Object.assign(e, { live: true }).model.send = (question) => e.sent.push(question.image);
    Object.assign(e, { sent: [], kept: new Set() });
    URL.createObjectURL = (blob) => { const url = make(blob); e.kept.add(url); return url; };
    URL.revokeObjectURL = (url) => { e.kept.delete(url); end(url); }; }"""
REPLY = """([message, text]) => document.getElementById("widget").explorer.hear(message,
    [Uint8Array.from(atob(text), (c) => c.charCodeAt(0))])"""


def test_views_are_asked_once_for_each_pick_and_stand_there_once(opened, explorer, heard):
    page, probe = opened.page, opened.page.get_by_role("button", name="4 views")
    rows = lambda: page.evaluate("[...document.querySelectorAll('.views')].map((row) => row.childElementCount)")
    def reply(image):
        explorer.answer(dict(ask="views", image=image), [])
        content, buffers = heard.pop()
        page.evaluate(REPLY, [content, base64.b64encode(buffers[0]).decode()])
    page.evaluate(LISTEN)
    opened.app("e.pick(4)")
    probe.click()
    opened.app("e.set('pick', 5)")                                       # as a cell does
    opened.app("e.set('pick', 60)")                                      # nor is there such an image
    opened.app("e.pick(4)")
    assert opened.app("e.sent") == [4, 5, 4]
    for image in (4, 5, 4):
        reply(image)
        assert rows() == [4] and opened.app("e.kept.size") == 1
    probe.click()
    reply(4)
    assert rows() == [] and opened.app("e.kept.size") <= 1
    opened.app("e.stop()")
    assert opened.app("e.kept.size") == 0


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_picture_is_said_not_raised(explorer, heard, data):
    explorer.answer(dict(ask="place", name="x"), [data])
    assert list(heard[0][0]) == ["error"] and "error" in heard[0][0] and heard[0][0]["error"]


def test_a_tensor_of_another_shape_is_refused(explorer):
    with pytest.raises(ValueError, match=r"shape \(1, 16, 16\); expected \(3, 16, 16\)"): explorer.add(toy_images().x[0, :1])


def test_features_of_the_toy_are_those_of_its_encoder(explorer): assert torch.equal(explorer.spaces[0].h, toy_encode(explorer.gallery.images))
