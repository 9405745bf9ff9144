"""Runs of one seed in lock-step: many servers and attacks, one conversation.

Runs with the same schedule, questions and mini-batches differ in their iterates alone. Side by
side in one program they have in common all that does not depend on the iterate: in the CYBER-0
family the directions and their products with the data, nearly all of the cost. Whether a set of
buffers is full depends on the schedule alone, so it remains one condition for all runs, and the
aggregation remains conditional; with `vmap` over runs it would be computed at every event.

A run is a triple (g, h, a): server structure g (an aggregator), point h of its
hyper-parameters, attack a; L = G * H * A runs in this order. To the driver they are together
one `System`, whose iterate is f32[L, d].
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax import simulation
from farsign_jax.base import Attack, Problem, PyTree, Server, System, Table, Worker
from farsign_jax.validation import check_points, require


class LockstepState(NamedTuple):
    """State of each server structure, leaves [H * A, ...] but for scheduled fields."""

    servers: tuple[PyTree, ...]

    @property
    def params(self) -> jax.Array:
        """f32[..., L, d]."""
        return jnp.concatenate([state.params for state in self.servers], axis=-2)

    @property
    def step(self) -> jax.Array:
        """i32[], the same in all runs."""
        return self.servers[0].step


@dataclasses.dataclass(frozen=True)
class Lockstep:
    """`(problem, hyper) -> System` of all runs; `hyper` has leaves [G, H].

    For `sweeps.sweep`, one seed at a time (`max_parallel_runs=1`) if conditions must branch.

    Attributes:
        builds: `builds[g][a](problem, hyper)` makes the system of one run, hashable by value.
            All have the same worker, but for hyper-parameters, and ask the same questions; a
            row has one server, a column one attack.
    """

    builds: tuple[tuple[Callable[[Problem, Any], System], ...], ...]

    def __call__(self, problem: Problem, hyper: Any) -> System:
        points = {leaf.shape for leaf in jax.tree.leaves(hyper)}
        rule = f"hyper-parameters in lock-step are [{len(self.builds)}, H]: got {points}"
        require(len(points) == 1 and min(points)[:1] == (len(self.builds),), rule)
        num_attacks = len(self.builds[0])
        # Runs of one server: every point for every attack.
        grid = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_attacks, axis=1), hyper)
        at = [jax.tree.map(lambda leaf, g=g: leaf[g], grid) for g in range(len(self.builds))]
        one = jax.tree.map(lambda leaf: leaf[0, 0], hyper)
        first = self.builds[0][0](problem, one)
        makers = [lambda h, row=row: row[0](problem, h).server for row in self.builds]
        for g, make in enumerate(makers):
            check_points(make, jax.tree.map(lambda leaf, g=g: leaf[g], hyper))
        every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *at)  # [L]
        # An attack may know the aggregator of its server, so that each server has its own.
        attacks = [[_attack_of(build, problem, one) for build in row] for row in self.builds]
        return System(
            _server(makers, at, first.server),
            _worker(first.worker, lambda h: self.builds[0][0](problem, h).worker, every),
            _attack(attacks, first, min(points)[1]),
        )


def _attack_of(build: Callable[[Problem, Any], System], problem: Problem, hyper: Any) -> Attack:
    """The attack of a system, which need not be built for it if its specification makes one."""
    make = getattr(build, "make_attack", None)
    return build(problem, hyper).attack if make is None else make()


def _axes(server: Server, state: Any) -> Any:
    """Returns the `vmap` axes of a state: scheduled fields are common to all runs."""
    return type(state)(*(None if f in server.scheduled else 0 for f in state._fields))


def _some_runs(server: Server, state: Any, runs: Any) -> Any:
    """Returns the state of some of the runs of a server."""
    common = server.scheduled
    pairs = zip(state._fields, state, strict=True)
    return type(state)(*(leaf if f in common else leaf[runs] for f, leaf in pairs))


def _server(
    makers: Sequence[Callable[[Any], Server]], hypers: Sequence[Any], first: Server
) -> Server:
    runs = len(jax.tree.leaves(hypers[0])[0])  # of each server
    rule = "servers that choose which answers to accept do not keep in step: run each alone"
    require("step" in first.scheduled, rule)

    def init(params, key):
        states = []
        for make, hyper in zip(makers, hypers, strict=True):
            like = jax.eval_shape(first.init, params, key)
            axes = _axes(first, like)
            begin = jax.vmap(lambda h, m=make: m(h).init(params, key), out_axes=axes)
            states.append(begin(hyper))
        return LockstepState(tuple(states))

    def query(state, worker, key):
        asked = first.query(_some_runs(first, state.servers[0], 0), worker, key)
        return asked._replace(params=state.params)

    def update(state, reports):
        states = []
        finite = jnp.isfinite(reports.value).all(axis=tuple(range(2, reports.value.ndim)))
        present = reports.worker < first.num_workers
        nonfinite = jnp.sum(present[:, None] & ~finite, axis=0, dtype=jnp.int32)
        info = {"nonfinite": nonfinite}  # of each run
        for g, (make, hyper) in enumerate(zip(makers, hypers, strict=True)):
            old = state.servers[g]
            axes = _axes(first, old)

            def update_one(h, state, value, make=make):
                return make(h).update(state, reports._replace(value=value))[0]

            value = reports.value[:, g * runs : (g + 1) * runs]
            update_all = jax.vmap(update_one, in_axes=(0, axes, 1), out_axes=axes)
            states.append(update_all(hyper, old, value))
        return LockstepState(tuple(states)), info

    return Server(
        init,
        query,
        update,
        first.num_workers,
        comparable=first.comparable,
        in_rounds=first.in_rounds,
    )


def _worker(worker: Worker, make: Callable[[Any], Worker], hyper: Any) -> Worker:
    """Returns the worker that answers the same question for the iterate of every run.

    Its states have leaves [L, ...], in a `Table` [n, L, ...].

    Args:
        worker: that of any run.
        make: `make(h)` is the worker of one run.
        hyper: leaves [L].
    """

    def axes(state):
        is_table = lambda node: isinstance(node, Table)  # noqa: E731
        return jax.tree.map(lambda node: int(is_table(node)), state, is_leaf=is_table)

    def init(shard):
        state = jax.eval_shape(worker.init, shard)
        if not jax.tree.leaves(state):
            return state
        begin = lambda h: make(h).init(shard)  # noqa: E731
        return jax.vmap(begin, out_axes=axes(state))(hyper)

    def respond(state, query, shard, key):
        def one(h, state, params):
            return make(h).respond(state, query._replace(params=params), shard, key)

        own = axes(state)
        return jax.vmap(one, in_axes=(0, own, 0), out_axes=(own, 0))(hyper, state, query.params)

    encode = worker.encode and jax.vmap(worker.encode, in_axes=(None, 0))
    return worker._replace(init=init, respond=respond, encode=encode)


def _attack(rows: Sequence[Sequence[Attack]], one: System, num_points: int) -> Attack:
    """Returns the attack that forges for all runs: values are [L, ...], reports [m, L, ...]."""
    attacks = rows[0]
    shape = len(rows), num_points, len(attacks)

    def init(num_workers):
        def every(leaf):  # a state for each run of an attack, [G, H, ...]
            return jnp.broadcast_to(leaf, (*shape[:2], *jnp.shape(leaf)))

        return tuple(jax.tree.map(every, attack.init(num_workers)) for attack in attacks)

    asks = max(attack.asks for attack in attacks)

    def forge(states, report, view, key):
        answers = view.asked() if asks else {}

        def forge_for(g, a):
            """Returns the states and the messages of the runs (g, :, a)."""
            runs = slice(g * shape[1] * shape[2] + a, (g + 1) * shape[1] * shape[2], shape[2])
            state = jax.tree.map(lambda leaf: leaf[g], states[a])
            mine = _some_runs(one.server, view.server.servers[g], slice(a, None, shape[2]))
            reported = asked = None
            if rows[g][a].asks:
                asked = {name: leaf[:, :, runs] for name, leaf in answers.items()}
            elif rows[g][a].omniscient:
                reported = {name: leaf[:, runs] for name, leaf in view.reported.items()}
            message, measured = (
                jax.tree.map(lambda leaf: leaf[runs], x)
                for x in (report.value, report.measured)
            )

            def forge_one(state, message, measured, server, reported, asked):
                own = report._replace(value=message, measured=measured)
                seen = view._replace(server=server, reported=reported, asked=lambda: asked)
                return simulation.apply_attack(
                    rows[g][a], one.worker.encode, state, own, seen, key
                )

            axes = (0, 0, 0, _axes(one.server, mine), 1, 2)
            known = reported, asked
            return jax.vmap(forge_one, in_axes=axes)(state, message, measured, mine, *known)

        stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
        forged = [[forge_for(g, a) for g in range(shape[0])] for a in range(shape[2])]
        after = tuple(stack([state for state, _ in row]) for row in forged)
        value = jnp.stack([stack([value for _, value in row]) for row in forged], axis=2)
        return after, value.reshape(report.value.shape)

    poisons = [attack.poison for attack in attacks]
    rule = "runs in lock-step have their mini-batches in common, so an attack on data is alone "
    rule += f"there: got {len(attacks)} attacks side by side"
    require(len(attacks) == 1 or not any(poisons), rule)
    spaces = {str(attack.space) for attack in attacks if attack.omniscient}
    return Attack(
        init,
        forge,
        bool(spaces),
        tuple(sorted(spaces)),
        poisons[0],
        asks=asks,
        after=attacks[0].after if poisons[0] else 0,
    )
