"""Arrays of other libraries as arrays of JAX and back, in the same memory where possible.

This module implements what the docstring of `aggregation` says about memory and types.
"""

import contextlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, PyTree
from farsign_jax.validation import InvalidConfig, require


def is_tensor(x: Any) -> bool:
    """Whether x is a tensor of PyTorch."""
    torch = sys.modules.get("torch")  # whoever passes a tensor has imported it
    return torch is not None and isinstance(x, torch.Tensor)


def library(x: Any) -> str:
    """The name of the library of an array, with the device of a tensor."""
    if is_tensor(x):
        return f"torch on {x.device}"
    return "numpy" if isinstance(x, np.ndarray) else type(x).__module__.partition(".")[0]


def dtype(x: Any) -> str:
    """The name of the type of an array, which libraries share; "" for other objects."""
    return str(getattr(x, "dtype", "")).removeprefix("torch.")


def result_dtype(x: Any) -> Any:
    """The type of results for arrays like x: its own, or float32 if that is not a float."""
    name = dtype(x)
    return jnp.dtype(name if "float" in name else "float32")


def work_dtype(*types: Any) -> Any:
    """The type in which numbers of these types are computed."""
    return jnp.dtype("float64" if "float64" in map(str, types) else "float32")


def precision(*trees: PyTree) -> contextlib.AbstractContextManager:
    """A context in which float64 is enabled if one of these arrays has that type."""
    if not any(dtype(leaf) == "float64" for leaf in jax.tree.leaves(trees)):
        return contextlib.nullcontext()
    if callable(getattr(jax, "enable_x64", None)):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    return enable_x64(True)  # jax before 0.8


def check_array(x: Any) -> Any:
    """Returns x, after a check that it is an array of real numbers.

    Raises:
        InvalidConfig: if it is not one, has a mask, or is a tensor that requires grad.
    """
    known = hasattr(x, "__dlpack__") and hasattr(x, "shape") and bool(dtype(x))
    require(known, f"need arrays or tensors: got {type(x).__name__}")
    require("complex" not in dtype(x), f"need real numbers: got {dtype(x)}")
    rule = f"need arrays without a mask: got {type(x).__name__}"
    require(not isinstance(x, np.ma.MaskedArray), rule)
    if is_tensor(x):
        require(not x.requires_grad, "need tensors that require no grad: detach() these")
    return x


def to_jax(x: Any) -> Array:
    """The same numbers as floats of JAX, in the same memory where possible.

    Raises:
        InvalidConfig: if JAX cannot read them.
    """
    name = dtype(x)
    integral = "int" in name or name == "bool"
    if isinstance(x, jax.Array):
        return x.astype(jnp.float32) if integral else x
    try:
        if is_tensor(x):
            return jax.dlpack.from_dlpack((x.float() if integral else x).contiguous())
        if not isinstance(x, np.ndarray):
            array = jax.dlpack.from_dlpack(x)
            return array.astype(jnp.float32) if integral else array
        x = np.ascontiguousarray(x, np.float32 if integral else None).reshape(x.shape)
        if name == "bfloat16":  # NumPy exports neither bfloat16 nor read-only arrays
            return jax.device_put(x.copy(), jax.local_devices(backend="cpu")[0])
        return jax.dlpack.from_dlpack(x if x.flags.writeable else x.copy())
    except Exception as error:  # each library raises errors of its own
        reason = str(error).partition("\n")[0]
        kind = f"{name} of {library(x)}"
        raise InvalidConfig(f"JAX cannot read an array of {kind}: {reason}") from error


def ids_to_jax(ids: Any) -> Array:
    """i32[k] from integers of any library."""
    if isinstance(ids, jax.Array):
        return ids.astype(jnp.int32)
    if is_tensor(ids):
        return jax.dlpack.from_dlpack(ids.int().contiguous())
    return jnp.asarray(np.asarray(ids), jnp.int32)


def from_jax(x: Array, like: Any) -> Any:
    """An array of JAX that is not used elsewhere as an array of the library of `like`.

    It waits for the array to be computed.
    """
    x = jax.block_until_ready(x)
    if is_tensor(like):
        return sys.modules["torch"].from_dlpack(x)
    return np.asarray(x) if isinstance(like, np.ndarray) else x


def ids_from_jax(ids: Array, like: Any) -> Any:
    """Integers as the library of `like` uses them for indexing: int64, or i32 in JAX."""
    array = from_jax(ids, like)
    if is_tensor(array):
        return array.long()
    return array.astype(np.int64) if isinstance(array, np.ndarray) else array


def mask(flags: Any) -> np.ndarray:
    """A mask bool[n], or a number, of any library and on any device, as an array of NumPy."""
    return np.asarray(flags.tolist() if hasattr(flags, "tolist") else flags)
