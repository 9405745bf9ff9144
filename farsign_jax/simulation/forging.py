"""What Byzantine workers send: an attack, applied to an honest report.

An attack sees what the server has received (`Attack.omniscient`), or what all workers answer to
the question that the Byzantine worker itself was asked (`Attack.asks`).
"""

# JAX annotates its functions only in part, so what they return is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax import keys as keys_lib
from farsign_jax.base import (
    Array,
    Attack,
    Encode,
    Problem,
    Query,
    Report,
    System,
    Table,
    View,
)
from farsign_jax.simulation.state import Run
from farsign_jax.validation import require


def always(attack: Attack) -> bool:
    """Whether Byzantine workers lie from the first event on."""
    return isinstance(attack.after, int) and attack.after <= 0


def apply_attack(
    attack: Attack,
    encode: Encode | None,
    state: Any,
    report: Report,
    view: View,
    key: Array,
) -> tuple[Any, Array]:
    """Forges what a Byzantine worker sends.

    Args:
        attack: what it does.
        encode: of the honest workers.
        state: of the attack.
        report: the honest report, without a leading axis.
        view: with `reported` and what `asked` returns as dicts over spaces, and `received`
            bool[m] or bool[m, k].
        key: of the message.

    Returns:
        The attack's new state, and the message.

    Raises:
        InvalidConfig: if the forged value has another shape than the honest one, or holds no
            floats; floats of another width are rounded to that of the honest value.
    """
    if isinstance(attack.space, tuple):  # several attacks, each of which calls this again
        return attack.forge(state, report, view, key)
    measured = attack.space == "measured" and encode is not None
    if measured:
        report = report._replace(value=report.measured)
    before = state
    if attack.omniscient or attack.asks:
        view = _one_space(attack, view, "measured" if measured else "message")
    state, value = attack.forge(state, report._replace(measured=()), view, key)
    value, honest = jnp.asarray(value), report.value
    floats = all(jnp.issubdtype(array.dtype, jnp.floating) for array in (value, honest))
    require(
        value.shape == honest.shape and (floats or value.dtype == honest.dtype),
        f"a forged value must be {honest.dtype}{list(honest.shape)} like the honest one: "
        f"got {value.dtype}{list(value.shape)}",
    )
    value = value.astype(honest.dtype)
    if not always(attack):
        begun = view.event >= attack.after
        pair = (state, value), (before, honest)
        state, value = jax.tree.map(lambda new, old: jnp.where(begun, new, old), *pair)
    return state, encode(report.direction, value) if measured and encode else value


def _one_space(attack: Attack, view: View, space: str) -> View:
    """The view with what is known of the answers of all workers in one space, f32[m, k]."""
    if attack.asks:
        reported = view.asked()[space][: attack.asks].mean(axis=0)
        return view._replace(reported=reported, received=jnp.ones(reported.shape, bool))
    reported = view.reported[space]
    more = (1,) * (reported.ndim - view.received.ndim)
    received = view.received.reshape(*view.received.shape, *more)
    return view._replace(reported=reported, received=jnp.broadcast_to(received, reported.shape))


def answers(
    system: System, problem: Problem, run: Run, report: Report, keys: keys_lib.RunKeys
) -> dict[str, Array]:
    """What all workers answer, honestly, to the question of one report at the present iterate.

    Nothing remains of it: workers keep the state that they had.

    Args:
        system: who takes part.
        problem: holds the examples of the workers.
        run: the state of the run.
        report: that of the Byzantine worker, without a leading axis.
        keys: of the run.

    Returns:
        f32[n, m, k] for each space, n answers of each worker from as many mini-batches.
    """
    worker, m = system.worker, problem.num_workers

    def answer(i: Array, number: Array) -> dict[str, Any]:
        key = keys_lib.message(
            keys_lib.message(keys.asked, report.worker, run.events), i, number
        )
        query = Query(run.server.params, i, report.direction, run.server.step)
        shard = problem.shard(i)
        touched = () if worker.touched is None else (worker.touched(shard, key),)

        def own(node: Any) -> Any:
            at = (i, *touched) if isinstance(node, Table) else i
            return jax.tree.map(lambda leaf: leaf[at], node)

        is_table = lambda node: isinstance(node, Table)  # noqa: E731
        state = jax.tree.map(own, run.workers, is_leaf=is_table)
        _, measured = worker.respond(state, query, shard, key)
        if worker.encode is None:
            return {"message": measured, "measured": measured}
        return {"message": worker.encode(report.direction, measured), "measured": measured}

    def everyone(number: Array) -> dict[str, Any]:
        # One at a time: m oracle calls side by side would need m times the scratch memory.
        return jax.lax.map(lambda i: answer(i, number), jnp.arange(m, dtype=jnp.int32))

    return jax.lax.map(everyone, jnp.arange(system.attack.asks, dtype=jnp.int32))
