"""The event loop: one event, and many of them in `lax.scan` or in a loop of Python."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Problem, System
from farsign_jax.simulation.conversation import (
    Memory,
    Run,
    answer,
    ask,
    deliver,
    depth,
    scatter,
    zero_after,
)
from farsign_jax.simulation.staleness import Staleness
from farsign_jax.validation import require

Lines = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]


_LINES: Lines = (ask, answer, deliver)


def event(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    workers: Array,
    lines: Lines = _LINES,
) -> tuple[Run, dict[str, Array]]:
    """One step of the loop: `workers`, i32[] or i32[s], are heard."""
    speak_ask, speak_answer, speak_deliver = lines
    workers = jnp.atleast_1d(workers)
    i = jnp.where(workers < 0, problem.num_workers, workers)

    def exchange(run):
        number = run.events
        queries = speak_ask(system, run.server, i, number, keys)
        states, reports = speak_answer(system, problem, run.workers, queries, number, keys)
        return run._replace(workers=states), reports

    open_questions = depth(delivery)
    if not open_questions:
        run, reports = exchange(run)
        return speak_deliver(system, run, reports, byzantine, keys)

    at = (i, run.staleness.answers[i] % open_questions)  # its oldest question
    reports = jax.tree.map(lambda a: a[at], run.inbox)._replace(worker=i)
    run, info = speak_deliver(system, run, reports, byzantine, keys)
    run, reports = exchange(run)
    readers = (run.server, run.attack, run.memory, run.staleness, info)
    at = (i + zero_after(readers), at[1])
    inbox = jax.tree.map(functools.partial(scatter, at), run.inbox, reports)
    return run._replace(inbox=inbox), info


def start(system: System, problem: Problem, keys: keys_lib.RunKeys, delivery: str) -> Run:
    """The state before the first event; in outstanding delivery, every worker is asked."""
    open_questions = depth(delivery)
    server, worker, attack = system
    m, zero = problem.num_workers, jnp.zeros((), jnp.int32)
    require(
        server.num_workers == m,
        f"the server is for {server.num_workers} workers, the problem has {m}",
    )
    everyone = jnp.arange(m, dtype=jnp.int32)
    state = server.init(jnp.copy(problem.x0), keys.server)  # x0 is not the loop's to donate
    workers = jax.vmap(lambda i: worker.init(problem.shard(i)))(everyone)

    def converse(i, states, number):
        queries = ask(system, state, i[None], number, keys)
        states, reports = answer(system, problem, states, queries, number, keys)
        return states, jax.tree.map(lambda a: a[0], reports)

    def questions(i):  # numbered 0, -1, ...: events count from 1 on
        numbers = -jnp.arange(open_questions, dtype=jnp.int32)
        states, reports = jax.lax.scan(functools.partial(converse, i), workers, numbers)
        return jax.tree.map(lambda a: a[i], states), reports

    inbox: Any = ()
    memory: Any = ()
    if attack.omniscient and server.recall is None:
        _, report = jax.eval_shape(converse, everyone[0], workers, zero)
        whole = worker.encode is not None or not jax.tree.leaves(report.direction)
        require(
            server.comparable or whole,
            "an omniscient attack needs a server that can recall what was said about a "
            "direction, or whole gradients",
        )
        space = attack.space
        spaces = (space,) if isinstance(space, str) else space
        like = {"message": report.value, "measured": report.measured}
        if worker.encode is None:
            spaces = ("message",)
        said = {name: jnp.zeros((m, *like[name].shape), like[name].dtype) for name in spaces}
        memory = Memory(said, jnp.zeros((m,), bool))
    if open_questions:
        # One at a time: m oracle calls side by side would need m times the scratch memory.
        workers, inbox = jax.lax.map(questions, everyone)
    return Run(state, workers, attack.init(m), inbox, memory, zero, Staleness.none(m))


def advance(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    schedule: Array,
) -> tuple[Run, dict[str, Array]]:
    """All events of `schedule`, i32[T] or i32[T, s]. Info leaves lead with [T]."""
    step = functools.partial(event, system, problem, byzantine, keys, delivery)
    return jax.lax.scan(step, run, schedule)


def python_loop(
    system: System,
    problem: Problem,
    byzantine: Array,
    keys: keys_lib.RunKeys,
    delivery: str,
    run: Run,
    schedule: Array,
) -> tuple[Run, dict[str, Array]]:
    """`advance` in plain Python: slow, and open to a debugger between any two lines."""
    infos = []
    for workers in map(jnp.asarray, np.asarray(schedule)):
        run, info = event(system, problem, byzantine, keys, delivery, run, workers, _SPOKEN)
        infos.append(info)
    return run, jax.tree.map(lambda *leaves: jnp.stack(leaves), *infos)


_speak = functools.partial(jax.jit, static_argnums=0)


_SPOKEN: Lines = (_speak(ask), _speak(answer), _speak(deliver))
