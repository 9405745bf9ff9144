"""The event loop: one event, and many of them in a compiled loop or in one of Python."""

# JAX annotates its functions only in part, so what they return is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Diagnostics, Problem, Query, Report, System
from farsign_jax.simulation import ahead
from farsign_jax.simulation.checks import check_poison
from farsign_jax.simulation.conversation import answer, ask, deliver, shard_of
from farsign_jax.simulation.in_place import scatter, zero_after
from farsign_jax.simulation.reads import mix, no_history
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.simulation.state import Memory, Run, depth, history_length
from farsign_jax.validation import require


class Steps(NamedTuple):
    """The three steps of the conversation, as `event` calls them."""

    ask: Callable[..., Query] = ask
    answer: Callable[..., tuple[Any, Report]] = answer
    deliver: Callable[..., tuple[Run, Diagnostics]] = deliver


def event(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    workers: Array,
    steps: Steps = Steps(),  # noqa: B008, which is immutable
) -> tuple[Run, Diagnostics]:
    """Advances a run by one event, in which `workers` arrive.

    Args:
        system: who takes part.
        problem: holds the examples of the workers.
        byzantine: bool[m], or bool[P, m], see `deliver`.
        keys: of the run.
        delivery: "fresh", "outstanding:L" or "inconsistent:L".
        run: the state of the run.
        workers: i32[] or i32[s], padded with -1.
        steps: functions that are called for the three steps.

    Returns:
        The new state, and the diagnostics of `deliver`.

    Raises:
        InvalidConfig: if an array of the state changes its shape or type.
    """
    workers = jnp.atleast_1d(workers)
    i = jnp.where(workers < 0, problem.num_workers, workers)

    def exchange(run: Run) -> tuple[Run, Report]:
        number = run.events
        queries = steps.ask(system, run.server, i, number, keys)
        if run.history != ():
            history, queries = mix(run.history, queries, number, keys, system.server.comparable)
            run = run._replace(history=history)
        states, reports = steps.answer(
            system, problem, run.workers, queries, number, keys, byzantine
        )
        return run._replace(workers=states), reports

    open_questions = depth(delivery)
    before = run
    if not open_questions:
        run, reports = exchange(run)
        run, info = steps.deliver(system, problem, run, reports, byzantine, keys)
        _check_types(before, run)
        return run, info

    at = (i, run.staleness.answers[i] % open_questions)  # its oldest question
    reports = jax.tree.map(lambda a: a[at], run.inbox)._replace(worker=i)
    run, info = steps.deliver(system, problem, run, reports, byzantine, keys)
    run, reports = exchange(run)
    readers = (run.server, run.attack, run.memory, run.staleness, info)
    at = (i + zero_after(readers), at[1])
    inbox = jax.tree.map(functools.partial(scatter, at), run.inbox, reports)
    run = run._replace(inbox=inbox)
    _check_types(before, run)
    return run, info


def _check_types(before: Run, after: Run) -> None:
    """Raises `InvalidConfig` if an event has changed the shape or the type of an array."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        return  # which the loop itself refuses
    news = jax.tree.leaves(after)
    for (path, old), new in zip(jax.tree.leaves_with_path(before), news, strict=True):
        same = old.shape == new.shape and old.dtype == new.dtype
        name = f"the state of a run keeps its types: {jax.tree_util.keystr(path)[1:]} was"
        got = (
            f"{old.dtype}{list(old.shape)}, and is {new.dtype}{list(new.shape)} after an event"
        )
        require(same or jax.typeof(old).weak_type, f"{name} {got}")


def start(
    system: System,
    problem: Problem,
    keys: keys_lib.RunKeys,
    delivery: str,
    byzantine: Array | None = None,
) -> Run:
    """Returns the state before the first event.

    In outstanding delivery every worker has been asked.

    Args:
        system: who takes part.
        problem: holds the examples of the workers.
        keys: of the run.
        delivery: "fresh", "outstanding:L" or "inconsistent:L".
        byzantine: as of `event`; an attack on data needs it, as answers may be computed here.

    Raises:
        InvalidConfig: if the server, the attack and the problem do not go together.
    """
    check_poison(system.attack, problem)
    open_questions = depth(delivery)
    server, worker, attack = system
    m, zero = problem.num_workers, jnp.zeros((), jnp.int32)
    require(
        server.num_workers == m,
        f"the server is for {server.num_workers} workers, the problem has {m}",
    )
    width = problem.x0.dtype
    rule = f"the parameters of a run are float32 or float64: got x0 of {width}"
    require(width in (jnp.float32, jnp.float64), rule)
    everyone = jnp.arange(m, dtype=jnp.int32)
    state = server.init(jnp.copy(problem.x0), keys.server)  # x0 is not the loop's to donate
    workers = jax.vmap(lambda i: worker.init(shard_of(attack, problem, i, zero, byzantine)))(
        everyone
    )

    def converse(i: Array, states: Any, number: Array) -> tuple[Any, Report]:
        queries = ask(system, state, i[None], number, keys)
        states, reports = answer(system, problem, states, queries, number, keys, byzantine)
        return states, jax.tree.map(lambda a: a[0], reports)

    def questions(i: Array) -> tuple[Any, Report]:
        # Numbered 0, -1, ...: those of events count from 1.
        numbers = -jnp.arange(open_questions, dtype=jnp.int32)
        states, reports = jax.lax.scan(functools.partial(converse, i), workers, numbers)
        return jax.tree.map(lambda a: a[i], states), reports

    inbox: Any = ()
    memory: Any = ()
    if attack.omniscient and server.recall is None:
        _, report = jax.eval_shape(converse, everyone[0], workers, zero)
        gradients = worker.encode is not None or not jax.tree.leaves(report.direction)
        require(
            server.comparable or gradients,
            "an omniscient attack needs whole gradients, or a server that can recall what was "
            "reported about a direction",
        )
        space = attack.space
        spaces = (space,) if isinstance(space, str) else space
        like = {"message": report.value, "measured": report.measured}
        if worker.encode is None:
            spaces = ("message",)
        shapes = {name: like[name] for name in spaces}
        reported = {n: jnp.zeros((m, *a.shape), a.dtype) for n, a in shapes.items()}
        memory = Memory(reported, jnp.zeros((m,), bool))
    if open_questions:
        # One at a time: m oracle calls side by side would need m times the scratch memory.
        workers, inbox = jax.lax.map(questions, everyone)
    history: Any = ()
    if length := history_length(delivery):
        queries = ask(system, state, everyone[:1], zero, keys)
        history = no_history(queries.params[0], queries.version[0], length)
    none = Staleness.none(m)
    return Run(state, workers, attack.init(m), inbox, memory, zero, none, history)


def advance(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    schedule: Array,
) -> tuple[Run, Diagnostics]:
    """Advances a run by all events of `schedule`, i32[T] or i32[T, s], in one loop (`ahead`).

    Returns:
        The new state, and the diagnostics of all events, leaves [T, ...].
    """

    def step(run: Run, arrival: tuple[Array, Array]) -> tuple[Run, Diagnostics]:
        workers, number = arrival
        run = run._replace(events=number)  # known before the loop, unlike the state
        return event(system, problem, byzantine, keys, delivery, run, workers)

    numbers = run.events + jnp.arange(len(schedule), dtype=jnp.int32)
    return ahead.scan(step, run, (schedule, numbers))


def python_loop(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    schedule: Array | np.ndarray,
) -> tuple[Run, Diagnostics]:
    """Does what `advance` does, in plain Python, so that a debugger can stop in between."""
    infos: list[Diagnostics] = []
    for workers in map(jnp.asarray, np.asarray(schedule)):
        run, info = event(system, problem, byzantine, keys, delivery, run, workers, _COMPILED)
        infos.append(info)
    return run, jax.tree.map(lambda *leaves: jnp.stack(leaves), *infos)


_compile = functools.partial(jax.jit, static_argnums=0)
_COMPILED = Steps(_compile(ask), _compile(answer), _compile(deliver))
