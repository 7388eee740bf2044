"""The Chromium that pages are tried in, and axe-core, which checks contrast and names in it."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


def missing(what):
    if os.environ.get("CI"):
        pytest.fail(f"{what}, which CI must have")
    pytest.skip(what)


@contextlib.contextmanager
def chromium():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        missing("there is no Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium)
        yield launched
        launched.close()


def complaints_of_axe(page):
    if not AXE.is_file():
        missing("axe-core is not installed")
    page.add_script_tag(path=AXE)
    return {violation["id"] for violation in page.evaluate("axe.run({preload: false})")["violations"]}
