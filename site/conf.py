"""The site: README, docs, notebooks with their outputs and the library's reference. `make site` builds it.

Pages are read where they lie, so a link between them works in a checkout, too. What only the site needs is put in
while a page is read: the table of contents, folded code, alternative texts, links between verdicts and claims.
"""

import html
import json
import os
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
from sphinx.util.osutil import relative_uri

SITE = Path(__file__).parent
ROOT = SITE.parent
sys.path.insert(0, str(ROOT / "src"))

from companion.notebooks.claims import CLAIMS, VERDICT_MIME  # noqa: E402

KATEX = SITE / "node_modules" / "katex" / "dist"
# Where the files of the repository can be read, such as https://HOST/OWNER/NAME/blob/COMMIT/; without it, links to
# files that are no page of the site are plain text.
SOURCE_URL = os.environ.get("SOURCE_URL", "")

logger = logging.getLogger(__name__)

project = "Entropy dynamics"
author = "The entropy-dynamics authors"
extensions = ["myst_nb", "autoapi.extension", "sphinx.ext.napoleon"]

root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "data/README.md",
    "docs/*.md",
    "notebooks/[0-9][0-9]_*.ipynb",
    "site/api.rst",
]
exclude_patterns = [".*", "build", "**/node_modules"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/html", 0)]
nb_code_prompt_show = "▸ Code"
nb_code_prompt_hide = "▾ Code"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
html_math_renderer = "katex"

# Read from the source, since importing the library would need torch.
autoapi_dirs = [str(ROOT / "src" / "entropy_dynamics")]
autoapi_generate_api_docs = False
autoapi_python_class_content = "both"
add_module_names = False
default_role = "code"

html_theme = "furo"
html_title = project
html_static_path = ["site.css", "site.js", str(KATEX / "katex.min.css")]
html_css_files = ["katex.min.css", "site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_domain_indices = html_use_index = False
html_show_sourcelink = False
templates_path = ["templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "explorer.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}


def pages(pattern):
    return [str(path.relative_to(ROOT).with_suffix("")) for path in sorted(ROOT.glob(pattern))]


def table_of_contents():
    notebooks = [
        f"{page.partition('/')[2].replace('_', ' ')} <{page}>" for page in pages("notebooks/[0-9][0-9]_*.ipynb")
    ]
    kinds = {"Notebooks": notebooks, "Documents": [*pages("docs/*.md"), "data/README", "site/api", "CHANGELOG"]}
    return "".join(
        f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```\n"
        for caption, entries in kinds.items()
    )


def verdict_as_html(claim, holds, line):
    word = "Holds" if holds else "Fails"
    return (
        f'<p class="verdict" id="{claim}"><b>{word}</b> '
        f'<a href="../docs/claims.html#{claim}">{claim}</a>: {html.escape(line)}</p>'
    )


def with_site_outputs(source):
    """A notebook with its code folded, its verdicts linked, and alternative texts where MyST-NB looks for them."""
    notebook = nbformat.reads(source, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.setdefault("tags", []).append("hide-input")
            for output in cell.outputs:
                data = output.get("data", {})
                if "image/png" in data:
                    cell.metadata["mystnb"] = {"image": {"alt": output.metadata["image/png"]["alt"]}}
                if "text/markdown" in data:  # the numbers behind a figure are not on the site
                    data["text/markdown"] = re.sub(r"\[([^]]+)\]\(\.\./build/[^)]*\)", r"`\1`", data["text/markdown"])
                if VERDICT_MIME in data:
                    output.data = {"text/html": verdict_as_html(**data[VERDICT_MIME])}
    return nbformat.writes(notebook)


def read(app, docname, source):
    if docname == root_doc:
        source[0] += table_of_contents()
    elif docname.startswith("notebooks/"):
        source[0] = with_site_outputs(source[0])


def link_files(app, doctree):
    """Links to files that are no page: a module of the library is found in its reference, others where the code is."""
    page = app.env.docname
    for node in list(doctree.findall(addnodes.download_reference)) + list(doctree.findall(addnodes.pending_xref)):
        target = (ROOT / page).parent / node["reftarget"].partition("#")[0]
        path = Path(os.path.normpath(target)).relative_to(ROOT) if target.exists() else None
        if path is None or str(path.with_suffix("")) in app.env.found_docs:
            continue
        if path.parent == Path("src/entropy_dynamics"):
            url = f"{relative_uri(page, 'site/api')}.html#module-entropy_dynamics.{path.stem}"
        elif path.is_relative_to("site/explorer"):
            url = relative_uri(page, "explorer/index.html")
        else:
            url = SOURCE_URL and SOURCE_URL + path.as_posix()
        node.replace_self(nodes.reference("", "", *node.children, refuri=url) if url else node.children)


def link_claims(app, doctree):
    """On the page of claims each is found under its id as it is written, and its verdict leads to the cell."""
    for section in doctree.findall(nodes.section) if app.env.docname == "docs/claims" else ():
        claim = CLAIMS.get(section[0].astext())
        if claim:
            section["ids"].insert(0, claim.id)
            _, _, verdict, *_ = section
            if isinstance(verdict[0], nodes.literal):  # in words where nothing has been decided yet
                url = f"../notebooks/{claim.notebook}.html#{claim.id}"
                verdict.replace(verdict[0], nodes.reference("", "", verdict[0], refuri=url))


def as_restructured_text(app, what, name, obj, options, lines):
    """Outside of `code`, docstrings are plain text, in which S_* and |x| mean nothing; indented lines after : are code,
    and what a rule says of its coefficients and constants are fields."""
    text = re.sub(r":\n\n(?= {4})", "::\n\n", "\n".join(lines))
    text = re.sub(r"^(?=(Coefficients|Constants): )", ":", text, flags=re.M)
    kept = r"::\n\n(?: {4}.*(?:\n|$)|\n)+|`[^`]*`|^\s*(?:\.\. |\* ).*|\\."
    lines[:] = re.sub(rf"({kept})|([*_|])", lambda found: found[1] or "\\" + found[2], text, flags=re.M).split("\n")


def skip_imported(app, what, name, obj, skip, options):
    return skip or obj.imported


@cache
def katex():
    return subprocess.Popen(
        ["node", SITE / "katex.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", bufsize=1
    )


def formula(translator, node):
    """A formula as HTML, which needs KaTeX's style and fonts and no script; what KaTeX refuses is a warning."""
    block = isinstance(node, nodes.math_block)
    print(json.dumps({"tex": node.astext(), "displayMode": block}), file=katex().stdin)
    answer = json.loads(katex().stdout.readline())
    if "error" in answer:
        logger.warning(answer["error"], location=node)
    tag = "div" if block else "span"
    translator.body.append(f'<{tag} class="math">{answer.get("html")}</{tag}>')
    raise nodes.SkipNode


def finish(app, exception):
    if exception is None:
        out = Path(app.outdir)
        shutil.copyfile(out / "README.html", out / "index.html")
        shutil.copytree(SITE / "explorer", out / "explorer", dirs_exist_ok=True)
        shutil.copytree(KATEX / "fonts", out / "_static" / "fonts", dirs_exist_ok=True)


def setup(app):
    app.add_html_math_renderer("katex", inline_renderers=(formula, None), block_renderers=(formula, None))
    app.connect("source-read", read)
    app.connect("doctree-read", link_files)
    app.connect("doctree-read", link_claims)
    app.connect("autodoc-skip-member", skip_imported)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("build-finished", finish)
