"""Byzantine workers that do not all do the same."""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from typing import Any

import jax
import jax.numpy as jnp

from farsign_jax.base import Array, Attack, Key, Report, View


def split(first: Attack, second: Attack) -> Attack:
    """Every other Byzantine worker attacks as `first`, beginning with the first one.

    Args:
        first: an attack on messages, with its own `after`.
        second: another one, with the same `space` and `asks`.
    """

    def init(num_workers: int) -> tuple[Any, Any]:
        return first.init(num_workers), second.init(num_workers)

    def forge(
        states: tuple[Any, Any], report: Report, view: View, key: Key
    ) -> tuple[tuple[Any, Any], Array]:
        rank = jnp.cumsum(view.byzantine, dtype=jnp.int32)[report.worker]
        leads = rank % 2 == 1

        def act(attack: Attack, state: Any, mine: Array) -> tuple[Any, Array]:
            lies = mine & (jnp.asarray(view.event) >= attack.after)
            new = attack.forge(state, report, view, key)
            old = state, report.value
            return jax.tree.map(lambda a, b: jnp.where(lies, a, b), new, old)

        (one, lie), (two, other) = act(first, states[0], leads), act(second, states[1], ~leads)
        return (one, two), jnp.where(leads, lie, other).astype(report.value.dtype)

    omniscient = first.omniscient or second.omniscient
    return Attack(init, forge, omniscient, first.space, asks=first.asks)
