"""The site: README, docs, notebooks with their outputs, claims and the library's reference. `make site` builds it.

Pages are read where they lie, so a link that works in a checkout works here. What only the site needs is put in while
a page is read: the table of contents, folded code, alternative texts, links from verdicts to their claims.
"""

import html
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

SITE = Path(__file__).parent
ROOT = SITE.parent
sys.path.insert(0, str(ROOT / "src"))

from companion.notebooks.claims import CLAIMS, VERDICT_MIME, verdicts  # noqa: E402

logger = logging.getLogger(__name__)

project = "Entropy dynamics"
author = "The entropy-dynamics authors"
extensions = ["myst_nb", "autoapi.extension", "sphinx.ext.napoleon"]

root_doc = "README"
include_patterns = [
    "README.md", "CHANGELOG.md", "data/README.md", "docs/*.md", "notebooks/[0-9][0-9]_*.ipynb", "site/*.md", "site/*.rst"
]
exclude_patterns = [".*", "build", "**/node_modules"]

# Notebooks are shown as they are committed.
nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/html", 0)]  # verdicts, which `read_notebook` makes
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

# Formulas are rendered here; a page needs KaTeX's style and fonts, and no script.
html_math_renderer = "katex"

# Read from the source, since importing the library would need torch.
autoapi_dirs = [str(ROOT / "src" / "entropy_dynamics")]
autoapi_generate_api_docs = False
autoapi_python_class_content = "both"
autodoc_typehints = "none"
default_role = "code"

html_theme = "furo"
html_title = project
html_static_path = ["site.css", "site.js", "node_modules/katex/dist/katex.min.css"]
html_css_files = ["katex.min.css", "site.css"]
html_js_files = ["site.js"]
templates_path = ["templates"]
html_copy_source = False
html_sidebars = {
    "**": [
        "sidebar/brand.html", "sidebar/search.html", "sidebar/scroll-start.html",
        "explorer.html", "sidebar/navigation.html", "sidebar/scroll-end.html",
    ]
}


def table_of_contents(readme: str) -> str:
    """Every page by its kind; notebooks under the names that the README links them by."""
    names = {stem: name for name, stem in reversed(re.findall(r"\[([^]]+)\]\(notebooks/(\w+)\.ipynb\)", readme))}
    notebooks = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    entries = {
        "Notebooks": [f"{names[stem]} <notebooks/{stem}>" if stem in names else f"notebooks/{stem}" for stem in notebooks],
        "Reference": ["Claims <site/claims>", "Library <site/api>"],
        "More": [*(f"docs/{path.stem}" for path in sorted((ROOT / "docs").glob("*.md"))), "data/README", "CHANGELOG"],
    }
    return "".join(
        f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in entries.items()
    )


def verdict_as_html(verdict: dict) -> str:
    """A verdict whose id leads to the claim."""
    word, id, line = "Holds" if verdict["holds"] else "Fails", verdict["claim"], html.escape(verdict["line"])
    return f'<p class="verdict" id="{id}"><b>{word}</b> <a href="../site/claims.html#{id}">{id}</a>: {line}</p>'


def read_notebook(source: str) -> str:
    """Folds code, and hands alternative texts and verdicts to the page."""
    notebook = nbformat.reads(source, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.setdefault("tags", []).append("hide-input")
            for output in cell.outputs:
                alt = output.get("metadata", {}).get("image/png", {}).get("alt")
                if alt:
                    cell.metadata["mystnb"] = {"image": {"alt": alt}}
                if VERDICT_MIME in output.get("data", {}):
                    output.data = {"text/html": verdict_as_html(output.data[VERDICT_MIME])}
    return nbformat.writes(notebook)


def source_read(app, docname, source):
    if docname == root_doc:
        source[0] += table_of_contents(source[0])
    elif docname.startswith("notebooks/"):
        source[0] = read_notebook(source[0])


def as_restructured_text(app, what, name, obj, options, lines):
    """Outside of `code`, docstrings are plain text, in which S_* and |x| mean nothing; indented lines after : are code."""
    text = re.sub(r":\n\n(?= {4})", "::\n\n", "\n".join(lines))
    kept = r"::\n\n(?: {4}.*(?:\n|$)|\n)+|`[^`]*`|^\s*(?:\.\. |\* ).*|\\."
    lines[:] = re.sub(rf"({kept})|([*_|])", lambda found: found[1] or "\\" + found[2], text, flags=re.M).split("\n")


class Claims(SphinxDirective):
    """Every claim under its id: statement, whose it is, evidence, and the cell, function and test behind it."""

    def run(self):
        sections = []
        for stem in dict.fromkeys(claim.notebook for claim in CLAIMS.values()):
            path = ROOT / "notebooks" / f"{stem}.ipynb"
            self.env.note_dependency(str(path))
            decided = {verdict.claim: verdict for verdict in verdicts(nbformat.read(path, 4))}
            title, _ = self.parse_inline(f"[](../notebooks/{path.name})")
            section = nodes.section("", nodes.title("", "", *title), ids=[stem])
            section += [
                claim_section(claim, decided.get(claim.id)) for claim in CLAIMS.values() if claim.notebook == stem
            ]
            sections.append(section)
        return sections


def claim_section(claim, verdict):
    function = nodes.literal("", claim.function)
    if claim.function.startswith("entropy_dynamics."):
        function = addnodes.pending_xref(
            "", function, refdomain="py", reftype="obj", reftarget=claim.function, refwarn=True
        )
    cell = nodes.reference("", claim.notebook, internal=True, refuri=f"../notebooks/{claim.notebook}.html#{claim.id}")
    rows = {
        "Source": [nodes.Text(claim.whose)],
        "Cell": [cell if verdict else nodes.Text(f"{claim.notebook}, which has not been run yet")],
        "Found": [nodes.Text(verdict.line if verdict else "nothing yet")],
        "Function": [function],
        "Test": [nodes.literal("", f"tests/{claim.test}")],
    }
    fields = [
        nodes.field("", nodes.field_name("", name), nodes.field_body("", nodes.paragraph("", "", *content)))
        for name, content in rows.items()
    ]
    return nodes.section(
        "",
        nodes.title("", claim.id),
        nodes.paragraph("", claim.statement),
        nodes.field_list("", *fields),
        ids=[claim.id],
    )


@cache
def katex():
    return subprocess.Popen(
        ["node", SITE / "katex.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", bufsize=1
    )


def formula(translator, node):
    """A formula as HTML; what KaTeX refuses is a warning."""
    block = isinstance(node, nodes.math_block)
    print(json.dumps({"tex": node.astext(), "displayMode": block}), file=katex().stdin)
    answer = json.loads(katex().stdout.readline())
    if "error" in answer:
        logger.warning(answer["error"], location=node)
    tag = "div" if block else "span"
    translator.body.append(f'<{tag} class="math">{answer.get("html")}</{tag}>')
    raise nodes.SkipNode


def build_finished(app, exception):
    if exception is None:
        out = Path(app.outdir)
        shutil.copyfile(out / "README.html", out / "index.html")
        shutil.copytree(SITE / "explorer", out / "explorer", dirs_exist_ok=True)
        shutil.copytree(SITE / "node_modules" / "katex" / "dist" / "fonts", out / "_static" / "fonts", dirs_exist_ok=True)


def setup(app):
    app.add_html_math_renderer("katex", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.connect("source-read", source_read)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("build-finished", build_finished)
    app.add_directive("claims", Claims)
