"The built site: links, hosts, formulas, sizes, and every page in a real browser."
import ast
import json
import re
import subprocess
import sys
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from build_site import page_name
from conftest import ROOT
from notebooks import notebooks

LOADED = dict(script="src", img="src", iframe="src", source="src", video="src", audio="src", embed="src", object="data", track="src", input="src")
FETCHED = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}      # kinds of <link>
CSS_HOST = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")\s]+)""")
VERBATIM = {"code", "pre", "script", "style", "textarea", "kbd"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Read(HTMLParser):
    "What a page holds: its anchors, links, what it loads, its styles, its prose, its formulas."

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads, self.css, self.prose, self.formulas, self.inside = set(), [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if tag not in VOID: self.inside.append(tag)
        self.anchors |= {a[key] for key in ("id", "name") if a.get(key)}
        self.links += [a[key] for key in ("href", "src", "data", "poster") if a.get(key) is not None and tag != "base"]
        self.links += [part.split()[0] for part in (a.get("srcset") or "").split(",") if part.strip()]
        if a.get(LOADED.get(tag)): self.loads.append(a[LOADED[tag]])
        self.loads += [part.split()[0] for part in (a.get("srcset") or "").split(",") if part.strip()]
        if tag == "link" and FETCHED & set((a.get("rel") or "").split()): self.loads.append(a.get("href") or "")
        if a.get("style"): self.css.append(a["style"])
        if tag == "math": self.formulas.append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID: self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag in self.inside: del self.inside[len(self.inside) - 1 - self.inside[::-1].index(tag):]

    def handle_data(self, text):
        if "style" in self.inside: self.css.append(text)
        if "math" in self.inside: self.formulas[-1] += text
        elif not VERBATIM & set(self.inside): self.prose.append(text)


@cache
def read(path): return Read(path.read_text(encoding="utf-8"))


def broken(folder):
    "Links of a site's pages that lead nowhere: to no file, or to no anchor of a page."
    found = []
    for page in sorted(folder.rglob("*.html")):
        for link in read(page).links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"): continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir(): target /= "index.html"
            state = target.parent.name == "widgets"                      # what follows # there is a state, not an anchor
            if not target.is_file(): found.append(f"{page.name}: {link}")
            elif parts.fragment and not state and target.suffix == ".html" and unquote(parts.fragment) not in read(target).anchors | {"top"}:
                found.append(f"{page.name}: {link} (no such anchor)")
    return found


def other_hosts(folder):
    "What a site would load from elsewhere."
    pages = [(page.name, url) for page in folder.rglob("*.html") for url in read(page).loads if re.match(r"(https?:)?//", url)]
    styles = [(page.name, "\n".join(read(page).css)) for page in folder.rglob("*.html")]
    styles += [(style.name, style.read_text(encoding="utf-8")) for style in folder.rglob("*.css")]
    return pages + [(name, url) for name, css in styles for url in CSS_HOST.findall(css)]


def raw_formulas(page):
    "Formulas that a reader would see as LaTeX."
    prose = re.findall(r"\\[a-zA-Z]+|\\[(\[]|\$[^$\s\d][^$\n]*\$", "".join(read(page).prose))
    return prose + [formula for formula in read(page).formulas if "\\" in formula] + re.findall(r'class="math|katex|mathjax', page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site, built once, without Quarto so that every machine tests the same."
    out = tmp_path_factory.mktemp("site") / "docs"
    done = subprocess.run([sys.executable, ROOT / "tools/build_site.py", out, "smalldocs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return out


@pytest.fixture(scope="module")
def server(site):
    "The site at an address of this machine."
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), dict(log_message=lambda *_: None))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(site))) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/"
        http.shutdown()


def pages(folder): return sorted(folder.glob("*.html"))


def address(kind, site, server): return server if kind == "http" else site.as_uri() + "/"


# The files

def test_every_notebook_is_a_page_and_nothing_else_is(site):
    names = sorted(f"{page_name(path.stem)}.html" for path in notebooks())
    assert [page.name for page in pages(site)] == names
    listed = re.findall(r"<loc>[^<]*/([^/<]+)</loc>", (site / "sitemap.xml").read_text(encoding="utf-8"))
    found = json.loads((site / "search.json").read_text(encoding="utf-8"))
    assert sorted(listed) == names and not [entry["href"] for entry in found if entry["href"].startswith("widgets/")]


def test_no_link_is_broken(site): assert not broken(site)


@pytest.mark.parametrize("link, why", [
    ('<a href="gone.html">', "gone.html"), ('<a href="#gone">', "no such anchor"), ('<a href="b.html#gone">', "no such anchor"), ('<img src="gone.png">', "gone.png"),
    ('<a href="b.html#here">', ""), ('<a href="b.html?q=1#caf%C3%A9">', ""), ('<a href="widgets/w.html#pick=42">', ""), ('<a href="widgets/v.html#pick=42">', "v.html"),
    ('<a href="https://example.com/gone">', ""), ('<a href="mailto:a@example.com">', ""), ('<img srcset="b.html 1x, gone.png 2x">', "gone.png"),
    ('<noscript><img src="gone.png"></noscript>', "gone.png"), ('<iframe src="widgets/v.html"></iframe>', "v.html"), ('<a href="">', ""),
])
def test_the_link_checker_finds_what_is_broken(link, why, tmp_path):
    (tmp_path / "widgets").mkdir()
    (tmp_path / "widgets/w.html").write_text("<p>")
    (tmp_path / "b.html").write_text('<h2 id="here">x</h2><a name="café">y</a>', encoding="utf-8")
    (tmp_path / "a.html").write_text(f"<p>{link}x")
    found = broken(tmp_path)
    assert (len(found) == 1 and why in found[0]) if why else not found


def test_nothing_comes_from_another_host(site): assert not other_hosts(site)


@pytest.mark.parametrize("text, loads", [
    ('<script src="https://cdn.example.com/x.js"></script>', True), ('<img src="//example.com/x.png">', True), ('<iframe src="https://example.com">', True),
    ('<link rel="stylesheet" href="https://example.com/x.css">', True), ("<style>@import 'https://example.com/x.css';</style>", True),
    ('<p style="background: url(https://example.com/x.png)">', True), ('<img srcset="https://example.com/x.png 2x">', True),
    ('<a href="https://example.com">', False), ('<link rel="canonical" href="https://example.com">', False), ('<img src="data:image/png;base64,AA">', False),
])
def test_the_host_check_finds_what_loads(text, loads, tmp_path):
    (tmp_path / "a.html").write_text(text)
    assert bool(other_hosts(tmp_path)) == loads


def test_every_formula_is_mathml(site):
    assert {page.name: raw_formulas(page) for page in pages(site) if raw_formulas(page)} == {}
    assert len(read(site / "loss.html").formulas) > 20


@pytest.mark.parametrize("text, raw", [(r"<p>\(a\)", True), (r"<p>$a_i$ and", True), (r"<math><mi>\foo</mi></math>", True), ("<p>$5 and $6", False),
                                       (r"<code>\(a\)</code>", False), ("<math><mi>a</mi></math>", False)])
def test_the_formula_check_finds_latex(text, raw, tmp_path):
    (tmp_path / "a.html").write_text(text)
    assert bool(raw_formulas(tmp_path / "a.html")) == raw


def raw_links(page):
    "Links that a reader would see as Markdown: nbdev makes one of a function's name, and a link in a link is none."
    text = re.sub(r"<(pre|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
    return re.findall(r"\w+\]\([^)]*\)", re.sub(r"<[^>]+>", "", text))


def test_no_link_is_left_as_markdown(site): assert {page.name: raw_links(page) for page in pages(site) if raw_links(page)} == {}


@pytest.mark.parametrize("text, raw", [('<p>[<a href="a.html#f"><code>f</code></a>](a.ipynb)', True), ("<p>[f](a.ipynb)", True),
                                       ("<pre>[f](x)</pre>", False), ('<a href="a.html">f</a> (x)', False)])
def test_the_link_check_finds_markdown(text, raw, tmp_path):
    (tmp_path / "a.html").write_text(text)
    assert bool(raw_links(tmp_path / "a.html")) == raw


def test_pages_are_small(site): assert not [page.name for page in site.rglob("*.html") if page.stat().st_size >= 4_000_000]


def test_widgets_and_pictures_are_copied_untouched(site):
    for path in [*(ROOT / "nbs/widgets").glob("*.html"), *(ROOT / "nbs/images").glob("*")]:
        assert (site / path.relative_to(ROOT / "nbs")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("page", [page_name(p.stem) for p in notebooks()])
def test_each_widget_has_a_picture_for_where_no_javascript_runs(site, page):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    frames = [frame for frame in re.findall(r"<iframe\b[^>]*>", text) if "widgets/" in frame]
    assert all('class="widget"' in frame and "title=" in frame for frame in frames), frames
    assert len(re.findall(r'<noscript>(?:<style>[^<]*</style>)?\s*<img src="images/[^"]+" alt="[^"]', text)) >= len(frames)


def test_citations_lead_to_a_list_of_references(site):
    unlinked = re.compile(r"(?<!, )\b[A-Z][\w'-]+ (?:et al\.|and [A-Z]\w+),? \(?(?:19|20)\d\d\b")
    missing = []
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        prose = re.sub(r"<(pre|script|style|code|h\d)\b.*?</\1>|<a\b.*?</a>|<nav\b.*?</nav>", " ", text, flags=re.S)
        missing += [f"{page.name}: {who}" for who in unlinked.findall(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", prose)))]
    assert not missing, "nbs/references.bib does not know them"
    assert 'href="#ref-chen2020simclr"' in (site / "loss.html").read_text(encoding="utf-8")


# The reference

def public():
    "Each public name of each module: (module, name, first line of a function or class, else None)."
    for path in sorted((ROOT / "simclr").glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = {node.name: node.lineno for node in tree.body if hasattr(node, "decorator_list")}
        names = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
        for name in names: yield path.stem, name, lines.get(name)


def test_each_function_is_documented_on_its_page_with_signature_and_source(site):
    bad = []
    for module, name, line in public():
        if line is None: continue
        text = (site / f"{module}.html").read_text(encoding="utf-8")
        shown = re.search(rf'<a href="[^"]*/simclr/{module}\.py#L(\d+)"[^>]*>source</a></p>\s*<h3 id="{name.lower()}(?:-\d)?"[^>]*>{name}</h3>(.*?)</pre>', text, re.S)
        code = re.sub(r"<[^>]+>", "", shown[2]) if shown else ""
        if not shown or int(shown[1]) != line or name not in code: bad.append(f"{module}.{name}")
    assert not bad


def test_the_reference_names_everything_once_and_leads_to_its_lesson(site):
    text = (site / "api.html").read_text(encoding="utf-8")
    heads = re.findall(r'<h3 id="[^"]*"[^>]*>([^<]*)</h3>', text)
    assert {name for _, name, line in public() if line} <= set(heads) <= {name for _, name, _ in public()}
    missing = [name for module, name, line in public() if line and f'href="{module}.html#{name.lower()}"' not in text]
    assert not missing


# In a browser

class Watch:
    "What goes wrong on a page while it is open."

    def __init__(self, page, home):
        self.faults = []
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: {error}"))
        page.on("console", lambda message: self.faults.append(f"{page.url}: {message.text}") if message.type == "error" else None)
        ours = ("data:", "blob:", "about:", home)
        page.on("request", lambda request: None if request.url.startswith(ours) else self.faults.append(f"{page.url} asks for {request.url}"))


def draw_all(page):
    "Scroll every figure into view and wait until each is drawn."
    for n in range(count := page.locator(".plotly-figure").count()):
        page.evaluate("n => document.querySelectorAll('.plotly-figure')[n].scrollIntoView()", n)
        page.wait_for_selector(f".plotly-figure >> nth={n} >> .main-svg >> nth=0", state="attached")
    return count


@pytest.mark.parametrize("kind", ["file", "http"])
def test_every_page_opens_without_a_fault(kind, site, server, browser):
    home = address(kind, site, server)
    page, figures = browser.new_page(), 0
    watch = Watch(page, home)
    for path in pages(site):
        page.goto(urljoin(home, path.name))
        if kind == "file": figures += draw_all(page)
    page.close()
    assert not watch.faults
    assert kind == "http" or figures > 30


@pytest.mark.parametrize("kind", ["file", "http"])
def test_search_finds_the_loss(kind, site, server, browser):
    home = address(kind, site, server)
    page = browser.new_page()
    watch = Watch(page, home)
    page.goto(home + "index.html")
    page.click("#quarto-search button")
    page.fill("#quarto-search input", "nt_xent_loss")
    assert page.wait_for_selector(".search-result").get_attribute("href").endswith("loss.html#nt_xent_loss"), "the lesson comes before the reference"
    page.fill("#quarto-search input", "NT-Xent")
    page.wait_for_selector(".search-result >> text=NT-Xent")
    page.click(".search-result >> nth=0")
    page.wait_for_url("**/loss.html*")
    page.close()
    assert not watch.faults


def test_dark_mode_is_kept_and_figures_follow(server, browser):
    context = browser.new_context(color_scheme="light")
    page = context.new_page()
    brightness = "e => getComputedStyle(e).{}.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3"
    paper = lambda: page.eval_on_selector("body", brightness.format("backgroundColor"))
    ink = lambda: page.eval_on_selector(".plotly-figure .xtick text", brightness.format("fill"))
    page.goto(server + "loss.html")
    page.locator(".plotly-figure").nth(1).scroll_into_view_if_needed()
    page.wait_for_selector(".plotly-figure .xtick text")
    assert paper() > 240 and ink() < 80
    page.click(".quarto-color-scheme-toggle")
    page.wait_for_function("document.documentElement.classList.contains('quarto-dark')")
    page.wait_for_function(f"({brightness.format('fill')})(document.querySelector('.plotly-figure .xtick text')) > 180")
    assert paper() < 60
    page.click("#quarto-search button")
    field = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor].map(c => Number(c.match(/\\d+/)[0]))"
    letters, ground = page.eval_on_selector("#quarto-search input", field)
    assert letters - ground > 120, "what is typed cannot be read"
    page.goto(server + "index.html")
    assert paper() < 60, "the choice is forgotten"
    context.close()


CUT = """() => [...document.querySelectorAll("main *")].filter(e => {
  const box = e.getBoundingClientRect();
  const scrolls = a => a && a.tagName !== "MAIN" && (/auto|scroll|hidden/.test(getComputedStyle(a).overflowX) || scrolls(a.parentElement));
  return box.width && box.right > innerWidth + 1 && !scrolls(e);
}).slice(0, 3).map(e => e.outerHTML.slice(0, 80))"""


def test_on_a_telephone_no_page_scrolls_sideways_and_nothing_is_cut_off(site, browser):
    page, faults = browser.new_page(viewport=dict(width=390, height=844)), {}
    for path in pages(site):
        page.goto(path.as_uri())
        width, cut = page.evaluate("document.documentElement.scrollWidth"), page.evaluate(CUT)
        if width > 390 or cut: faults[path.name] = (width, cut)
    page.close()
    assert not faults, faults


def test_without_javascript_pictures_stand_where_figures_would(site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    for name in ("loss", "evaluate"):
        page.goto((site / f"{name}.html").as_uri())
        figures, pictures = page.locator(".plotly-figure"), page.locator("noscript img[src^='data:image/png']")
        assert figures.count() == pictures.count() > 3
        assert not any(box.is_visible() for box in figures.all())
        assert all(picture.bounding_box()["height"] > 100 and picture.get_attribute("alt") for picture in pictures.all())
    context.close()


def test_without_javascript_a_picture_stands_where_a_widget_would(site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "playground.html").as_uri())
    assert page.locator("iframe.widget").count() and not any(frame.is_visible() for frame in page.locator("iframe.widget").all())
    assert page.locator("noscript img[src^='images/']").first.bounding_box()["height"] > 100
    context.close()


def test_folded_code_opens_without_javascript(site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "loss.html").as_uri())
    fold = page.locator("details.code-fold").first
    assert not fold.locator("pre").is_visible()
    fold.locator("summary").click()
    assert fold.locator("pre").is_visible()
    context.close()


@pytest.mark.parametrize("name, widget", [("explore", "explorer"), ("studio", "studio"), ("playground", "playground")])
def test_a_widget_gets_its_height_and_the_pages_theme(browser, site, name, widget):
    page, errors = browser.new_page(viewport=dict(width=1200, height=900)), []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto((site / f"{name}.html").as_uri())
    page.locator("iframe.widget").first.scroll_into_view_if_needed()
    frame = page.frame(name=widget)
    frame.wait_for_selector("html[data-ready]", timeout=20_000)
    page.wait_for_timeout(400)
    tall = frame.evaluate("document.documentElement.scrollHeight")
    assert abs(page.locator("iframe.widget").first.bounding_box()["height"] - tall) < 12          # nothing is cut off, nothing scrolls
    page.evaluate("document.body.classList.add('quarto-dark')")
    frame.wait_for_selector(".simclr.dark", timeout=5000)
    assert errors == []
    page.close()


def test_a_sentence_drives_the_explorer(browser, site):
    page = browser.new_page()
    page.goto((site / "explore.html").as_uri())
    page.locator("iframe.widget").first.scroll_into_view_if_needed()
    frame = page.frame(name="explorer")
    frame.wait_for_selector("html[data-ready]", timeout=20_000)
    links = page.locator('a[target="explorer"]')
    assert links.count() >= 4
    for i in range(links.count()):
        links.nth(i).click()
        page.wait_for_timeout(400)
        wanted = links.nth(i).get_attribute("href").split("#")[1]
        assert set(frame.evaluate("location.hash.slice(1)").split("&")) == set(wanted.split("&"))
    page.close()
