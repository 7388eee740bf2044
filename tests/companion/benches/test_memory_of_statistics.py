"""Statistics need a small share of the memory of the logits, or of what the logits would need."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STATISTICS = """
import sys, torch
from companion.benches.peak_memory import peak_memory
from entropy_dynamics.token_statistics import token_statistics
torch.set_num_threads(1)
backend = sys.argv[1]
logits = torch.zeros(3, 513, 49152)[:, :-1]  # a shifted view, as a trainer passes it
tokens = torch.zeros(3, 512, dtype=torch.long)
token_statistics(logits, tokens, backend=backend)  # what is made once is there now
print(peak_memory(lambda: token_statistics(logits, tokens, backend=backend)) / (logits.numel() * 4))
print(peak_memory(lambda: logits.log_softmax(-1)) / (logits.numel() * 4))
"""


@pytest.mark.parametrize("backend", ["eager", "compiled"])
def test_peak_memory_is_a_small_share_of_the_logits(backend):
    done = subprocess.run([sys.executable, "-c", STATISTICS, backend], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, of_log_softmax = map(float, done.stdout.split())
    assert ours < 0.05 and of_log_softmax > 0.95


LINEAR = """
import sys, torch
from entropy_dynamics.linear_statistics import linear_token_statistics
from companion.benches.peak_memory import peak_memory
from entropy_dynamics.token_statistics import token_statistics
torch.set_num_threads(1)
V, W, T = 49152, 64, 1024

def step(T, materialised):
    hidden, tokens = torch.randn(T, W, requires_grad=True), torch.zeros(T, dtype=torch.long)
    if materialised:
        log_prob = token_statistics(hidden @ weight.T, tokens, backend="eager").log_prob
    else:
        log_prob = linear_token_statistics(hidden, weight, tokens, backend="eager").log_prob
    log_prob.sum().backward()

weight = torch.randn(V, W, requires_grad=True)
materialised = sys.argv[1] == "logits"
step(8, materialised)  # now the gradient of the head is there
print(peak_memory(lambda: step(T, materialised)) / (T * V * 4))
"""


def test_memory_is_a_small_share_of_what_the_logits_need():
    needed = {}
    for way in ("linear", "logits"):
        done = subprocess.run([sys.executable, "-c", LINEAR, way], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        needed[way] = float(done.stdout)
    assert needed["logits"] > 1.5  # the logits and their gradient
    assert needed["linear"] < needed["logits"] / 10
