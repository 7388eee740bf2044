"""A training step that torch.compile compiles: one node for the statistics, whatever the lengths."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from entropy_dynamics.linear_statistics import linear_token_statistics
from entropy_dynamics.token_statistics import token_statistics

LENGTHS = (3, 5, 8, 13, 21, 34)


def loss(hidden, weight, tokens):
    """Of a head and the statistics of its logits, as a training step has them."""
    found = token_statistics(hidden @ weight.T, tokens, temperature=0.8)
    return (found.log_prob * (1 + found.entropy + found.centred)).mean()


def fused_loss(hidden, weight, tokens):
    """The same without the logits."""
    found = linear_token_statistics(hidden, weight, tokens, temperature=0.8)
    return (found.log_prob * (1 + found.entropy + found.centred)).mean()


def batch(length, *, states=2):
    generator = torch.Generator().manual_seed(length)
    hidden = torch.randn(states, length, 6, generator=generator, requires_grad=True)
    weight = torch.randn(50, 6, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(50, (states, length), generator=generator)


def gradients(function, *arguments):
    value = function(*arguments)
    return value, *torch.autograd.grad(value, [x for x in arguments if x.requires_grad])


@pytest.fixture(autouse=True)
def anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("function", [loss, fused_loss])
def test_one_graph_for_all_lengths(function):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True)
    for length in LENGTHS:
        arguments = batch(length)
        for ours, plain in zip(gradients(compiled, *arguments), gradients(function, *arguments)):
            torch.testing.assert_close(ours, plain)
    assert counter.frame_count <= 2, counter.frame_count
    assert counter.op_count < 60 * counter.frame_count  # not unrolled over states


def test_the_default_compiler_gives_the_same():
    arguments = batch(7)
    compiled = torch.compile(loss, fullgraph=True)
    for ours, plain in zip(gradients(compiled, *arguments), gradients(loss, *arguments)):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("harm", ["token", "logits"])
def test_errors_come_out_of_a_compiled_step(harm):
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    hidden, weight, tokens = batch(4)
    if harm == "token":
        tokens[0, 1] = 77
    else:
        weight = weight.detach() * torch.nan
    with pytest.raises(
        ValueError, match="token 77 is outside" if harm == "token" else "largest logit of a state is nan"
    ):
        compiled(hidden, weight, tokens)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant):
    arguments = batch(5)

    def checkpointed(*given):
        return checkpoint(loss, *given, use_reentrant=reentrant)

    for ours, plain in zip(gradients_of_sum(checkpointed, *arguments), gradients_of_sum(loss, *arguments)):
        assert torch.equal(ours, plain)


def gradients_of_sum(function, *arguments):
    """By backward, which reentrant checkpointing needs."""
    leaves = [x.detach().clone().requires_grad_(x.requires_grad) for x in arguments]
    function(*leaves).backward()
    return [x.grad for x in leaves if x.requires_grad]


def test_torch_finds_nothing_wrong_with_the_operators():
    hidden, weight, tokens = batch(3)
    logits = (hidden @ weight.T).detach().requires_grad_()
    z_k, largest, sums = torch.ops.entropy_dynamics.token_sums(logits.detach(), tokens, 0.8, 2, "eager")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        torch.ops.entropy_dynamics.token_sums.default, (logits.detach(), tokens, 0.8, 2, "eager"), test_utils=checks
    )
    torch.library.opcheck(
        torch.ops.entropy_dynamics.log_prob.default,
        (logits, tokens, z_k, largest, sums[0].log(), 0.8, "eager"),
        test_utils=checks,
    )
