"""What must hold of a run before its loop is compiled, of one run as of each in a sweep."""

# JAX annotates its functions only in part, so what they return is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import arrivals, attacks
from farsign_jax.base import Attack, Problem
from farsign_jax.examples import WithFrozen
from farsign_jax.validation import InvalidConfig, require


def check_run(
    num_workers: int, in_rounds: bool, byzantine: Any, schedule: Any
) -> tuple[arrivals.Schedule, np.ndarray]:
    """Checks who arrives at which event, and who is Byzantine.

    Args:
        num_workers: m.
        in_rounds: whether the server combines the answers of an event (`Server.in_rounds`).
        byzantine: as `simulation.run` accepts it.
        schedule: as `simulation.run` accepts it.

    Returns:
        The schedule with workers i32[T] or i32[T, s] and times f64[T] or None; and the mask of
        the Byzantine workers, bool[m] or bool[P, m].

    Raises:
        InvalidConfig: if the schedule does not fit the server or the workers, or the mask does
            not fit the workers.
    """
    schedule = arrivals.check_schedule(schedule, num_workers)
    rule = "a server that works in rounds needs a schedule of rounds, workers i32[T, s], as of "
    rule += f"arrivals.rounds: got i32{list(schedule.workers.shape)}"
    require(not in_rounds or num_workers == 1 or schedule.workers.ndim == 2, rule)
    return schedule, attacks.byzantine_mask(num_workers, byzantine)


def check_batch(batch_size: int, left_out: int, sizes: Any) -> None:
    """Raises `InvalidConfig` if a mini-batch is larger than what is left of the smallest shard.

    Args:
        batch_size: examples per mini-batch.
        left_out: examples of each shard that the worker does not draw from.
        sizes: i[m], examples of each worker.
    """
    smallest = int(np.asarray(sizes).min())
    rest = f", of which {left_out} are set aside" if left_out else ""
    require(
        batch_size <= smallest - left_out,
        f"need batch_size <= examples of every worker: got batch_size={batch_size}, and a "
        f"worker has {smallest}{rest}",
    )


def check_poison(attack: Attack, problem: Problem) -> None:
    """Checks that an attack on data can be made on these examples; nothing else is affected.

    Raises:
        InvalidConfig: if the examples have no labels, the attack refuses them, or it changes
            their shapes or types.
    """
    poison, classes = attack.poison, problem.num_classes
    if poison is None:
        return
    rule = "an attack on data needs examples with labels, as those of problems.classification"
    if classes is None:
        raise InvalidConfig(f"{rule}: this problem has none")

    def one() -> Any:
        data = problem.data
        examples = data.examples if isinstance(data, WithFrozen) else data
        examples = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:1], examples)
        return examples, poison(examples, jnp.zeros((1,), jnp.int32), classes)

    before, after = (
        [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(examples)]
        for examples in jax.eval_shape(one)
    )
    rule = f"an attack on data keeps the types of examples: {', '.join(before)} became "
    require(before == after, rule + ", ".join(after))
