"""The built site: it asks no other host for anything, its links lead somewhere, and everybody can read it."""

import functools
import http.server
import re
import threading

import nbformat
import pytest
from bs4 import BeautifulSoup
from chromium import complaints_of_axe, missing

from companion.notebooks.claims import CLAIMS, verdicts
from companion.provenance import ROOT

SITE = ROOT / "build" / "site"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "use": "href"}


@functools.cache
def pages():
    if not (SITE / "index.html").is_file():
        missing("the site is not built (make site)")
    return {
        path.relative_to(SITE).as_posix(): parsed(path.read_text(encoding="utf-8")) for path in SITE.rglob("*.html")
    }


@functools.cache
def parsed(text):
    return BeautifulSoup(text, "html.parser")


@functools.cache
def anchors(name):
    return {tag["id"] for tag in pages()[name].find_all(id=True)}


def notebook_page(path):
    return pages()[f"notebooks/{path.stem}.html"]


# --- Nothing comes from elsewhere ---


def loaded_from_elsewhere(name, text):
    """What a file of the site would load from another host."""
    if name.endswith(".html"):
        urls = [tag.get(LOADED[tag.name], "") for tag in parsed(text).find_all(LOADED)]
    elif name.endswith(".css"):
        urls = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", text)
    else:
        urls = re.findall(r"""["'`](https?://[^"'`]*)""", text)
    return [url for url in urls if re.match(r"(https?:)?//", url) and "//www.w3.org/" not in url]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.html", '<script src="https://cdn.example/x.js"></script>'),
        ("page.html", '<link rel="stylesheet" href="//cdn.example/x.css">'),
        ("page.html", '<img src="http://cdn.example/x.png">'),
        ("x.css", "@font-face { src: url(https://cdn.example/x.woff2) }"),
        ("x.css", '@import "https://cdn.example/x.css";'),
        ("x.js", 'fetch("https://cdn.example/x.json")'),
    ],
)
def test_what_would_be_loaded_from_elsewhere_is_seen(name, text):
    assert len(loaded_from_elsewhere(name, text)) == 1
    assert not loaded_from_elsewhere(name, re.sub(r"(https?:)?//cdn.example", "_static", text))


def test_nothing_is_loaded_from_elsewhere():
    files = [path for path in SITE.rglob("*") if path.suffix in (".html", ".css", ".js")]
    assert {path.suffix for path in files if pages()} == {".html", ".css", ".js"}
    for path in files:
        assert not loaded_from_elsewhere(path.name, path.read_text(encoding="utf-8")), path


# --- What is on it ---


def test_every_link_within_the_site_leads_somewhere():
    links = 0
    for name, page in pages().items():
        for tag in page.find_all("a", href=True):
            target, _, fragment = tag["href"].partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            path = (SITE / name).parent.joinpath(target).resolve() if target else SITE / name
            assert path.is_file(), f"{name} links to {target}"
            if fragment and path.suffix == ".html":
                assert fragment in anchors(path.relative_to(SITE).as_posix()), f"{name} links to {tag['href']}"
            links += 1
    assert links > 1000


def test_every_claim_is_an_anchor_and_every_verdict_leads_there_and_back():
    claims = pages()["docs/claims.html"]
    assert CLAIMS.keys() <= anchors("docs/claims.html")
    for path in NOTEBOOKS:
        decided = {verdict.claim for verdict in verdicts(nbformat.read(path, 4))}
        shown = notebook_page(path).select("p.verdict")
        assert {tag["id"] for tag in shown} == decided
        for tag in shown:
            assert tag.a["href"] == f"../docs/claims.html#{tag['id']}"
            assert claims.find("a", href=f"../notebooks/{path.stem}.html#{tag['id']}"), tag["id"]


def test_every_figure_of_a_notebook_has_its_alternative_text():
    outputs = [
        (path, output.metadata["image/png"]["alt"])
        for path in NOTEBOOKS
        for cell in nbformat.read(path, 4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(outputs) > 30
    for path, alt in outputs:
        assert notebook_page(path).find("img", alt=" ".join(alt.split())), alt


def test_no_picture_is_without_a_text():
    for name, page in pages().items():
        for picture in page.find_all("img"):
            assert len(picture.get("alt", "")) > 20, f"{name}: {picture.get('src')}"


def test_code_is_folded():
    for path in NOTEBOOKS:
        cells = notebook_page(path).select("div.cell_input")
        assert len(cells) == sum(cell.cell_type == "code" for cell in nbformat.read(path, 4).cells)
        assert all(cell.parent.name == "details" and not cell.parent.has_attr("open") for cell in cells)


def test_the_reference_has_every_module_of_the_library_and_its_functions():
    found = anchors("site/api.html")
    modules = {path.stem for path in (ROOT / "src" / "entropy_dynamics").glob("*.py")} - {"__init__"}
    assert {name.rpartition(".")[2] for name in found if name.startswith("module-")} == modules
    assert {claim.function for claim in CLAIMS.values() if claim.function.startswith("entropy_dynamics.")} <= found


def test_the_explorer_is_linked_from_every_page_and_in_the_text_of_three_notebooks():
    assert (SITE / "explorer" / "index.html").is_file()
    for name, page in pages().items():
        if page.find("aside"):  # not in the explorer itself
            assert page.find("aside").find("a", href=re.compile(r"explorer/index\.html$")), name
    for path in NOTEBOOKS:
        if path.stem[:2] in ("01", "02", "08"):
            assert notebook_page(path).find(role="main").find("a", href="../explorer/index.html"), path.stem


# --- In a browser ---

FIVE = ["index.html", "notebooks/02_grpo_step.html", "docs/claims.html", "docs/rules.html", "site/api.html"]


@pytest.fixture
def opened(browser):
    """Opens a page from a file where there is nothing else; what it misses or complains of fails the test."""
    pages()
    contexts, complaints = [], []

    def open_page(name, at=None, **options):
        at = at or SITE.as_uri()
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 850}} | options)
        contexts.append(context)
        page = context.new_page()
        page.route(lambda url: not url.startswith((at, "data:")), lambda route: route.abort())
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(f"{at}/{name}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_a_page_is_whole_and_readable(opened, name, scheme, width):
    page = opened(name, color_scheme=scheme, viewport={"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
    # a table in Markdown has a row of headings, and the first of them may be empty
    assert not complaints_of_axe(page) - {"empty-table-header"}


def test_formulas_are_rendered_in_their_own_font(opened):
    page = opened("notebooks/02_grpo_step.html")
    page.evaluate("document.fonts.ready")
    assert page.evaluate("[...document.fonts].some(f => f.family === 'KaTeX_Main' && f.status === 'loaded')")
    formulas = page.locator("article .math")
    assert formulas.count() > 50 and formulas.count() == page.locator("article .math > span").count()
    assert not page.locator(".katex-error").count()
    assert "\\frac" not in page.locator("article").inner_text()


@pytest.fixture
def served():
    """The site over HTTP: from a file a browser does not let the search read the pages that it found."""
    handler = functools.partial(QuietHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_search_finds_a_notebook_and_shows_where(served, opened):  # in this order: pages are closed before the server
    page = opened("search.html?q=sampler", at=served)
    page.wait_for_selector("ul.search li p.context")
    page.wait_for_load_state("networkidle")  # the search reads each page that it found
    found = page.locator("ul.search li a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert any("03_centred_discriminator" in link for link in found)
