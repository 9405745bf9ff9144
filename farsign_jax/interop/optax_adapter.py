"""FAR-SIGN's step for users of optax, who compute gradients themselves."""

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
    """d, known before compilation: no leaf of the state."""

    d: int


class OptaxState(NamedTuple):
    """m workers, d parameters in all leaves together."""

    server: FarSignState  # without its iterate, which optax keeps: `averages` is y f32[m, d]
    key: Key  # of the next draw of coordinates
    size: Any  # Size


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
    """FAR-SIGN as an optimiser: gradients of one worker in, a step of the parameters out.

        tx = farsign_jax.optax_transform(25, step_size=0.01, average_step=0.5)
        state = tx.init(params)
        updates, state = tx.update(gradients, state, worker=i)  # whoever comes next
        params = optax.apply_updates(params, updates)

    For each of k coordinates j, drawn without replacement, of what worker i says, g:

        y(i, j) <- y(i, j) + beta (g(j) - y(i, j))
        update  =  -alpha sign(y(i, j)) e_j

    and 0 along all others. This is the server `far_sign` on the gradients of
    `far_sign_first_order` (eq. (7)): what parameters move by, in the same bits where it is
    asked about the same coordinates. The step already points downhill: alpha is the learning
    rate, and what follows in an `optax.chain` sees updates of size alpha, not gradients.

    Numbers that are not finite count as 0, so none can enter the parameters. `worker` i32[]
    may be traced. Outside of 0 .. m - 1 a traced one is nobody: the update is 0 and no average
    changes, but coordinates are drawn, and without `rate_cap` it counts as an update in the
    step of schedules. The state is a pytree, and everything works under `jit`, `scan` and
    `vmap`, over keys or step sizes too.

    `optax.inject_hyperparams(optax_transform)` keeps numbers in its state, where they may be
    changed, and traces them. `num_workers` is needed where an `init` is compiled, `k`,
    `rate_cap`, `cap_rank` and `soft` also where an `update` is; `gain` is no schedule. Name
    those that are given in its `static_args`.

    Args:
        num_workers: m.
        step_size: alpha, a number, a tracer or an optax schedule of the updates so far.
        average_step: beta in (0, 1], likewise.
        k: coordinates per update; None, all d of them.
        key: what they are drawn from, a key or a seed.
        sign_of, arrival_rates, max_weight, rate_cap, cap_rank, cap_burst, gain, soft, storage:
            of `far_sign` and its parts (`far_sign_parts`); `soft=None` is 0, `storage` for
            K = d. Its `sampler`, which has a k of its own, and its `averaging` are not to be
            had here.

    Raises:
        InvalidConfig: on what `far_sign` refuses, and on numbers that are none; from `init`, on
            parameters that are no floats, or fewer than k; from `update`, on gradients of
            another size, without `worker`, or with one that is no integer of shape ().

    References:
        Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, arXiv 2605.09337, Algorithm 1
        and eq. (7).
    """
    rule = f"optax_transform needs a whole number of workers: got num_workers={num_workers!r}"
    require(_is_whole(num_workers), rule)
    rule = f"optax_transform needs a whole number k >= 1 or None: got {k!r}"
    require(k is None or (_is_whole(k) and (not is_concrete(k) or k >= 1)), rule)
    require(_is_key(key), f"optax_transform needs a key or a whole number: got key={key!r}")
    for name, rate in (("step_size", step_size), ("average_step", average_step)):
        rule = f"optax_transform needs a number or a schedule: got {name}={rate!r}"
        require(callable(rate) or _is_number(rate), rule)
    numbers = {"max_weight": max_weight, "rate_cap": rate_cap, "soft": soft}
    numbers |= {"cap_rank": cap_rank, "cap_burst": cap_burst}
    for name, number in numbers.items():
        rule = f"optax_transform needs a number: got {name}={number!r}"
        require(number is None or _is_number(number), rule)
    rule = f"optax_transform needs a whole number: got cap_rank={cap_rank!r}"
    require(cap_rank is None or _is_whole(cap_rank), rule)
    for name in ("rate_cap", "cap_rank", "soft"):
        _static(name, numbers[name])
    _static("k", k)
    share = None if k is None else operator.index(k)
    rank = None if cap_rank is None else operator.index(cap_rank)

    def server_of(d: int, m: int) -> Server:
        return far_sign(
            m,
            directions.identity(d, d if share is None else share),
            step_size=step_size,
            average_step=average_step,
            sign_of=sign_of,
            arrival_weights=parts.arrival_weights(m, arrival_rates, max_weight),
            admit=parts.rate_cap(m, rate_cap, rank, cap_burst),
            vote=parts.soft_sign(0.0 if soft is None else soft),
            gain=gain,
            storage=storage,
        )

    if is_concrete(num_workers):
        server_of(share or 1, operator.index(num_workers))  # what cannot be built fails here

    def init_fn(params: PyTree) -> OptaxState:
        _static("num_workers", num_workers)
        x = _flat(params)
        state = server_of(x.size, operator.index(num_workers)).init(x, None)
        start = jax.random.key(key) if _is_whole(key) else jnp.asarray(key)
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
        require(worker is not None, "optax_transform needs to know whose gradients: worker=i")
        rule = f"optax_transform needs an integer of shape () as worker: got {worker!r}"
        require(_is_whole(worker), rule)
        m, d = state.server.counts.shape[-1], state.size.d  # num_workers may be traced
        rule = f"optax_transform has workers 0..{m - 1}: got worker={worker}"
        require(not is_concrete(worker) or 0 <= operator.index(worker) < m, rule)
        g = _flat(updates)
        require(d == g.size, f"optax_transform needs gradients of d={d}: got d={g.size}")
        server = server_of(d, m)
        # From 0, the iterate is the step.
        at = state.server._replace(params=jnp.zeros_like(g))
        i = jnp.asarray(worker, jnp.int32)
        i = jnp.where(i < 0, m, i)
        if share is None:
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


def _static(name: str, value: Any) -> None:
    """Raises `InvalidConfig` on a tracer."""
    rule = f"optax_transform needs to know {name} before it is compiled: got {value}"
    hint = f'in optax.inject_hyperparams, static_args=("{name}",)'
    require(is_concrete(value), f"{rule}; {hint}")


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def _is_whole(x: Any) -> bool:
    """Is that one integer, known or traced?"""
    if _is_array(x):
        return x.shape == () and bool(jnp.issubdtype(x.dtype, jnp.integer))
    return isinstance(x, int) and not isinstance(x, bool)


def _is_number(x: Any) -> bool:
    """Is that one real number, known or traced?"""
    if _is_array(x) and not _is_whole(x):
        return x.shape == () and bool(jnp.issubdtype(x.dtype, jnp.floating))
    return isinstance(x, float) or _is_whole(x)


def _is_key(x: Any) -> bool:
    """Is that a seed or a key, typed or of the old kind?"""
    if not isinstance(x, jax.Array):
        return _is_whole(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x.shape == ()
    return _is_whole(x) or (x.dtype == jnp.uint32 and x.shape == (2,))


def _flat(tree: PyTree) -> Array:
    """f32[d] of all leaves, in tree order; f64 where one is."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    kinds = [leaf.dtype for leaf in leaves]
    good = bool(leaves) and all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)
    require(good, f"optax_transform needs leaves of floats: got {[str(t) for t in kinds]}")
    dtype = jnp.dtype("float64" if jnp.dtype("float64") in kinds else "float32")
    return jnp.concatenate([leaf.astype(dtype).reshape(-1) for leaf in leaves])


def _like(x: Array, tree: PyTree) -> PyTree:
    """The leaves of a tree with the numbers of x f[d]."""
    leaves, form = jax.tree.flatten(tree)
    parts = jax.lax.split(x, [math.prod(jnp.shape(leaf)) for leaf in leaves])
    pairs = zip(parts, leaves, strict=True)
    made = [part.reshape(jnp.shape(like)).astype(jnp.result_type(like)) for part, like in pairs]
    return jax.tree.unflatten(form, made)
