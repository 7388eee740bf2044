"""Every identity that is cited by its number stands in docs/identities.md, with code that exists."""

import importlib
import re

from companion.notebooks.claims import CLAIMS
from companion.provenance import ROOT

PAGE = (ROOT / "docs" / "identities.md").read_text(encoding="utf-8")
LISTED = set(re.findall(r"^\| (\d+) \|", PAGE, re.M))


def test_cited_identities_are_listed():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    texts += [claim.whose for claim in CLAIMS.values()]
    lists = [found for text in texts for found in re.findall(r"identit(?:y|ies) (\d+(?:(?:, | and )\d+)*)", text)]
    cited = {number for found in lists for number in re.findall(r"\d+", found)}
    assert len(cited) > 5 and cited <= LISTED


def test_the_code_of_every_identity_exists():
    names = re.findall(r"`([\w.]+)`", PAGE)
    assert len(names) > len(LISTED)
    for name in names:
        module, _, function = name.rpartition(".")
        package = "entropy_dynamics" if module == "theory" else "companion"
        assert callable(getattr(importlib.import_module(f"{package}.{module}"), function))
