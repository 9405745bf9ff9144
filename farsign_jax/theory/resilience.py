"""The resilience of an aggregate against an attack, estimated at one iterate.

alpha-Byzantine resilience (Assumption 2.2): for some alpha < pi / 2,

    (1)  <E A, grad F> >= (1 - sin alpha) |grad F|^2
    (2)  E|A|^2 <= E_agg E|G|^2

where A is the aggregate of m answers, q of which come from Byzantine workers, and G is an
honest stochastic gradient. If (1) fails, sin alpha >= 1, and the theorem does not apply.

References:
    "A simplified convergence analysis of Byzantine Resilient SGD for nonconvex objectives",
    Assumption 2.2, (2.6), Corollary 4.1. eta: Blanchard et al., NeurIPS 2017, Proposition 4.2.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import aggregators, attacks, programs, simulation
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Attack, Problem, Query, Server, System, Worker
from farsign_jax.validation import check_integer, require, sanitize


class Resilience(NamedTuple):
    """An estimate at one iterate, with means over samples in place of expectations."""

    sin_alpha: float  # 1 - <E A, grad F> / |grad F|^2: below 1, (1) holds
    error: float  # the standard error of sin_alpha
    moment: float  # E|A|^2 / E|G|^2, the least E_agg
    gradient: float  # |grad F|
    deviation: float  # sqrt(E|G - grad F|^2)

    @property
    def holds(self) -> bool | None:
        """Whether (1) holds; None if the samples do not decide (two standard errors)."""
        if abs(self.sin_alpha - 1) < 2 * self.error:
            return None
        return self.sin_alpha < 1


def krum_factor(num_workers: int, q: int) -> float:
    """Returns eta(m, q): Krum is resilient where eta sqrt(E|G - grad F|^2) < |grad F|.

    eta^2 = 2 (m - q + (q (m - q - 2) + q^2 (m - q - 1)) / (m - 2 q - 2)).

    Raises:
        InvalidConfig: unless m > 2 q + 2.
    """
    m, q = check_integer("eta", "m", num_workers, 1), check_integer("eta", "q", q, 0)
    require(m > 2 * q + 2, f"eta(m, q) needs m > 2q + 2: got m={m}, q={q}")
    return math.sqrt(2 * (m - q + (q * (m - q - 2) + q**2 * (m - q - 1)) / (m - 2 * q - 2)))


class Answers(NamedTuple):
    """The answers of as many rounds as there are samples, all at the same iterate."""

    honest: Array  # f32[samples, m, d], stochastic gradients of all m workers
    received: Array  # f32[samples, m, d], with the messages of Byzantine workers in their rows
    byzantine: np.ndarray  # bool[m], which workers are Byzantine


class _Received(NamedTuple):
    params: Array  # f32[d]
    step: Array  # i32[]
    received: Array  # f32[m, d]


@functools.lru_cache(maxsize=16)  # the same functions each time, as jit caches by identity
def _recorder(num_workers: int) -> Server:
    """Returns a server that only records the answers."""

    def init(params, key=None):
        received = jnp.zeros((num_workers, *params.shape), params.dtype)
        return _Received(params, jnp.zeros((), jnp.int32), received)

    def query(state, worker, key):
        return Query(state.params, worker, (), state.step)

    def update(state, reports):
        return state._replace(received=sanitize(reports.value)), {}  # as `sgd` does

    return Server(init, query, update, num_workers)


@functools.partial(jax.jit, static_argnames=("system", "samples"))
def _sample(
    system: System, problem: Problem, byzantine: Array, seed: Array, samples: int
) -> Any:
    everyone = jnp.arange(problem.num_workers, dtype=jnp.int32)

    def one(number):
        keys = keys_lib.split(seed)
        keys = keys._replace(
            batches=jax.random.fold_in(keys.batches, number),
            attacks=jax.random.fold_in(keys.attacks, number),
        )
        run = simulation.start(system, problem, keys, "fresh")
        queries = simulation.ask(system, run.server, everyone, run.events, keys)
        _, reports = simulation.answer(system, problem, run.workers, queries, run.events, keys)
        run, _ = simulation.deliver(system, problem, run, reports, byzantine, keys)
        return reports.value, run.server.received

    return jax.lax.map(one, jnp.arange(samples, dtype=jnp.int32))


def answers(
    problem: Problem,
    worker: Worker,
    attack: Attack | str,
    *,
    byzantine: Any,
    samples: int = 1000,
    seed: int = 0,
) -> Answers:
    """Asks all workers at `problem.x0`, `samples` times.

    Args:
        problem: a problem whose x0 is the iterate (`dataclasses.replace`).
        worker: an honest worker that sends gradients.
        attack: the attack, or its name, as in "alie".
        byzantine: the number of Byzantine workers, or a mask bool[m].
        samples: the number of rounds.
        seed: the seed of all random numbers; honest gradients are the same for all attacks.

    Raises:
        InvalidConfig: if there are fewer than two samples.
    """
    require(samples >= 2, f"an estimate needs samples >= 2: got {samples}")
    programs.release_if_many()
    m = problem.num_workers
    attack = attacks.make(attack) if isinstance(attack, str) else attack
    mask = attacks.byzantine_mask(m, byzantine)
    system = System(_recorder(m), worker, attack)
    honest, received = _sample(system, problem, jnp.asarray(mask), jnp.int32(seed), samples)
    return Answers(honest, received, mask)


@functools.partial(jax.jit, static_argnames="rule")
def _aggregates(rule: Callable[..., Array], received: Array) -> Array:
    def one(at):
        number, rows = at
        return rule(rows, start=jnp.zeros_like(rows[0]), key=jax.random.key(number))

    return jax.lax.map(one, (jnp.arange(len(received)), received))


def estimate(
    rule: Callable[..., Array] | str, given: Answers, gradient: Array | np.ndarray
) -> Resilience:
    """Estimates Assumption 2.2 for a rule of `aggregators`.

    Args:
        rule: a rule, as in `sgd`, or its name, as in "krum:f=2".
        given: the `answers` at the iterate in question.
        gradient: f32[d], grad F there.

    Raises:
        InvalidConfig: if the gradient is 0 or has another shape.
    """
    programs.release_if_many()
    g, d = np.asarray(gradient, np.float64), given.received.shape[2:]
    require(g.shape == d, f"need the gradient f32{list(d)}: got {list(g.shape)}")
    rule = aggregators.make(rule) if isinstance(rule, str) else rule
    squared = float(g @ g)
    require(squared > 0, "resilience is about iterates where the gradient is not 0")
    aggregates = np.asarray(_aggregates(rule, given.received), np.float64)
    honest = np.asarray(given.honest, np.float64)[:, ~given.byzantine].reshape(-1, len(g))
    along = aggregates @ g / squared
    return Resilience(
        sin_alpha=1 - float(along.mean()),
        error=float(along.std(ddof=1)) / math.sqrt(len(along)),
        moment=float((aggregates**2).sum(axis=1).mean() / (honest**2).sum(axis=1).mean()),
        gradient=math.sqrt(squared),
        deviation=float(np.sqrt(((honest - g) ** 2).sum(axis=1).mean())),
    )


def moments(
    rule: Callable[..., Array] | str, given: Answers, powers: Sequence[int] = (2, 3, 4)
) -> tuple[float, ...]:
    """Estimates the least C_r with E|A|^r <= C_r E|G|^r, for each power r.

    The second part of Assumption 2.2 bounds E|A|^r for r = 2, 3, 4 by a linear combination of
    products E|G|^r1 ... E|G|^rn with r1 + ... + rn = r. E|G|^r is one of these products, and by
    Lyapunov's inequality the largest, so that there is a combination where there is a C_r.

    Args:
        rule: as for `estimate`.
        given: the `answers` at one iterate.
        powers: the powers r.

    Returns:
        E|A|^r / E|G|^r for each power, with means over samples in place of expectations.
    """
    programs.release_if_many()
    rule = aggregators.make(rule) if isinstance(rule, str) else rule
    aggregates = np.asarray(_aggregates(rule, given.received), np.float64)
    honest = np.asarray(given.honest, np.float64)[:, ~given.byzantine]
    sizes = [np.linalg.norm(rows, axis=-1) for rows in (aggregates, honest)]
    return tuple(float((sizes[0] ** r).mean() / (sizes[1] ** r).mean()) for r in powers)


def bound(
    rounds: int,
    power: float,
    *,
    gap: float,
    smoothness: float,
    sin_alpha: float,
    b: float,
    c: float,
    a: float = 0.0,
) -> float:
    """Returns the bound of Corollary 4.1 on min_{k < K} E|grad F(w_k)|, and on that of R_K.

    With alpha_k = (1 - sin alpha) / (L B' (k + 1)^p) and Q = sum_{k < K} alpha_k^2,

        sqrt(exp(L A' Q) (2 gap + L C' Q) / ((1 - sin alpha) K alpha_{K-1}))

    Args:
        rounds: K.
        power: p in (1/2, 1).
        gap: F(w_0) - F_low.
        smoothness: L.
        sin_alpha: sin alpha of Assumption 2.2, in [0, 1).
        a: A' of E|A|^2 <= 2 A' (F - F_low) + B' |grad F|^2 + C'.
        b: B' of the same inequality.
        c: C' of the same inequality.

    Raises:
        InvalidConfig: if p is outside (1/2, 1), sin_alpha outside [0, 1), or K < 1.
    """
    require(0.5 < power < 1, f"the bound needs 1/2 < p < 1: got p={power:g}")
    require(0 <= sin_alpha < 1, f"the bound needs 0 <= sin alpha < 1: got {sin_alpha:g}")
    require(rounds >= 1 and b > 0 and smoothness > 0, "the bound needs K >= 1, B > 0 and L > 0")
    first = (1 - sin_alpha) / (smoothness * b)
    steps = first / np.arange(1, rounds + 1) ** power
    q = float((steps**2).sum())
    top = math.exp(smoothness * a * q) * (2 * gap + smoothness * c * q)
    return math.sqrt(top / ((1 - sin_alpha) * rounds * float(steps[-1])))
