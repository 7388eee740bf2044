"""Every backend gives the same statistics, gradients and errors, whatever the dtype, size and strides."""

import importlib.util
import os
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch.testing import assert_close

from entropy_dynamics import backends, theory, vocabulary_sums
from entropy_dynamics.token_statistics import token_statistics

DEVICE = {"triton": "cuda" if torch.cuda.is_available() else "cpu"}
# Triton's interpreter computes with numpy.
NEEDED = ["triton"] if torch.cuda.is_available() else ["triton", "numpy"]
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
BACKENDS = [
    "eager",
    "compiled",
    pytest.param("triton", marks=pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed")),
]
# numpy speaks up about inf - inf, which a kernel of the interpreter discards.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}


@pytest.fixture(autouse=True)
def _what_is_called_compiled_is_compiled(caplog):
    """Once for each kind of input; where torch cannot compile, the tests see the eager backend."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    said = [r.getMessage() for r in caplog.get_records("call") if r.name.startswith("entropy_dynamics")]
    assert not said or not compiles(), said


@cache
def compiles():
    """Whether torch can compile here: not without a compiler, and not in a folder with a space in its path."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(3))
    except Exception:
        return False
    return True


def sample(backend, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(*shape, generator=generator)).to(DEVICE.get(backend, "cpu"), dtype)
    return logits, torch.randint(shape[-1], shape[:-1], generator=generator).to(logits.device)


def reference(logits, tokens, temperature=1.0):
    """All five statistics in float64 from whole distributions."""
    z = logits.double().detach() / temperature
    k = tokens.long().unsqueeze(-1)
    s, baseline = theory.discriminator(z).gather(-1, k).squeeze(-1), theory.expected_discriminator(z)
    log_prob = z.log_softmax(-1).gather(-1, k).squeeze(-1)
    return log_prob, theory.entropy(z), s, baseline, theory.grpo_second_order_change(z, tokens.long(), 1.0)


def assert_matches(actual, expected, tolerance):
    for name, a, b in zip(actual._fields, actual, expected, strict=True):
        assert a.shape == b.shape
        same = (a == b) | ((a.double() - b).abs() / (1 + b.abs()) <= tolerance)
        assert same.all(), f"{name}: {a[~same][:3]} is not {b[~same][:3]}"


def assert_all_match(backend, logits, tokens, temperature=1.0):
    logits = logits.detach().requires_grad_()
    actual = token_statistics(logits, tokens, temperature=temperature, backend=backend, curvature=True)
    assert_matches(actual, reference(logits, tokens, temperature), TOLERANCE[logits.dtype])
    weights = torch.linspace(-1, 2, tokens.numel(), device=logits.device).view(tokens.shape)
    (gradient,) = torch.autograd.grad(actual.log_prob, logits, weights.to(actual.log_prob.dtype))
    exact = logits.detach().double().requires_grad_()
    log_prob = (exact / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    (expected,) = torch.autograd.grad(log_prob, exact, weights.double())
    step = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[logits.dtype]
    if backend == "triton" and not logits.is_cuda:
        step = max(step, 2**-7 * (logits.dtype == torch.bfloat16))  # the interpreter cuts bfloat16 off, unrounded
    assert gradient.dtype == logits.dtype
    assert_close(gradient.double(), expected, rtol=step, atol=min(step, 1e-6))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("size", [1, 2, 19, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_and_gradients(backend, dtype, size, temperature):
    assert_all_match(backend, *sample(backend, 3, 4, size, dtype=dtype), temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [16_385, 49_152, 151_936])
@pytest.mark.parametrize("backend", BACKENDS)
def test_large_vocabularies(backend, size, dtype):
    assert_all_match(backend, *sample(backend, 2, size, dtype=dtype), 1.0)


@pytest.mark.parametrize("value", [0.0, -1.2345, 7.7])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_logits_whose_rounding_errors_all_point_one_way(backend, value):
    logits = torch.full((2, 151_936), value, device=DEVICE.get(backend))
    logits[:, 5] = 2.0
    tokens = torch.tensor([5, 6], device=logits.device)
    assert_matches(
        token_statistics(logits, tokens, backend=backend, curvature=True),
        reference(logits, tokens),
        TOLERANCE[logits.dtype],
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes_strides_and_ragged_selections(backend):
    logits, tokens = sample(backend, 3, 6, 40)
    mask = torch.arange(6, device=logits.device) < torch.tensor([[6], [0], [2]], device=logits.device)
    views = [
        (logits[:, :-1], tokens[:, 1:]),  # as a trainer shifts them
        (logits.transpose(0, 1), tokens.T),
        (logits[..., ::2], tokens // 2),
        (logits[1:2].expand(3, 6, 40), tokens),
        (logits[0, 0], tokens[0, 0]),
        (logits[:1, :1], tokens[:1, :1]),
        (logits[mask], tokens[mask]),
        (logits[mask & False], tokens[mask & False]),
    ]
    for z, k in views:
        assert_all_match(backend, z, k, 0.9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_words_and_tokens_without_mass(backend):
    logits, tokens = sample(backend, 6, 5000)
    logits[:, :4200] = -torch.inf  # whole blocks of nothing
    logits[1, 4300:] = -1e5
    logits[2, 4200] = 3e38
    tokens[:] = torch.tensor([4400, 4250, 4200, 4999, 17, 4500])
    assert_all_match(backend, logits[[0, 1, 2, 3, 5]], tokens[[0, 1, 2, 3, 5]])
    massless = token_statistics(logits[4], tokens[4], backend=backend, curvature=True)
    assert massless.log_prob == -torch.inf and massless.discriminator == 0
    assert_matches(massless, reference(logits[4], tokens[4]), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_is_refused_by_name(backend):
    logits, tokens = sample(backend, 4, 5000)
    for bad in (torch.nan, torch.inf):
        for place in (0, 4999):
            broken = logits.clone()
            broken[2, place] = bad
            with pytest.raises(ValueError, match=f"largest logit of a state is {bad}"):
                token_statistics(broken, tokens, backend=backend)
    with pytest.raises(ValueError, match="whole vocabulary"):
        token_statistics(torch.full_like(logits, -torch.inf), tokens, backend=backend)


def test_bfloat16_gradients_of_confident_tokens_keep_their_digits():
    logits = torch.tensor([[9.0, 0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    for backend in ("eager", "compiled"):
        log_prob = token_statistics(logits, torch.tensor([0]), backend=backend).log_prob
        (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
        assert_close(gradient[0, 0].item(), 1 - logits.detach().double().softmax(-1)[0, 0].item(), rtol=0.01, atol=0)


def test_auto_compiles_only_what_repays_it(monkeypatch):
    cpu = torch.device("cpu")
    assert backends.select("auto", elements=1024 * 12 * 19, device=cpu) is backends.EAGER
    compiled = backends.select("compiled", elements=1, device=cpu)
    assert backends.select("auto", elements=512 * 151_936, device=cpu) is compiled
    monkeypatch.setattr(backends, "_triton_is_installed", lambda: False)
    assert backends.select("auto", elements=1, device=torch.device("cuda")) is backends.EAGER
    with pytest.raises(ValueError, match="triton, which is not installed"):
        backends.select("triton", elements=1, device=cpu)


CHILD = """
import logging, os, sys, torch
from entropy_dynamics import theory
from entropy_dynamics.token_statistics import token_statistics
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
for later in sys.argv[1:]:
    logits = torch.randn(2, 3, 300)
    token_statistics(logits, torch.zeros(2, 3, dtype=int), backend="compiled")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = later
for dtype in (torch.float64, torch.float32):
    logits = torch.randn(8, 300, dtype=dtype, requires_grad=True)
    actual = token_statistics(logits, torch.arange(8), backend="compiled")
    torch.testing.assert_close(actual.entropy, theory.entropy(logits.detach()))
    (gradient,) = torch.autograd.grad(actual.log_prob.sum(), logits)
    (expected,) = torch.autograd.grad(logits.log_softmax(-1)[range(8), range(8)].sum(), logits)
    torch.testing.assert_close(gradient, expected)
"""


def said_by_child(*arguments, **environment):
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    environment = os.environ | {name: str(value) for name, value in environment.items()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def is_one_warning(said):
    return len(said.splitlines()) == 1 and said.startswith("WARNING torch.compile does not work here")


def test_without_a_compiler_eager_serves_and_says_so_once(tmp_path):
    said = said_by_child(CXX=tmp_path / "none", TORCHINDUCTOR_CACHE_DIR=tmp_path / "cache")
    assert is_one_warning(said) and "none" in said, said


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder that nobody can write")
@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("folder", ["/proc", "/proc/missing"])
def test_without_a_cache_folder_eager_serves_and_says_so_once(folder, when):
    """torch makes the folder when its compiler is first imported, and writes to it when it compiles."""
    if when == "later" and not compiles():
        pytest.skip("torch.compile does not work here, so there is no later")
    said = said_by_child(folder) if when == "later" else said_by_child(TORCHINDUCTOR_CACHE_DIR=folder)
    assert is_one_warning(said) and folder in said, said


def test_what_fails_in_the_middle_of_a_call_changes_no_result(caplog):
    """In place, a matrix that is done must not be done again."""
    done = []

    def softmax(out, logits, normalizer, scale, inverse):
        if done:
            raise OSError("disk full")
        done.append(out)
        vocabulary_sums.EAGER.scaled_softmax(out, logits, normalizer, scale, 1 / inverse.item())

    backend = vocabulary_sums.from_matrices("this", None, softmax)
    logits = sample("eager", 4, 3, 5)[0].transpose(0, 1)  # three matrices
    expected = 2 * (logits / 0.5 - 1).exp()
    backend.scaled_softmax(logits, logits, torch.ones(3, 4), torch.full((3, 4), 2.0), 0.5)
    assert_close(logits, expected)
    assert caplog.messages == ["this does not work here (OSError: disk full); eager is used"]
    largest, sums = backend.vocabulary_sums(logits, 0.5, 2)  # and goes on without a word
    assert_close((largest, sums), vocabulary_sums.EAGER.vocabulary_sums(logits, 0.5, 2))
    assert len(caplog.messages) == 1 and len(done) == 1
    caplog.clear()


def test_shapes_that_keep_changing_do_not_recompile():
    torch._dynamo.reset()
    logits, tokens = sample("compiled", 64, 40_000)
    tokens %= 2
    weights = torch.randn(64, 40_000, requires_grad=True)

    def call(rows, size, temperature=1.0):
        for z in (logits[:rows, :size], logits[:rows, :size].contiguous(), weights[:rows, :size]):
            log_prob = token_statistics(z, tokens[:rows], temperature=temperature, backend="compiled").log_prob
        log_prob.sum().backward()

    for rows in (1, 2, 9):
        for size in (70, 5000, 16_385, 30_000, 40_000):
            call(rows, size)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (1, 3, 17, 64):
            for size in (2, 64, 1000, 4096, 4097, 16_384, 32_768, 40_000):
                call(rows, size, temperature=0.5 + 1 / (rows + size))
