"""Tables of many states need the memory of a few states at a time."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TABLES = """
import sys, torch
from companion.benches.peak_memory import peak_memory
from companion.mathematics import verification
torch.set_num_threads(1)
V, N = 16384, 24
logits, tokens = torch.randn(N, V, generator=torch.Generator().manual_seed(0)), torch.arange(N)

def table(batches):
    if sys.argv[1] == "changes":
        return verification.change_table([(logits, tokens)] * batches, verification.GRPO, [0.001, 0.1, 1.0])
    if sys.argv[1] == "radii":
        return verification.radius_table([(logits, tokens)] * batches, tokens=20 * batches, seed=0)
    return verification.band_table([logits] * batches)

table(1)
print(peak_memory(lambda: table(6)) / (V * 8))
"""


@pytest.mark.parametrize("name", ["changes", "radii", "bands"])
def test_peak_memory_does_not_grow_with_the_number_of_states(name):
    done = subprocess.run([sys.executable, "-c", TABLES, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows_in_float64 = float(done.stdout)  # of 144 states
    assert rows_in_float64 < 100
