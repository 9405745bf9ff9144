"""FAR-SIGN as a gradient transformation of optax."""

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from farsign_jax import directions
from farsign_jax.base import Array, Key, PyTree, Report, Schedule, Server
from farsign_jax.methods import far_sign_parts as parts
from farsign_jax.methods.average_storage import AverageStorage
from farsign_jax.methods.far_sign import FarSignState, far_sign
from farsign_jax.validation import is_concrete, require


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Size:
    """The number of parameters d, which is static and not a leaf of the state."""

    d: int


class OptaxState(NamedTuple):
    """The state of `optax_transform` for m workers and d parameters in all leaves together.

    Attributes:
        server: the state of the server, with `averages` y f32[m, d], but without its iterate,
            which optax keeps.
        key: the key of the next draw of coordinates.
        size: the `Size`.
    """

    server: FarSignState
    key: Key
    size: Any


def optax_transform(
    num_workers: int,
    *,
    step_size: float | Array | Schedule,
    average_step: float | Array | Schedule,
    k: int | None = None,
    key: Key | int = 0,
    sign_of: str = "new",
    arrival_rates: Any = None,
    max_weight: float = 10.0,
    rate_cap: float | None = None,
    cap_rank: int | None = None,
    cap_burst: int = 10,
    gain: Callable[[Array], Array] | None = None,
    soft: float | None = None,
    storage: AverageStorage | None = None,
) -> optax.GradientTransformationExtraArgs:
    """FAR-SIGN as an optax optimiser, which turns gradients of one worker into a step.

        tx = farsign_jax.optax_transform(25, step_size=0.01, average_step=0.5)
        state = tx.init(params)
        updates, state = tx.update(gradients, state, worker=i)  # the worker that arrives
        params = optax.apply_updates(params, updates)

    For each of k coordinates j, drawn without replacement, of the gradient g of worker i,

        y(i, j) <- y(i, j) + beta (g(j) - y(i, j))
        update  =  -alpha sign(y(i, j)) e_j

    and the update is 0 along all others. This is the server `far_sign` on the gradients of
    `far_sign_first_order` (eq. (7)): the parameters move by the same bits if the same
    coordinates are drawn. The update already points downhill: alpha is the learning rate, and
    transformations that follow in an `optax.chain` receive updates of size alpha, not
    gradients.

    Numbers that are not finite count as 0, so that none can enter the parameters. `worker`
    i32[] may be traced. A traced worker outside of 0 .. m - 1 stands for no worker: the update
    is 0 and no average changes, but coordinates are drawn, and without `rate_cap` it counts as
    an update in the step of schedules. The state is a pytree, and everything works under `jit`,
    `scan` and `vmap`, also over keys or step sizes.

    `optax.inject_hyperparams(optax_transform)` keeps numbers in its state, where they may be
    changed, and traces them. `num_workers` must be static where an `init` is compiled; `k`,
    `rate_cap`, `cap_rank` and `soft` also where an `update` is; and `gain` must not be taken
    for a schedule. Name those that are given in `static_args`.

    Args:
        num_workers: m.
        step_size: alpha, a number, a tracer or an optax schedule of the number of updates.
        average_step: beta in (0, 1], likewise.
        k: the number of coordinates per update; None for all d.
        key: the key of their draw, a key or a seed.
        sign_of: as for `far_sign`, like all parameters below.
        arrival_rates: as for `far_sign`.
        max_weight: as for `far_sign`.
        rate_cap: as for `far_sign`.
        cap_rank: as for `far_sign`.
        cap_burst: as for `far_sign`.
        gain: as for `far_sign`.
        soft: as for `far_sign`; None is 0.
        storage: as for `far_sign`, with K = d. The parameters `sampler`, which has a k of its
            own, and `averaging` of `far_sign` are not available.

    Returns:
        A gradient transformation whose `update` needs the keyword argument `worker`.

    Raises:
        InvalidConfig: if `far_sign` refuses an option, or an option is not a number; from
            `init`, if parameters are not floats, or fewer than k; from `update`, if gradients
            have another size, or `worker` is missing or not an integer of shape ().

    References:
        Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, arXiv 2605.09337, Algorithm 1
        and eq. (7).
    """
    _check_numbers(num_workers, k, key, step_size=step_size, average_step=average_step)
    numbers = {"max_weight": max_weight, "rate_cap": rate_cap, "soft": soft}
    _check_options(numbers | {"cap_rank": cap_rank, "cap_burst": cap_burst})
    _static("k", k)
    rank = None if cap_rank is None else operator.index(cap_rank)
    coordinates = None if k is None else operator.index(k)

    def server_of(d: int, m: int) -> Server:
        return far_sign(
            m,
            directions.identity(d, d if coordinates is None else coordinates),
            step_size=step_size,
            average_step=average_step,
            sign_of=sign_of,
            arrival_weights=parts.arrival_weights(m, arrival_rates, max_weight),
            admit=parts.rate_cap(m, rate_cap, rank, cap_burst),
            sign=parts.soft_sign(0.0 if soft is None else soft),
            gain=gain,
            storage=storage,
        )

    if is_concrete(num_workers):
        server_of(coordinates or 1, operator.index(num_workers))  # refused options raise here

    def init_fn(params: PyTree) -> OptaxState:
        _static("num_workers", num_workers)
        x = _flat(params)
        state = server_of(x.size, operator.index(num_workers)).init(x, None)
        start = jax.random.key(key) if _is_integer(key) else jnp.asarray(key)
        return OptaxState(state._replace(params=()), start, Size(x.size))

    def update_fn(
        updates: PyTree,
        state: Any,  # OptaxState
        params: PyTree = None,
        *,
        worker: Any = None,
        **_: Any,
    ) -> tuple[PyTree, OptaxState]:
        del params
        m, d = state.server.counts.shape[-1], state.size.d  # num_workers may be traced
        _check_worker(worker, m)
        g = _flat(updates)
        require(d == g.size, f"optax_transform needs gradients of d={d}: got d={g.size}")
        server = server_of(d, m)
        # With the iterate 0, the new iterate is the update.
        at = state.server._replace(params=jnp.zeros_like(g))
        i = jnp.asarray(worker, jnp.int32)
        i = jnp.where(i < 0, m, i)
        if coordinates is None:
            after, j = state.key, jnp.arange(d, dtype=jnp.int32)
        else:
            after, own = jax.random.split(state.key)
            j = server.query(at, i, own).direction
        report = Report(i[None], at.step[None], j[None], g[j][None])
        moved, _info = server.update(at, report)
        return _like(moved.params, updates), OptaxState(
            moved._replace(params=()), after, state.size
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_numbers(num_workers: Any, k: Any, key: Any, **rates: Any) -> None:
    """Raises `InvalidConfig` if a required argument is not a number of the right type."""
    rule = (
        f"optax_transform needs an integer number of workers: got num_workers={num_workers!r}"
    )
    require(_is_integer(num_workers), rule)
    rule = f"optax_transform needs an integer k >= 1 or None: got {k!r}"
    require(k is None or (_is_integer(k) and (not is_concrete(k) or k >= 1)), rule)
    require(_is_key(key), f"optax_transform needs a key or an integer: got key={key!r}")
    for name, rate in rates.items():
        rule = f"optax_transform needs a number or a schedule: got {name}={rate!r}"
        require(callable(rate) or _is_number(rate), rule)


def _check_options(numbers: dict[str, Any]) -> None:
    """Raises `InvalidConfig` if an option of `far_sign` is not a number, or must be static."""
    for name, number in numbers.items():
        rule = f"optax_transform needs a number: got {name}={number!r}"
        require(number is None or _is_number(number), rule)
    rank = numbers["cap_rank"]
    rule = f"optax_transform needs an integer: got cap_rank={rank!r}"
    require(rank is None or _is_integer(rank), rule)
    for name in ("rate_cap", "cap_rank", "soft"):
        _static(name, numbers[name])


def _check_worker(worker: Any, m: int) -> None:
    """Raises `InvalidConfig` unless the worker is an integer, in 0 .. m - 1 if it is known."""
    require(worker is not None, "optax_transform needs the worker of the gradients: worker=i")
    rule = f"optax_transform needs an integer of shape () as worker: got {worker!r}"
    require(_is_integer(worker), rule)
    rule = f"optax_transform has workers 0..{m - 1}: got worker={worker}"
    require(not is_concrete(worker) or 0 <= operator.index(worker) < m, rule)


def _static(name: str, value: Any) -> None:
    """Raises `InvalidConfig` if the value of an option is traced."""
    rule = f"optax_transform needs to know {name} before it is compiled: got {value}"
    hint = f'in optax.inject_hyperparams, static_args=("{name}",)'
    require(is_concrete(value), f"{rule}; {hint}")


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def _is_integer(x: Any) -> bool:
    """Whether x is one integer, concrete or traced."""
    if _is_array(x):
        return x.shape == () and bool(jnp.issubdtype(x.dtype, jnp.integer))
    return isinstance(x, int) and not isinstance(x, bool)


def _is_number(x: Any) -> bool:
    """Whether x is one real number, concrete or traced."""
    if _is_array(x) and not _is_integer(x):
        return x.shape == () and bool(jnp.issubdtype(x.dtype, jnp.floating))
    return isinstance(x, float) or _is_integer(x)


def _is_key(x: Any) -> bool:
    """Whether x is a seed, a typed key or a raw key."""
    if not isinstance(x, jax.Array):
        return _is_integer(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x.shape == ()
    return _is_integer(x) or (x.dtype == jnp.uint32 and x.shape == (2,))


def _flat(tree: PyTree) -> Array:
    """All leaves in tree order as one vector f32[d], or f64[d] if a leaf is f64."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    kinds = [leaf.dtype for leaf in leaves]
    good = bool(leaves) and all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)
    require(good, f"optax_transform needs leaves of floats: got {[str(t) for t in kinds]}")
    dtype = jnp.dtype("float64" if jnp.dtype("float64") in kinds else "float32")
    return jnp.concatenate([leaf.astype(dtype).reshape(-1) for leaf in leaves])


def _like(x: Array, tree: PyTree) -> PyTree:
    """A tree with the structure and types of `tree` and the numbers of x f[d]."""
    leaves, form = jax.tree.flatten(tree)
    parts = jax.lax.split(x, [math.prod(jnp.shape(leaf)) for leaf in leaves])
    pairs = zip(parts, leaves, strict=True)
    made = [part.reshape(jnp.shape(like)).astype(jnp.result_type(like)) for part, like in pairs]
    return jax.tree.unflatten(form, made)
