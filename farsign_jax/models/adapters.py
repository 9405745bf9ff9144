"""Low-rank changes of dense layers, which are added to their output.

A dense layer with kernel W [in, out] computes x W + b. With an adapter, factors A [in, c] and
B [c, out] and scales s [c], it computes x W + b + ((x A) * s) B, so that W + A diag(s) B is
never formed and layers at several scales share the product with W. Adapters are a collection of
variables beside `params`, under the path of the layer; a module needs no change to have them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from farsign_jax.base import Array

COLLECTION = "adapters"


def adapter(left: Array, right: Array, scale: Array) -> dict[str, Array]:
    """The variables of the adapter of one layer, or of layers that are stacked.

    Args:
        left: A, f32[..., in, c].
        right: B, f32[..., c, out].
        scale: s, f32[..., c].
    """
    return {"left": left, "right": right, "scale": scale}


def apply(
    module: nn.Module,
    variables: Mapping[str, Any],
    *args: Any,
    method: str | None = None,
    seen: list[str] | None = None,
) -> Any:
    """Applies a module with the adapters among its variables.

    Args:
        module: any module of Flax; layers of the type `nn.Dense` may have adapters.
        variables: the collections of the module.
        args: of the method.
        method: the name of the method; None stands for `__call__`.
        seen: to which the names of the layers are appended whose adapters were used.
    """

    def add(next_function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        out, layer = next_function(*args, **kwargs), context.module
        called = isinstance(layer, nn.Dense) and context.method_name == "__call__"
        if not called or not layer.has_variable(COLLECTION, "left"):
            return out
        if seen is not None:
            seen.append(str(layer.name))
        left, right, scale = (
            layer.get_variable(COLLECTION, name) for name in ("left", "right", "scale")
        )
        amounts = jnp.expand_dims(scale, range(out.ndim - 1))
        return out + ((args[0] @ left) * amounts) @ right

    with nn.intercept_methods(add):
        return module.apply(variables, *args, method=method)
