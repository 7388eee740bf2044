"""Everything that the notebooks need beside the library `entropy_dynamics`, in rooms.

Data flows one way: the library, then `mathematics`, `dynamics`, `laboratory`, `instruments`, `language_models`, `runs`,
`reports`, `figures`, `notebooks`, `runner`; a room uses only rooms before it. `benches` measures times and is used by
no room. The modules beside the rooms serve all of them: `files` (written whole or not at all), `cache` (a folder made
once, and checked), `provenance` (what made a result) and `record` (what a computation leaves).
"""

import sys

if sys.platform == "win32":
    raise ImportError(
        "the companion does not run on Windows, where signals and file locks differ and math-verify would score every "
        "answer 0; use WSL (docs/platforms.md); the library entropy_dynamics runs wherever torch does"
    )
