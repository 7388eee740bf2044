"""Compile the proofs and compare what the theorems assume with what they may: python3 proofs/check.py.

It needs Coq with Coquelicot, and of Python no package.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

FILES = ("Sums.v", "EntropyDynamics.v")  # in the order of their imports
PROVES_NOTHING = re.compile(
    r"\b(Admitted|admit|give_up|Axioms?|Parameters?|Conjectures?|Primitive|Declare\s+ML|Unset|bypass_check)\b"
)
# The classical real numbers of Coq's standard library. Whatever else a theorem assumes is an error.
EXPECTED = {
    "ClassicalDedekindReals.sig_forall_dec",
    "ClassicalDedekindReals.sig_not_dec",
    "Classical_Prop.classic",
    "FunctionalExtensionality.functional_extensionality_dep",
}


def theorems(text: str) -> list[str]:
    return re.findall(r"^Theorem (\w+)", text, re.M)


def coqc(name: str, folder: Path) -> str:
    done = subprocess.run(
        ["coqc", "-q", "-w", "-ambiguous-paths", name], cwd=folder, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        sys.exit(f"{name} does not compile:\n{done.stdout}{done.stderr}")
    return done.stdout


def assumptions(names: list[str], folder: Path) -> set[str]:
    """What the theorems rest on, all of them together: Coq takes a second or more to tell, for one as for all."""
    bundle = ", ".join(f"@{name}" for name in names)
    text = f"Require Import EntropyDynamics.\nDefinition proven := ({bundle}).\nPrint Assumptions proven.\n"
    (folder / "Assumptions.v").write_text(text, encoding="utf-8")
    printed = coqc("Assumptions.v", folder)
    if not printed.startswith(("Axioms:", "Closed under the global context")):
        sys.exit(f"what Coq prints of the assumptions cannot be read:\n{printed}")
    return set(re.findall(r"^\S+", printed.partition("Axioms:\n")[2], re.M))


def main(source: Path, build: Path) -> None:
    texts = {name: (source / name).read_text(encoding="utf-8") for name in FILES}
    for name, text in texts.items():
        if found := PROVES_NOTHING.search(text):
            line = text.count("\n", 0, found.start()) + 1
            sys.exit(f"{name}, line {line}: {found.group()} stands where a proof should")
    if shutil.which("coqc") is None:
        sys.exit("the proofs need Coq and Coquelicot, on Debian: apt-get install coq libcoq-coquelicot")
    build.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (build / name).write_text(text, encoding="utf-8")
        coqc(name, build)
    names = theorems(texts["EntropyDynamics.v"])
    assumed = assumptions(names, build)
    if unexpected := assumed - EXPECTED:
        sys.exit(f"the theorems assume {', '.join(sorted(unexpected))}")
    print(f"{len(names)} theorems proven: {', '.join(names)}")
    print(f"they assume what Coq's real numbers do: {', '.join(sorted(assumed))}")


if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[1]
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given) if given else main(ROOT / "proofs", ROOT / "build" / "proofs")
