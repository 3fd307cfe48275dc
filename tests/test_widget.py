"The buffer, the sheet and the page: round trips by chance, files by other readers, and the policy in a real browser."
import base64
import gzip
import hashlib
import io
import json
import math
import re
import struct
import threading
from html import unescape
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from simclr.data import load_images
from simclr.widget import END, HERE, KINDS, StaticWidget, html_page, javascript, pack, sprite_sheet, stylesheet, unpack

SHARED, STYLE = (HERE / "widget.js").read_text(encoding="utf-8"), (HERE / "widget.css").read_text(encoding="utf-8")
EVIL = ("</script><script>window.hurt = 1</script>", "<img src=x onerror='window.hurt = 1'>", "</title><script>window.hurt = 1</script>",
        "<!--<script>", "]]>", "\u2028\u2029\\u003c'\"&lt;", "ü 🙂")
QUIET = some.text(some.characters(exclude_categories=["Cs"]), max_size=8)            # without halves of a surrogate pair
META = some.recursive(some.none() | some.booleans() | some.integers(-2**53, 2**53) | some.floats(allow_nan=False, allow_infinity=False) | QUIET,
                      lambda inner: some.lists(inner, max_size=3) | some.dictionaries(QUIET, inner, max_size=3), max_leaves=6)
ARRAY = some.sampled_from(sorted(KINDS)).flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)))
NAMES = some.text("abcdefgh_", min_size=1, max_size=12).filter(lambda name: name != "meta")


def header(blob): return json.loads(blob[4:4 + struct.unpack_from("<I", blob)[0]])


# pack and unpack

@settings(max_examples=150, deadline=None)
@given(some.dictionaries(QUIET, META, max_size=3), some.dictionaries(NAMES, ARRAY, max_size=4))
def test_pack_round_trip(meta, given):
    blob = pack(meta, **given)
    found, back = unpack(blob)
    assert found == meta and list(back) == list(given) and len(blob) % 8 == 0
    for name, array in given.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape and back[name].tobytes() == array.tobytes()


@settings(max_examples=100, deadline=None)
@given(some.text("xü🙂", max_size=20), some.lists(ARRAY, min_size=1, max_size=12))
def test_arrays_are_aligned_and_do_not_overlap(title, given):
    blob = pack(dict(title=title), **{f"a{i}": a for i, a in enumerate(given)})
    end = 4 + struct.unpack_from("<I", blob)[0]                                      # by hand, without unpack
    for (kind, shape, start), array in zip(header(blob)["arrays"].values(), given):
        assert start % 8 == 0 and start >= end and blob[end:start].strip(b"\0 ") == b""
        end = start + math.prod(shape) * int(kind[1])
        assert blob[start:end] == array.tobytes()
    assert len(blob) - end < 8


def test_offsets_that_lengthen_the_header_move_the_arrays():
    "Around each size at which the offsets gain a digit, the header's own length decides where the arrays begin."
    for n in (*range(0, 130), *range(9_850, 10_050)):
        first, second = np.full(n, 7, "u1"), np.arange(3, dtype="f4")
        back = unpack(pack({}, first=first, second=second))[1]
        assert back["first"].tobytes() == first.tobytes() and back["second"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("array", [np.arange(6, dtype=">f4").reshape(2, 3), np.arange(12, dtype="i2").reshape(3, 4).T[::2], torch.arange(6).int().view(2, 3),
                                   np.arange(4, dtype="u4")[::-1]], ids=["big-endian", "strided", "tensor", "reversed"])
def test_pack_takes_any_layout(array):
    back = unpack(pack({}, x=array))[1]["x"]
    assert back.tolist() == array.tolist() and back.shape == tuple(array.shape)


@pytest.mark.parametrize("array", [np.zeros(2), np.zeros(2, "i8"), np.zeros(2, bool), np.zeros(2, "f2"), np.zeros(2, "c8"), np.array(["a"]), torch.zeros(2).double()])
def test_pack_refuses_what_javascript_cannot_view(array):
    with pytest.raises(TypeError, match="here is .* but must be one of f4, i1, i2, i4, u1, u2, u4"): pack({}, here=array)


@pytest.mark.parametrize("bad", [math.nan, math.inf, [1, -math.inf], dict(a=dict(b=math.nan))])
def test_pack_refuses_nan_in_meta(bad):
    with pytest.raises(ValueError, match="not JSON compliant"): pack(dict(bad=bad))


def test_nan_in_an_array_is_a_number_like_any_other(): assert math.isnan(unpack(pack({}, x=np.array([np.nan], "f4")))[1]["x"][0])


def test_a_file_name_that_is_no_text_can_be_packed():
    name = b"caf\xe9.png".decode(errors="surrogateescape")                           # as Path gives it on Linux
    assert unpack(pack(dict(names=[name])))[0] == dict(names=["caf?.png"])


# Sprite sheets

def opened(sheet): return np.asarray(Image.open(io.BytesIO(sheet.tobytes())).convert("RGB"))


def tile(pixels, columns, i, size):
    "As tileOf of widget.js places it, by division and remainder."
    top, left = i // columns * size, i % columns * size
    return pixels[top:top + size, left:left + size]


@pytest.mark.parametrize("N, C, S", [(1, 1, 1), (2, 3, 4), (3, 1, 7), (4, 3, 8), (10, 1, 16), (17, 3, 5)])
def test_tiles_equal_their_images_exactly_without_loss(N, C, S):
    x = np.random.default_rng(N).integers(0, 256, (N, C, S, S), np.uint8)
    sheet, columns = sprite_sheet(x, quality=101)
    pixels = opened(sheet)
    assert columns == math.ceil(N**0.5) and pixels.shape == (-(-N // columns) * S, columns * S, 3)
    for i in range(N): assert (tile(pixels, columns, i, S) == np.broadcast_to(x[i], (3, S, S)).transpose(1, 2, 0)).all()
    for i in range(N, -(-N // columns) * columns): assert not tile(pixels, columns, i, S).any()


def test_tiles_are_near_their_images_with_the_usual_loss():
    x = load_images("digits").train.x[:100]
    pixels, columns = (f(sprite_sheet(x)) for f in (lambda s: opened(s[0])[..., 0].astype(float), lambda s: s[1]))
    errors = [np.abs(tile(pixels, columns, i, 16) - x[i, 0].numpy()).mean() for i in range(100)]
    others = [np.abs(tile(pixels, columns, i, 16) - x[i - 1, 0].numpy()).mean() for i in range(100)]
    assert np.mean(errors) < 6           # grey levels of 255: WebP at 75 is off by some 2 % on strokes two pixels wide
    assert max(errors) < min(others) / 2  # so that no tile may be taken for its neighbour


def test_more_quality_takes_more_bytes_and_sheets_repeat():
    x = np.random.default_rng(0).normal(128, 30, (20, 1, 16, 16)).clip(0, 255).astype("u1")
    sizes = [len(sprite_sheet(x, q)[0]) for q in (10, 75, 101)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
    assert sprite_sheet(x)[0].tobytes() == sprite_sheet(x)[0].tobytes()


@pytest.mark.parametrize("shape, kind, says", [((0, 1, 8, 8), "u1", "with N above 0"), ((2, 2, 8, 8), "u1", r"\(2, 2, 8, 8\)"), ((2, 8, 8), "u1", "expected uint8"),
                                               ((2, 1, 8, 9), "u1", r"\(2, 1, 8, 9\)"), ((2, 1, 8, 8), "f4", "float32"), ((2, 1, 0, 0), "u1", "expected uint8"),
                                               ((5, 1, 5462, 5462), "u1", "5 pictures of 5462×5462 make a sheet 16386 pixels wide, above 16383"),
                                               ((4, 3, 8192, 8192), "u1", "16384 pixels wide")])
def test_sheet_refusals(shape, kind, says):
    with pytest.raises(ValueError, match=says): sprite_sheet(np.broadcast_to(np.zeros((), kind), shape))


# The page as text

class Parsed(HTMLParser):
    "The scripts of a page with their types, its styles and metas, its title, as Python's own parser finds them."
    def __init__(self, page):
        super().__init__()
        self.open, self.script, self.style, self.title, self.meta, self.tags = None, [], [], "", {}, []
        self.feed(page)
    def handle_starttag(self, tag, attrs):
        self.open, attrs = (tag, dict(attrs)), dict(attrs)
        self.tags.append(tag)
        if tag in ("script", "style"): getattr(self, tag).append([attrs, ""])
        if tag == "meta": self.meta[attrs.get("http-equiv", attrs.get("name"))] = attrs.get("content")
    def handle_endtag(self, tag): self.open = None
    def handle_data(self, data):
        if not self.open: return
        if self.open[0] in ("script", "style"): getattr(self, self.open[0])[-1][1] += data
        if self.open[0] == "title": self.title += data


def sha(text): return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def rules(page): return {name: sources for name, *sources in map(str.split, Parsed(page).meta["Content-Security-Policy"].split(";"))}


def simple(body="", style="p { color: red }", blob=b"", state=None, title="a title"):
    "A page whose widget runs `body`."
    return html_page(f"{SHARED}\nasync function render({{ model, el }}) {{ {body} }}\n{END}", style, blob or pack({}), state or {}, title)


def test_the_policy_names_the_script_and_the_style_as_they_stand():
    page = simple("el.append('ü');")
    found, allowed = Parsed(page), rules(page)
    (_, state), (_, blob), (attrs, run) = found.script
    assert attrs == dict(type="module") and "'ü'" in run and END not in run
    assert allowed == {"default-src": ["'none'"], "script-src": [sha(run)], "style-src": [sha(found.style[0][1])], "img-src": ["blob:", "data:"],
                       "base-uri": ["'none'"], "form-action": ["'none'"]}
    assert not re.search(r"unsafe|\*|https?:", found.meta["Content-Security-Policy"])
    assert not re.search(r"""\s(?:style|on\w+)=|(?:src|href)=["']?(?!x)""", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S))


@pytest.mark.parametrize("label", EVIL)
def test_no_label_opens_an_element(label):
    page, plain = simple(state=dict(label=label), blob=pack(dict(labels=[label])), title=label), simple()
    assert Parsed(page).tags == Parsed(plain).tags
    assert json.loads(Parsed(page).script[0][1]) == dict(label=label) and Parsed(page).title == label


@settings(max_examples=60, deadline=None)
@given(some.dictionaries(NAMES, QUIET | some.sampled_from(EVIL), max_size=3), some.binary(max_size=200))
def test_state_and_data_come_back(state, blob):
    (_, text), (_, data), _ = Parsed(html_page(END, "", blob, state, "")).script
    assert json.loads(text) == state and gzip.decompress(base64.b64decode(data)) == blob


@pytest.mark.parametrize("script, style", [("'</script>'", ""), ("'</SCRIPT >'", ""), ("'<script'", ""), ("'<!--'", ""), ("", "a { content: '</style>' }")])
def test_a_script_or_style_that_ends_itself_is_refused(script, style):
    with pytest.raises(ValueError, match="in a script or style ends it there"): html_page(script + "\n" + END, style, b"", {}, "")


def test_same_widget_same_bytes(): assert simple(state=dict(b=1, a=2)) == simple(state=dict(b=1, a=2))


@pytest.mark.parametrize("name", ["explore", "studio", "playground"])
def test_each_script_and_style_of_ours_fits_in_a_page(name):
    script = javascript(name)
    assert script.startswith(SHARED[:60]) and script.endswith(END) and script.count("export ") == 1
    assert html_page(script, stylesheet(name), b"", {}, "").count("<script") == 3


def test_a_script_without_the_agreed_end_is_refused():
    with pytest.raises(ValueError, match="widget.js must end with 'export default { render };'"): javascript("widget")


# The class

class Book(StaticWidget):
    _esm = f"{SHARED}\nfunction render({{ model, el }}) {{ el.append(h('p', {{}}, model.get('label'))); }}\n{END}"
    _css = STYLE
    label = traitlets.Unicode("page").tag(sync=True)
    number = traitlets.Int(3).tag(sync=True)
    own = traitlets.Int(4)
    _secret = traitlets.Unicode("key").tag(sync=True)


class Longer(Book):
    more = traitlets.List().tag(sync=True)


def state_of(page): return json.loads(Parsed(page).script[0][1])


def test_state_holds_own_public_synced_values_as_they_stand():
    book = Longer(blob=pack({}), number=8)
    assert state_of(book.page("")) == dict(label="page", number=8, more=[])
    book.more = [EVIL[0]]
    assert state_of(book.page("")) == dict(label="page", number=8, more=[EVIL[0]]) and book.live is True
    assert state_of(StaticWidget.page(Book(), "")) == dict(label="page", number=3)


def test_save_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "book.html"
    assert Book().save(path, "first") == path and path.read_text(encoding="utf-8") == Book().page("first")
    class Broken(Book):
        score = traitlets.Any().tag(sync=True)
    with pytest.raises(ValueError, match="not JSON compliant"): Broken(score=math.inf).save(path, "second")
    with pytest.raises(FileNotFoundError): Book().save(tmp_path / "nowhere" / "book.html")
    assert [p.name for p in tmp_path.iterdir()] == ["book.html"] and "first" in path.read_text(encoding="utf-8")


def test_static_frame_holds_the_page_and_may_run_scripts_only():
    markup = Book().static(height=300, title=EVIL[1]).data
    frame = re.search('<iframe srcdoc="(.*?)" title="(.*?)" sandbox="allow-scripts" style="width:100%;height:300px;border:0"></iframe>', markup, re.S)
    assert unescape(frame[1]) == Book().page(EVIL[1]) and unescape(frame[2]) == EVIL[1]


# In Chromium

class Watched:
    "A page that counts what must not happen: errors, words on the console, requests other than for itself, refusals by the policy."
    def __init__(self, browser, **options):
        self.page, self.errors, self.asked = browser.new_page(**options), [], []
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.add_init_script("window.refused = []; addEventListener('securitypolicyviolation', (e) => refused.push([e.effectiveDirective, e.blockedURI]));")
    def open(self, path):
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=20_000)
        return self.page
    def refused(self): return self.page.evaluate("new Promise((done) => setTimeout(() => done(refused), 150))")


@pytest.fixture
def watched(browser):
    seen = Watched(browser)
    yield seen
    seen.page.close()


LOOK = """(bytes) => Object.entries(unpack(Uint8Array.from(bytes))).map(([name, v]) =>
  name === "meta" ? [name, v] : [name, v.constructor.name, v.shape, v.byteOffset, Array.from(v, (x) => Number.isFinite(x) ? x : String(x))])"""


def test_javascript_unpacks_what_python_packed(watched):
    page, rng = watched.page, np.random.default_rng(0)
    page.add_script_tag(content=SHARED)
    kinds = dict(f4="Float32Array", u1="Uint8Array", u2="Uint16Array", u4="Uint32Array", i1="Int8Array", i2="Int16Array", i4="Int32Array")
    assert set(kinds) == KINDS
    for round in range(4):
        given = {kind: rng.integers(0, 256, (round, 3, 5 - round, int(kind[1])), np.uint8).view(kind)[..., 0] for kind in kinds}
        given["f4"] = rng.standard_normal((round, 3)).astype("f4")
        if round == 3: given["f4"][0] = np.nan, np.inf, -np.inf
        (_, meta), *found = page.evaluate(LOOK, list(pack(dict(labels=EVIL, n=round), **given)))
        assert meta == dict(labels=list(EVIL), n=round)
        for (name, constructor, shape, start, values), (kind, array) in zip(found, given.items(), strict=True):
            assert (name, constructor, shape, start % 8) == (kind, kinds[kind], list(array.shape), 0)
            numbers = [float(v.replace("Infinity", "inf")) if isinstance(v, str) else v for v in values]
            np.testing.assert_array_equal(np.array(numbers, kind), array.flatten())
    single = page.evaluate(LOOK, list(pack({}, one=np.array(5, "u2"))))[1]
    assert single[1:3] == ["Uint16Array", []] and single[4] == [5]


def test_javascript_unpacks_from_any_kind_of_view(watched):
    "A notebook hands over a DataView that may begin anywhere in a longer buffer; a page a Uint8Array."
    watched.page.add_script_tag(content=SHARED)
    found = watched.page.evaluate("""(bytes) => [3, 8].map((gap) => {
      const long = new Uint8Array(gap + bytes.length + 5);
      long.set(bytes, gap);
      return [new DataView(long.buffer, gap, bytes.length), long.subarray(gap, gap + bytes.length), Uint8Array.from(bytes).buffer].map((v) => Array.from(unpack(v).x));
    })""", list(pack(dict(a="b"), x=np.array([1.5, -2], "f4"))))
    assert found == [[[1.5, -2]] * 3] * 2


def test_a_page_from_a_file_works_without_errors_or_requests(watched, tmp_path):
    x = np.stack([np.full((1, 8, 8), v, "u1") for v in (0, 100, 200)])
    sheet, columns = sprite_sheet(x, 101)
    body = """const data = unpack(model.get("blob")), sprites = await spriteSheet(data.sheet, 8, data.meta.columns);
      el.append(h("div", { className: "simclr" }, ...data.meta.labels.map((label, i) => h("p", {}, label)), tileOf(sprites, 8, data.meta.columns, 2, 16, model.get("label"))));
      const canvas = h("canvas", { width: 16, height: 16 });
      const paint = canvas.getContext("2d", { willReadFrequently: true });
      paint.drawImage(sprites.image, 0, 0);
      window.seen = [0, 1, 2].map((i) => paint.getImageData(...sprites.place(i), 1, 1).data[0]);
      window.live = model.get("live");"""
    path = tmp_path / "book.html"
    path.write_text(simple(body, STYLE, pack(dict(labels=EVIL, columns=columns), sheet=sheet), dict(label=EVIL[0]), EVIL[2]), encoding="utf-8")
    page = watched.open(path)
    assert page.evaluate("seen") == [0, 100, 200] and page.evaluate("live") is False
    assert page.eval_on_selector_all("p", "all => all.map((p) => p.textContent)") == list(EVIL)
    assert page.title() == " ".join(EVIL[2].split()) and page.locator(".tile").get_attribute("aria-label") == EVIL[0]
    assert page.locator("img, #widget script").count() == 0 and page.evaluate("window.hurt") is None
    assert watched.refused() == [] and watched.errors == []
    assert [url for url in watched.asked if not url.startswith("blob:")] == [path.as_uri()]


def test_the_widget_class_opens_from_a_file_and_in_a_frame(watched, tmp_path):
    book = Book(blob=pack({}), label=EVIL[1])
    page = watched.open(book.save(tmp_path / "book.html"))
    assert page.locator("p").text_content() == EVIL[1]
    frame = tmp_path / "frame.html"
    frame.write_text(f'<!doctype html><meta charset="utf-8">{book.static(title=EVIL[0]).data}', encoding="utf-8")
    page.goto(frame.as_uri())
    inner = page.frame_locator("iframe")
    assert inner.locator("p").text_content(timeout=20_000) == EVIL[1]
    assert watched.errors == [] and page.evaluate("window.hurt") is None
    assert page.locator("iframe").get_attribute("title") == EVIL[0]


INJECTED = {
    "inline script": ("const s = document.createElement('script'); s.textContent = 'window.hurt = 1'; document.body.append(s)", "script-src-elem"),
    "handler": ("const b = document.createElement('b'); b.setAttribute('onclick', 'window.hurt = 1'); document.body.append(b); b.click()", "script-src-attr"),
    "script from another host": ("const s = document.createElement('script'); s.src = HOST; document.body.append(s)", "script-src-elem"),
    "image from another host": ("new Image().src = HOST", "img-src"),
    "fetch": ("fetch(HOST).catch(() => 0)", "connect-src"),
    "beacon": ("navigator.sendBeacon(HOST, 'secret')", "connect-src"),
    "socket": ("try { new WebSocket(HOST.replace('http', 'ws')) } catch {}", "connect-src"),
    "style": ("const s = document.createElement('style'); s.textContent = 'p { color: blue }'; document.body.append(s)", "style-src-elem"),
    "frame": ("const f = document.createElement('iframe'); f.src = HOST; document.body.append(f)", "frame-src"),
    "form": ("const f = document.createElement('form'); f.action = HOST; document.body.append(f); f.submit()", "form-action"),
}


@pytest.fixture(scope="module")
def host():
    "A server next door that counts who comes, so that silence is known to be the policy's doing and not the network's."
    came = []
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            came.append(self.path)
            self.send_response(200)
            self.end_headers()
        do_POST = do_GET
        def log_message(self, *_): pass
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", came
    server.shutdown()


@pytest.mark.parametrize("attack", INJECTED)
def test_the_policy_refuses(attack, watched, tmp_path, host):
    "Run as if the page's own script did it, which is trusted: what even that may not do, nobody else on the page may."
    code, directive = INJECTED[attack]
    url, came = host
    path = tmp_path / "page.html"
    path.write_text(simple(), encoding="utf-8")
    page = watched.open(path)
    page.evaluate(f"() => {{ {code.replace('HOST', repr(url + attack.split()[0]))} }}")
    assert [which for which, _ in watched.refused()] == [directive]
    assert page.evaluate("window.hurt") is None and came == []


def test_the_host_would_have_answered(watched, host, tmp_path):
    "The control: without the policy the same image is fetched."
    url, came = host
    path = tmp_path / "page.html"
    path.write_text(re.sub("<meta http-equiv.*?>", "", simple(f"new Image().src = {url + 'image'!r}")), encoding="utf-8")
    watched.open(path)
    assert watched.refused() == [] and came == ["/image"]
    came.clear()


def test_an_element_put_into_the_file_is_refused(watched, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(simple().replace("<noscript>", "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'><noscript>"), encoding="utf-8")
    page = watched.open(path)
    assert page.evaluate("window.hurt") is None
    assert sorted(which for which, _ in watched.refused()) == ["img-src", "script-src-attr", "script-src-elem"]        # the picture, its handler, the script


def test_one_changed_character_and_nothing_runs(watched, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(simple("window.ran = 1").replace("window.ran = 1", "window.ran = 2"), encoding="utf-8")
    watched.page.goto(path.as_uri())
    assert [which for which, _ in watched.refused()] == ["script-src-elem"]
    assert watched.page.evaluate("window.ran") is None and watched.page.locator("html[data-ready]").count() == 0


def test_the_local_model_is_a_model(watched):
    watched.page.add_script_tag(content=SHARED)
    assert watched.page.evaluate("""() => {
      const model = localModel({ n: 1 }), heard = [];
      const one = () => heard.push(["one", model.get("n")]), two = () => heard.push(["two", model.get("n")]);
      model.on("change:n", one); model.on("change:n", two);
      model.set("n", 2); model.set("n", 2);
      model.off("change:n", one); model.set("n", 3); model.off("change:n"); model.set("n", 4);
      return heard;
    }""") == [["one", 2], ["two", 2], ["two", 3]]


@pytest.mark.parametrize("scheme, dark", [("light", False), ("dark", True)])
def test_the_theme_follows_the_reader_and_the_page_around(browser, tmp_path, scheme, dark):
    path = tmp_path / "page.html"
    path.write_text(simple('const root = h("div", { className: "simclr" }, "text"); el.append(root); followTheme(root);', STYLE), encoding="utf-8")
    seen = Watched(browser, color_scheme=scheme)
    page = seen.open(path)
    look = {True: ".simclr.dark[data-themed]", False: ".simclr:not(.dark)[data-themed]"}      # wait_for_function would need eval, which the policy refuses
    page.wait_for_selector(look[dark])
    page.evaluate("(simclrTheme) => postMessage({ simclrTheme }, '*')", "light" if dark else "dark")
    page.wait_for_selector(look[not dark])
    assert seen.errors == []
    page.close()
