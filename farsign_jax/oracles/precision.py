"""Which losses finite differences can be taken of: those that no step rounds below float32.

A perturbation of 1e-3 changes a loss by 1e-4 or so, which float32 resolves. bfloat16 has 8 bits
and float16 has 11: half of the differences would be exactly 0 and the others mostly rounding,
also where a loss is converted to float32 after a forward pass in half precision. First-order
answers do not suffer, as no two losses are subtracted.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from farsign_jax.base import Array
from farsign_jax.models.flat import MANTISSA, is_narrow
from farsign_jax.validation import require

_LOOPS = ("scan", "while")  # whose later rounds read what earlier ones have written


def check_precision(function: Callable[..., Any], x: Array, *others: Any) -> None:
    """Checks that a function rounds nothing that depends on `x` to fewer bits than float32.

    It is traced, not computed. Rounding of what does not depend on x, such as images that are
    kept in bfloat16, is the same at both points of a difference and does no harm.

    Args:
        function: `(x, *others) -> array`, the loss or a part of it.
        x: what is perturbed, or depends on it.
        others: further arguments, pytrees of arrays.

    Raises:
        InvalidConfig: if x or a step is in half precision, or a step asks for matrix products
            of less than float32.
    """
    rule = "finite differences need parameters in float32 or float64"
    require(x.dtype in (jnp.float32, jnp.float64), f"{rule}: got {x.dtype}")
    leaves, tree = jax.tree.flatten((x, *others))
    found = _narrow_step(function, tree, tuple((jnp.shape(a), a.dtype) for a in leaves))
    require(
        not found,
        f"finite differences need losses that are computed in float32 or float64: got {found}; "
        "leave the dtype, param_dtype and precision of the layers at their defaults, or use a "
        "first-order method such as far_sign_first_order",
    )


@functools.lru_cache(maxsize=64)
def _narrow_step(function: Callable[..., Any], tree: Any, leaves: tuple[Any, ...]) -> str:
    """The first step below float32 that depends on the first argument, in words; else ""."""
    shapes = [jax.ShapeDtypeStruct(*leaf) for leaf in leaves]
    with jax.default_matmul_precision("highest"):  # else the default of the device is shown
        closed = jax.make_jaxpr(function)(*jax.tree.unflatten(tree, shapes))
    return _search(closed.jaxpr, [n == 0 for n in range(len(leaves))])


def _search(jaxpr: core.Jaxpr, depends: Sequence[bool]) -> str:
    """`_narrow_step` of a jaxpr, where `depends` marks the arguments that depend on x."""
    known = {var for var, marked in zip(jaxpr.invars, depends, strict=True) if marked}
    for step in jaxpr.eqns:
        marked = [isinstance(var, core.Var) and var in known for var in step.invars]
        if not any(marked):
            continue
        for inner in _inner(step):
            same = len(inner.invars) == len(marked) and step.primitive.name not in _LOOPS
            found = _search(inner, marked if same else [True] * len(inner.invars))
            if found:
                return found
        if found := _narrow(step):
            return f"{found} ({step.primitive.name})"
        known.update(step.outvars)
    return ""


def _inner(step: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The jaxprs that a step calls."""
    for value in step.params.values():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def _narrow(step: core.JaxprEqn) -> str:
    """What of a step has fewer bits than float32, in words; else ""."""
    for var in step.outvars:
        dtype = getattr(var.aval, "dtype", jnp.dtype(bool))
        if is_narrow(dtype):
            return str(dtype)
    bits = step.params.get("mantissa_bits", MANTISSA)  # of `lax.reduce_precision`
    if bits < MANTISSA:
        return f"{bits} bits"
    asked = str(step.params.get("precision", ""))
    return "matrix products of the device's default precision" if "DEFAULT" in asked else ""
