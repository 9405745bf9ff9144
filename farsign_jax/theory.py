"""What the theorems of FAR-SIGN speak of, measured along a run, and what they promise.

`observed` is a server that keeps, beside its own state, the sums in the bound of Proposition
C.5; `bound` puts them together; `slope` fits a rate with its uncertainty; `greedy` and
`lookahead` are liars who know the objective and choose the worst sign each time.

References:
    Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, "Adversary-Robust Learning from
    Fully Asynchronous Directional Derivative Estimates", arXiv 2605.09337, 2026, Section 2 and
    Appendices A to C.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, Attack, Schedule, Server, require
from farsign_jax.directions import Dictionary

Gradient = Callable[[Array], Array]  # f32[d] -> f32[d], of the function itself, without noise


class Sums(NamedTuple):
    """Over the events n so far, f32[] each; alpha_n is the step size of event n."""

    steps: Array  # sum alpha_n
    gradient: Array  # sum alpha_n |grad f(x_n)|_2
    error: Array  # sum alpha_n sum_(i honest) |y_n(i) - D_i grad f(x_n)|_1
    squares: Array  # sum alpha_n^2
    farthest: Array  # max |x_n|_inf


class Observed(NamedTuple):
    """The state of a server, and what has been seen of it."""

    server: Any
    sums: Sums
    tracking: (
        Array  # f32[], mean of |y_n(i) - D_i grad f(x_n)|_2^2, at the last event, i honest
    )

    @property
    def params(self) -> Array:
        return self.server.params

    @property
    def step(self) -> Array:
        return self.server.step

    @property
    def averages(self) -> Array:
        return self.server.averages


def rows(dictionary: Dictionary, num_workers: int) -> Array:
    """D f32[m, K, d], all directions written out: for few of them in few dimensions."""
    ids = jnp.arange(dictionary.size, dtype=jnp.int32)
    basis = jnp.eye(dictionary.dim)

    def of(worker):
        return jax.vmap(lambda e: dictionary.project(e, worker, ids), out_axes=1)(basis)

    return jax.vmap(of)(jnp.arange(num_workers, dtype=jnp.int32))


def observed(
    server: Server, dictionary: Dictionary, step_size: Schedule, gradient: Gradient, honest: Any
) -> Server:
    """`far_sign`, watched: every event costs O(m K d) more, and x moves as it would have.

    Args:
        server: with this dictionary and this step size. Of a server whose averages are of
            something else (`online_mean`), only what concerns x means what it says.
        dictionary: its directions.
        step_size: alpha_n, as a schedule.
        gradient: of f.
        honest: bool[m], whose averages are compared with the truth.
    """
    m = server.num_workers
    honest = jnp.asarray(honest, bool)

    def errors(state):
        g = gradient(state.params)
        slopes = rows(dictionary, m).astype(g.dtype) @ g  # [m, K]
        return g, jnp.where(honest[:, None], state.averages - slopes, 0)

    def init(params, key=None):
        state = server.init(params, key)
        zero = jnp.zeros((), params.dtype)
        sums = Sums(zero, zero, zero, zero, jnp.abs(params).max())
        return Observed(state, sums, zero)

    def query(state, worker, key):
        return server.query(state.server, worker, key)

    def update(state, reports):
        inner, sums = state.server, state.sums
        g, error = errors(inner)
        alpha = jnp.asarray(step_size(inner.step), g.dtype)
        after, info = server.update(inner, reports)
        sums = Sums(
            steps=sums.steps + alpha,
            gradient=sums.gradient + alpha * jnp.linalg.norm(g),
            error=sums.error + alpha * jnp.abs(error).sum(),
            squares=sums.squares + alpha**2,
            farthest=jnp.maximum(sums.farthest, jnp.abs(after.params).max()),
        )
        tracking = (error**2).sum() / jnp.maximum(honest.sum(), 1).astype(g.dtype)
        return Observed(after, sums, tracking), info

    def recall(state, direction):
        assert server.recall is not None
        return server.recall(state.server, direction)

    return Server(init, query, update, m, None if server.recall is None else recall)


def bound(
    sums: Mapping[str, Any], *, gap: float, smoothness: float, margin: float, pairs: int
) -> Any:
    """Proposition C.5, for one direction per event, `sign_of="old"` and uniform pairs.

    sum_k alpha_k |grad f(x_k)| / sum_k alpha_k is at most, in expectation,

        [K (f(x_0) - min f) + 2 sum_k alpha_k sum_(i honest) |e_k(i)|_1
            + K (L / 2) sum_k alpha_k^2] / (eta sum_k alpha_k)

    where `sums` has the fields of `Sums` by name. Directions are unit vectors, K = `pairs` is
    the number of (worker, direction) pairs, e_k(i) = y_k(i) - D_i grad f(x_k), L = `smoothness`
    and eta = `margin` (`directions.certify`).
    """
    total = pairs * gap + 2 * sums["error"] + pairs * smoothness / 2 * sums["squares"]
    return total / (margin * sums["steps"])


class Slope(NamedTuple):
    """A rate: log of the mean over replicas against log n, and where 95 % of resamples lie."""

    value: float
    low: float
    high: float


def slope(events: Any, values: Any, *, resamples: int = 2000, seed: int = 0) -> Slope:
    """Fits the mean over replicas to C n^slope, by least squares on a log-log scale.

    What a run measures at two times is correlated, so replicas are drawn again, not records.

    Args:
        events: [E], n > 0, evenly spread on a log scale.
        values: [R, E] > 0, R replicas.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        InvalidConfig: on fewer than two records or replicas, or a value that is not positive.
    """
    x, values = np.log(np.asarray(events, np.float64)), np.asarray(values, np.float64)
    replicas, records = values.shape
    require(records > 1 and replicas > 1, f"a slope needs 2 x 2 values: got {values.shape}")
    require((values > 0) & np.isfinite(values), "a slope needs positive, finite values")
    x = x - x.mean()
    means = np.concatenate([values.mean(axis=0)[None], resampled(values, resamples, seed)])
    slopes = np.log(means) @ x / (x @ x)
    return Slope(float(slopes[0]), *middle(slopes[1:]))


def resampled(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Means over replicas, drawn again with replacement: f64[resamples, ...] from [R, ...]."""
    rng = np.random.default_rng(seed)
    return values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)


def middle(samples: np.ndarray) -> tuple[float, float]:
    """Where 95 % of them lie."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def log_spaced(events: Any, first: float, count: int = 25) -> np.ndarray:
    """Indices of `count` records from `first` on, evenly spread on a log scale."""
    events = np.asarray(events)
    wanted = np.geomspace(first, events[-1], count)
    return np.unique(np.searchsorted(events, wanted).clip(0, len(events) - 1))


def _say(server: Any, i: Array, j: Array, target: Array, average_step: Schedule) -> Array:
    """What makes the new average `target`: y + beta (Y - y) = target."""
    old = server.averages[i, j]
    beta = jnp.clip(jnp.asarray(average_step(server.step), old.dtype), 1e-6, 1)
    return old + (target - old) / beta


def greedy(gradient: Gradient, dictionary: Dictionary, average_step: Schedule) -> Attack:
    """Answers so that its average has the sign that takes x uphill the fastest.

    Knows the objective, the iterate, the server's averages and beta. Its average is +-1, so
    that it can turn at once.
    """

    def forge(state, report, view, key):
        del key
        x, i, j = view.server.params, report.worker, report.direction
        target = -jnp.sign(dictionary.project(gradient(x), i, j))
        return state, _say(view.server, i, j, target, average_step)

    return Attack(lambda num_workers: (), forge)


def lookahead(
    gradient: Gradient,
    dictionary: Dictionary,
    average_step: Schedule,
    step_size: Schedule,
    *,
    horizon: int = 8,
    stride: float = 1.0,
) -> Attack:
    """Searches all signs of its K averages for those that keep the gradient large.

    Follows each of the 2^K choices for `horizon` steps of the mean motion, each of `stride`
    rounds of questions to everybody, honest averages being where they should be; the choice
    with the largest sum of |grad f| is the target.
    """
    choices = np.array(np.meshgrid(*[[-1.0, 1.0]] * dictionary.size)).reshape(
        dictionary.size, -1
    )

    def forge(state, report, view, key):
        del key
        x, i, j = view.server.params, report.worker, report.direction
        directions = rows(dictionary, view.byzantine.size).astype(x.dtype)  # [m, K, d]
        alpha = stride * jnp.asarray(step_size(view.server.step), x.dtype)

        def follow(signs):
            def move(x, _):
                honest = jnp.sign(directions @ gradient(x))
                votes = jnp.where(view.byzantine[:, None], signs[None], honest)
                x = x - alpha * jnp.einsum("mk,mkd->d", votes, directions)
                return x, jnp.linalg.norm(gradient(x))

            return jax.lax.scan(move, x, None, length=horizon)[1].sum()

        signs = jnp.asarray(choices.T, x.dtype)
        best = signs[jnp.argmax(jax.vmap(follow)(signs))]
        return state, _say(view.server, i, j, best[j], average_step)

    return Attack(lambda num_workers: (), forge)
