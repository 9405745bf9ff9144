"""Arrays of other libraries as arrays of JAX and back, in the same memory where that can be.

What `interop` promises about memory and types is kept here.
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
    """Whether that is PyTorch's."""
    torch = sys.modules.get("torch")  # who hands over a tensor has imported it
    return torch is not None and isinstance(x, torch.Tensor)


def library(x: Any) -> str:
    """Whose array that is, and where it lies if they say so."""
    if is_tensor(x):
        return f"torch on {x.device}"
    return "numpy" if isinstance(x, np.ndarray) else type(x).__module__.partition(".")[0]


def dtype(x: Any) -> str:
    """The name of its type, which libraries share; "" of what is no array."""
    return str(getattr(x, "dtype", "")).removeprefix("torch.")


def result_dtype(x: Any) -> Any:
    """Of what is made of such arrays: float32 where they are no floats."""
    name = dtype(x)
    return jnp.dtype(name if "float" in name else "float32")


def work_dtype(*types: Any) -> Any:
    """What numbers of such types are computed in."""
    return jnp.dtype("float64" if "float64" in map(str, types) else "float32")


def precision(*trees: PyTree) -> contextlib.AbstractContextManager:
    """float64 for as long as one of these needs it."""
    if not any(dtype(leaf) == "float64" for leaf in jax.tree.leaves(trees)):
        return contextlib.nullcontext()
    if callable(getattr(jax, "enable_x64", None)):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    return enable_x64(True)  # jax before 0.8


def checked(x: Any) -> Any:
    """x, if it is an array of real numbers.

    Raises:
        InvalidConfig: where it is none, has a mask, or is a tensor that requires grad.
    """
    known = hasattr(x, "__dlpack__") and hasattr(x, "shape") and bool(dtype(x))
    require(known, f"need arrays or tensors: got {type(x).__name__}")
    require("complex" not in dtype(x), f"need real numbers: got {dtype(x)}")
    rule = f"need arrays without a mask: got {type(x).__name__}"
    require(not isinstance(x, np.ma.MaskedArray), rule)
    if is_tensor(x):
        require(not x.requires_grad, "need tensors that require no grad: detach() these")
    return x


def entered(x: Any) -> Array:
    """The same numbers as floats of JAX: in the same memory, if it can be.

    Raises:
        InvalidConfig: where JAX cannot read them.
    """
    name = dtype(x)
    whole = "int" in name or name == "bool"
    if isinstance(x, jax.Array):
        return x.astype(jnp.float32) if whole else x
    try:
        if is_tensor(x):
            return jax.dlpack.from_dlpack((x.float() if whole else x).contiguous())
        if not isinstance(x, np.ndarray):
            told = jax.dlpack.from_dlpack(x)
            return told.astype(jnp.float32) if whole else told
        x = np.ascontiguousarray(x, np.float32 if whole else None).reshape(x.shape)
        if name == "bfloat16":  # which DLPack of NumPy does not know, nor read-only arrays
            return jax.device_put(x.copy(), jax.local_devices(backend="cpu")[0])
        return jax.dlpack.from_dlpack(x if x.flags.writeable else x.copy())
    except Exception as error:  # every library has errors of its own for what it cannot share
        reason = str(error).partition("\n")[0]
        told = f"{name} of {library(x)}"
        raise InvalidConfig(f"JAX cannot read an array of {told}: {reason}") from error


def entered_ids(ids: Any) -> Array:
    """i32[k] from whole numbers of any kind."""
    if isinstance(ids, jax.Array):
        return ids.astype(jnp.int32)
    if is_tensor(ids):
        return jax.dlpack.from_dlpack(ids.int().contiguous())
    return jnp.asarray(np.asarray(ids), jnp.int32)


def left(x: Array, like: Any) -> Any:
    """An array of JAX that nobody else has, as what `like` is. Waits for it."""
    x = jax.block_until_ready(x)
    if is_tensor(like):
        return sys.modules["torch"].from_dlpack(x)
    return np.asarray(x) if isinstance(like, np.ndarray) else x


def left_ids(ids: Array, like: Any) -> Any:
    """Whole numbers by which the library of `like` indexes: int64, i32 of JAX."""
    told = left(ids, like)
    if is_tensor(told):
        return told.long()
    return told.astype(np.int64) if isinstance(told, np.ndarray) else told


def mask(told: Any) -> np.ndarray:
    """Flags of any kind, on any device, as bool[n]."""
    return np.asarray(told.tolist() if hasattr(told, "tolist") else told)
