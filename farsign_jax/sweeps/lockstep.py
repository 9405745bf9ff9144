"""Runs of one seed in lock-step: many servers and attacks, one conversation.

Runs that share the schedule, the questions and the mini-batches differ in their iterates
alone. Side by side in one program they share all that does not depend on the iterate: in the
CYBER-0 family the directions and their products with the data, nearly all of the cost. And
whether a set of buffers is full depends on the schedule alone, so it stays one question with
one answer, and the aggregation stays conditional; batched over runs like everything else, it
would be computed at every event.

A run is a *lane* (g, h, a): server structure g (an aggregator), point h of its
hyper-parameters, attack a; L = G * H * A lanes in this order. To the driver they are together
one `System`, whose iterate is f32[L, d].
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax import simulation
from farsign_jax.base import Attack, Problem, PyTree, Server, System, Table, View, Worker
from farsign_jax.validation import is_concrete, require


class LockstepState(NamedTuple):
    """The state of each server structure, leaves [H * A, ...]; scheduled fields only once."""

    servers: tuple[PyTree, ...]

    @property
    def params(self) -> jax.Array:  # f32[..., L, d]
        return jnp.concatenate([state.params for state in self.servers], axis=-2)

    @property
    def step(self) -> jax.Array:
        return self.servers[0].step


@dataclasses.dataclass(frozen=True)
class Lockstep:
    """`(problem, hyper) -> System` of all lanes; `hyper` has leaves [G, H].

    For `sweeps.sweep`, one seed at a time (`max_parallel_runs=1`) where conditions must branch.

    Attributes:
        builds: `builds[g][a](problem, hyper)` is the system of one lane, hashable by value.
            All have the same worker, but for hyper-parameters, and ask the same questions; one
            row has one server, one column one attack.
    """

    builds: tuple[tuple[Callable[[Problem, Any], System], ...], ...]

    def __call__(self, problem: Problem, hyper: Any) -> System:
        points = {leaf.shape for leaf in jax.tree.leaves(hyper)}
        rule = f"hyper-parameters in lock-step are [{len(self.builds)}, H]: got {points}"
        require(len(points) == 1 and min(points)[:1] == (len(self.builds),), rule)
        num_attacks = len(self.builds[0])
        # Lanes of one server: every point for every attack.
        grid = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_attacks, axis=1), hyper)
        at = [jax.tree.map(lambda leaf, g=g: leaf[g], grid) for g in range(len(self.builds))]
        one = jax.tree.map(lambda leaf: leaf[0, 0], hyper)
        first = self.builds[0][0](problem, one)
        makers = [lambda h, row=row: row[0](problem, h).server for row in self.builds]
        known = range(min(points)[1]) if is_concrete(hyper) else ()
        for g, make in enumerate(makers):  # what cannot be built fails here
            for h in known:
                make(jax.tree.map(lambda leaf, g=g, h=h: leaf[g, h], hyper))
            if not known:
                make(one)
        every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *at)  # [L]
        attacks = [build(problem, one).attack for build in self.builds[0]]
        return System(
            _server(makers, at, first.server),
            _worker(first.worker, lambda h: self.builds[0][0](problem, h).worker, every),
            _attack(attacks, first, *min(points)),
        )


def _axes(server: Server, state: Any) -> Any:
    """vmap axes of a state: what the schedule alone decides is common to all lanes."""
    return type(state)(*(None if f in server.scheduled else 0 for f in state._fields))


def _lane(server: Server, state: Any, lanes: Any) -> Any:
    """Some lanes of a server's state."""
    common = server.scheduled
    pairs = zip(state._fields, state, strict=True)
    return type(state)(*(leaf if f in common else leaf[lanes] for f, leaf in pairs))


def _server(
    makers: Sequence[Callable[[Any], Server]], hypers: Sequence[Any], first: Server
) -> Server:
    lanes = len(jax.tree.leaves(hypers[0])[0])
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
        asked = first.query(_lane(first, state.servers[0], 0), worker, key)
        return asked._replace(params=state.params)

    def update(state, reports):
        states = []
        finite = jnp.isfinite(reports.value).all(axis=tuple(range(2, reports.value.ndim)))
        present = reports.worker < first.num_workers
        info = {"nonfinite": jnp.sum(present[:, None] & ~finite, axis=0)}  # of each lane
        for g, (make, hyper) in enumerate(zip(makers, hypers, strict=True)):
            old = state.servers[g]
            axes = _axes(first, old)

            def hear(h, state, value, make=make):
                return make(h).update(state, reports._replace(value=value))[0]

            value = reports.value[:, g * lanes : (g + 1) * lanes]
            hear = jax.vmap(hear, in_axes=(0, axes, 1), out_axes=axes)
            states.append(hear(hyper, old, value))
        return LockstepState(tuple(states)), info

    return Server(init, query, update, first.num_workers, comparable=first.comparable)


def _worker(worker: Worker, make: Callable[[Any], Worker], hyper: Any) -> Worker:
    """Answers the same question for every lane's iterate.

    States lead with [L], in a `Table` with [n, L].
    `worker` is any of them, `make(h)` that of one lane; `hyper` has leaves [L].
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


def _attack(
    attacks: Sequence[Attack], one: System, num_servers: int, num_points: int
) -> Attack:
    """Each attack in its own lanes: a value is [L, ...], what was reported [m, L, ...]."""
    shape = num_servers, num_points, len(attacks)

    def init(num_workers):
        def every(leaf):  # one state per lane of an attack, [G, H, ...]
            return jnp.broadcast_to(leaf, (*shape[:2], *jnp.shape(leaf)))

        return tuple(jax.tree.map(every, attack.init(num_workers)) for attack in attacks)

    def forge(states, report, view, key):
        def told(g, a):
            """The state and the message of the lanes (g, :, a)."""
            lanes = slice(g * shape[1] * shape[2] + a, (g + 1) * shape[1] * shape[2], shape[2])
            state = jax.tree.map(lambda leaf: leaf[g], states[a])
            mine = _lane(one.server, view.server.servers[g], slice(a, None, shape[2]))
            reported = None
            if attacks[a].omniscient:
                reported = {name: leaf[:, lanes] for name, leaf in view.reported.items()}
            message, measured = (
                jax.tree.map(lambda leaf: leaf[lanes], x)
                for x in (report.value, report.measured)
            )

            def lane(state, message, measured, server, reported):
                own = report._replace(value=message, measured=measured)
                seen = View(server, view.byzantine, reported, view.received)
                return simulation.apply_attack(
                    attacks[a], one.worker.encode, state, own, seen, key
                )

            axes = (0, 0, 0, _axes(one.server, mine), 1)
            return jax.vmap(lane, in_axes=axes)(state, message, measured, mine, reported)

        stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
        lies = [[told(g, a) for g in range(shape[0])] for a in range(shape[2])]
        after = tuple(stack([state for state, _ in row]) for row in lies)
        value = jnp.stack([stack([value for _, value in row]) for row in lies], axis=2)
        return after, value.reshape(report.value.shape)

    watched = {str(attack.space) for attack in attacks if attack.omniscient}
    return Attack(init, forge, bool(watched), space=tuple(sorted(watched)))
