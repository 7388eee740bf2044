"""Measure time and memory of statistics, loss and training step, beside other ways of having them.

Statistics and loss beside other ways, how cost grows, a training step beside TRL's, and where its time goes.
"""

import argparse
import json
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from companion.benches import growth_bench, profile_bench, statistics_bench, step_bench
from companion.benches.fresh import in_fresh_process
from companion.benches.peak_memory import require_linux
from companion.benches.ways import Case
from companion.files import write_atomically
from companion.provenance import provenance
from companion.runs.comparisons import start_run
from companion.runs.records import load_or_run
from companion.runs.store import Store

PARTS = ("ways", "errors", "growth", "steps", "profile")


def report(document: dict) -> Iterator[tuple[str, str]]:
    """Title and text of each part."""
    cases = (list(rows) for _, rows in groupby(document["ways"], statistics_bench.case_of))
    errors = "\n".join(
        f"{what}: " + ", ".join(f"{name} {error:.1e}" for name, error in some.items())
        for what, some in document["errors"].items()
    )
    texts = {
        "ways": ("Statistics and loss beside other ways", "\n\n".join(map(statistics_bench.table, cases))),
        "errors": ("Largest errors, with float64 as the reference", errors),
        "growth": ("How cost grows", growth_bench.table(document["growth"])),
        "steps": ("A training step beside TRL's", step_bench.table(document["steps"])),
        "profile": ("Where the laboratory's time goes, one thread", profile_bench.table(document["profile"])),
    }
    for part, (title, text) in texts.items():
        made = document["made_by"][part]
        origin = f"{made['machine']['cpu']}, torch {made['versions']['torch']}, float32"
        threads = "" if part in ("steps", "profile") else f", {document['threads']} threads"
        yield title, f"{origin}{threads}, commit {made['commit'][:10]}\n\n{text}"


def page(document: dict) -> str:
    """The parts in Markdown."""
    return "\n\n".join(f"## {title}\n\n```text\n{text}\n```" for title, text in report(document))


def measure(part: str, weights: dict, *, rounds: int, threads: int, steps: int) -> list | dict:
    """One of `PARTS`; all its numbers come from one run."""
    logits, loss = Case("logits", 151_936), Case("loss", 49_152, 384, backward=True)
    if part == "ways":
        cases = statistics_bench.CASES
        return [row for case in cases for row in statistics_bench.measure(case, rounds=rounds, threads=threads)]
    if part == "errors":
        of_loss = in_fresh_process(statistics_bench.gradient_errors, loss, threads=threads)
        of_logits = in_fresh_process(statistics_bench.errors, logits, threads=threads)
        return {logits.title: of_logits, f"gradients of {loss.title}": of_loss}
    if part == "growth":
        return growth_bench.measure(rounds=rounds, threads=threads)
    if part == "steps":
        return step_bench.measure(weights, rounds=rounds, warm_up=5, steps=steps)
    return in_fresh_process(profile_bench.measure, weights, threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m companion.benches.bench",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    parser.add_argument("--steps", type=int, default=20, help="training steps in a turn")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="measure these alone; others stay")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"), help="where the numbers are written")
    parser.add_argument("--store", default="build/runs", help="where a starting policy is kept that is made anew")
    parser.add_argument("--committed", default="data/runs", help="folder of records, which has the starting policy")
    options = parser.parse_args()
    if min(options.rounds, options.threads, options.steps) < 1:
        parser.error("--rounds, --threads and --steps must be at least 1")
    try:
        require_linux()
    except OSError as error:
        parser.error(str(error))
    start = load_or_run(start_run(step_bench.CONFIG.start), Store(options.store, options.committed))
    document = {"rounds": options.rounds, "threads": options.threads, "made_by": {}}
    if options.only:
        if not options.output.is_file():
            parser.error(f"there is no {options.output.resolve()} whose other parts could stay; leave out --only")
        document = json.loads(options.output.read_text(encoding="utf-8"))
        if (document["rounds"], document["threads"]) != (options.rounds, options.threads):
            parser.error(f"{options.output} has {document['rounds']} rounds and {document['threads']} threads")
    settings = {"rounds": options.rounds, "threads": options.threads, "steps": options.steps}
    for part in options.only or PARTS:
        origin = provenance()
        document[part] = measure(part, start.tensors, **settings)
        document["made_by"][part] = origin
        write_atomically(options.output, json.dumps(document, indent=1) + "\n")  # an interruption loses one part
    for title, text in report(document):
        print(f"{title}\n\n{text}\n")


if __name__ == "__main__":
    main()
