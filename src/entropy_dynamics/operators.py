"""Functions as operators of torch: torch.compile makes one node of each, where it would else trace through its loops.

`torch.library.custom_op` does the same, but loads torch's compiler at the first call, which takes seconds and a folder.
"""

from collections.abc import Callable

import torch

_NAMESPACE = "entropy_dynamics"
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")


def operator(signature: str, *, fake: Callable) -> Callable[[Callable], Callable]:
    """A decorator: the function as an operator of that signature, such as "f(Tensor x, float a) -> Tensor".

    Args:
        fake: from the same arguments to empty tensors of the results' shapes and dtypes.
    """
    name = signature.partition("(")[0]

    def register(function: Callable) -> Callable:
        _LIBRARY.define(signature)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{_NAMESPACE}::{name}", fake, lib=_LIBRARY)
        return getattr(getattr(torch.ops, _NAMESPACE), name)

    return register


def differentiable(operation: Callable, *, keep: Callable, backward: Callable) -> None:
    """Give an operator its gradient.

    Args:
        keep: (ctx, inputs, output), what backward needs; backward: (ctx, gradient of the output), one a input or None.
    """
    name = operation._qualified_op_name
    torch.library.register_autograd(name, backward, setup_context=keep, lib=_LIBRARY)
