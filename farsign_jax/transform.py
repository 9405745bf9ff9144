"""FAR-SIGN's step for users of optax, who compute gradients themselves."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from farsign_jax import directions
from farsign_jax.base import Array, Key, PyTree, Report, Schedule, Server, is_concrete, require
from farsign_jax.servers.far_sign import FarSignState, far_sign


class OptaxState(NamedTuple):
    """m workers, d parameters in all leaves together."""

    server: FarSignState  # without its iterate, which optax keeps: `averages` is y f32[m, d]
    key: Key  # of the next draw of coordinates


def optax_transform(
    num_workers: int,
    *,
    step_size: float | Array | Schedule,
    average_step: float | Array | Schedule,
    k: int | None = None,
    key: Key | int = 0,
    **options: Any,
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
    may be traced; outside of 0 .. m - 1 nobody is heard and nothing moves. The state is a
    pytree, and everything works under `jit`, `scan` and `vmap`, over keys or step sizes too.

    Args:
        num_workers: m.
        step_size: alpha, a number, a tracer or an optax schedule of the updates so far.
        average_step: beta in (0, 1], likewise.
        k: coordinates per update; None, all d of them.
        key: what they are drawn from, a key or a seed.
        options: of `far_sign`, such as `rate_cap`, `arrival_rates`, `storage`; not `averaging`.

    Raises:
        InvalidConfig: on what `far_sign` refuses; from `init`, on parameters that are no
            floats, or fewer than k; from `update`, on gradients of another size, or without
            `worker`.

    References:
        Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, arXiv 2605.09337, Algorithm 1
        and eq. (7).
    """
    require("averaging" not in options, "optax_transform keeps no iterates to average")
    rule = f"optax_transform needs a whole number k >= 1 or None: got {k!r}"
    require(k is None or (isinstance(k, int) and k >= 1), rule)
    start = jax.random.key(key) if isinstance(key, int) else key

    def server_of(d: int) -> Server:
        asked = directions.identity(d, d if k is None else k)
        told = {"step_size": step_size, "average_step": average_step}
        return far_sign(num_workers, asked, **told, **options)

    server_of(k or 1)  # what cannot be built fails here

    def init_fn(params: PyTree) -> OptaxState:
        x = _flat(params)
        state = server_of(x.size).init(x)
        return OptaxState(state._replace(params=()), start)

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
        g = _flat(updates)
        kept = state.server.averages
        if "storage" not in options:
            rule = f"optax_transform needs gradients of d={kept.shape[1]}: got d={g.size}"
            require(kept.shape[1] == g.size, rule)
        server = server_of(g.size)
        # From 0, the iterate is the step.
        at = state.server._replace(params=jnp.zeros_like(g))
        i = jnp.asarray(worker, jnp.int32)
        rule = f"optax_transform has workers 0..{num_workers - 1}: got worker={worker}"
        require(not is_concrete(i) or 0 <= i < num_workers, rule)
        i = jnp.where(i < 0, num_workers, i)
        if k is None:
            after, j = state.key, jnp.arange(g.size, dtype=jnp.int32)
        else:
            after, own = jax.random.split(state.key)
            j = server.query(at, i, own).direction
        report = Report(i[None], at.step[None], j[None], g[j][None])
        moved, _info = server.update(at, report)
        return _like(moved.params, updates), OptaxState(moved._replace(params=()), after)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


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
