"""FAR-SIGN: sign descent on one moving average per (worker, direction).

Event n delivers answers Y(i, j) about a_ij . grad f for the pairs (i, j) in S_n. With a slow
step alpha_n, a fast step beta_n and weights w_i (1 unless arrivals are uneven):

    y(i, j) <- y(i, j) + beta_n * (Y(i, j) - y(i, j))          for (i, j) in S_n    eq. (3)
    x       <- x - alpha_n * sum_{S_n} w_i * sign(y(i, j)) * a_ij                   eq. (4)

No rounds, no buffers, no trusted data; whatever is said, x moves by at most alpha_n w_i along
each direction, and sign(0) = 0 means no move.

Beyond the paper, each by itself, to learn more from as many evaluations
(`experiments.ablation`): directions that matter are asked for more often (`sampler`), some
directions have other steps (`gain`), small averages move x less (`soft`), and what the run
ends with is an average of the iterates (`averaging`).

References:
    Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, "Adversary-Robust Learning from
    Fully Asynchronous Directional Derivative Estimates", arXiv 2605.09337, 2026, Algorithm 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from farsign_jax.base import Array, PyTree, Query, Schedule, Server
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.directions.importance import Sampler
from farsign_jax.methods.average_storage import Averages, dense, memory_advice
from farsign_jax.methods.iterate_average import IterateAverage
from farsign_jax.step_sizes import as_schedule, check_step_size
from farsign_jax.validation import is_concrete, require, sanitize

_LARGEST = 1e30  # only signs reach x; far from overflow even in the difference Y - y


class FarSignState(NamedTuple):
    """m workers, K directions each, d parameters."""

    params: Array  # f32[d], x
    averages: PyTree  # f32[m, K], y, zero until first heard; or another `averages.Averages`
    counts: Array  # i32[m], answers heard from each worker, those over its cap left out
    step: Array  # i32[], updates applied so far, n
    asked: Any = ()  # the state of the sampler
    lag: Any = ()  # `Lag`, where iterates are averaged

    @property
    def output(self) -> Array:
        """f32[d], what the run is judged by: x, or the average of the iterates."""
        return self.params - self.lag.behind(self.step) if self.lag else self.params


def far_sign(
    num_workers: int,
    dictionary: Dictionary,
    *,
    step_size: float | Array | Schedule,
    average_step: float | Array | Schedule,
    sign_of: str = "new",
    arrival_rates: Any = None,
    max_weight: float = 10.0,
    rate_cap: float | None = None,
    cap_rank: int | None = None,
    cap_burst: int = 10,
    sampler: Sampler | None = None,
    gain: Callable[[Array], Array] | None = None,
    soft: float = 0.0,
    averaging: float | None = None,
    storage: Averages | None = None,
) -> Server:
    """Asynchronous sign descent with one memory per worker and direction.

    Args:
        num_workers: m (static).
        dictionary: the directions (static), see `directions`.
        step_size: alpha, distance moved along each direction: number, tracer or schedule.
        average_step: beta in (0, 1], weight of the newest answer: number, tracer or schedule,
            clipped to [0, 1] (the theorems' schedules may begin above 1).
        sign_of: "new", x moves along the sign of the average just updated, as in the MNIST
            experiment (Section 4); "old", of the one before, as in the analysis (eq. 4 with
            F_n-measurable y_n). Equal in the limit, not on short runs: with "old" the first
            answer about a direction moves nothing.
        arrival_rates: None, no weights; f32[m], relative rates p_i known beforehand;
            "estimate", rates counted on line, (c_i + 1) / sum(c + 1). The step of worker i is
            multiplied by 1 / (m p_i), which removes the pull of workers that answer more often.
        max_weight: upper bound of these weights, and of the sampler's.
        rate_cap: None, every answer counts; c >= 1, against workers that flood: worker i is
            heard while c_i < cap_burst + c * C, where C is the `cap_rank`-th largest count of
            all workers, and ignored beyond, as if it had not answered. No clock, which the
            flood would drive. q liars are then worth up to c q workers: it takes c q < m - q.
        cap_rank: None, the middle one, m // 2 + 1, which fewer than half of the workers cannot
            raise. Any rank above q will do; if fewer workers than that are alive, the others
            come to the end of what they may say.
        cap_burst: answers that everybody may give ahead of the others.
        sampler: None, the dictionary draws: all directions are equally likely; else a
            `sampling.Sampler` of the dictionary's K and k.
        gain: None, or a function from directions j to factors >= 0 of the steps along them.
        soft: c >= 0; along direction j, x moves by alpha * clip(y_j / (c * mean |y|), -1, 1)
            instead of alpha * sign(y_j), the mean over the directions of the answer.
        averaging: None, or g >= 0: the output is the mean of the iterates with weights
            (n + 1)^g, at a cost of O(k) per update.
        storage: where y is kept, one of `averages` for m and K; None, m K numbers.

    Returns:
        A `Server` for m workers and `dictionary.dim` parameters.

    A non-finite number counts as the answer 0 and a huge one is clipped to 1e30: neither can
    enter y or x.

    Raises:
        InvalidConfig: on a step size that is not positive, beta outside (0, 1], unknown
            `sign_of`, rates that are not m positive numbers, a cap below 1, a negative
            `soft` or `averaging`, or a dictionary of other workers or another d.
    """
    m, size = num_workers, dictionary.size
    require(m > 0, f"far_sign needs at least one worker: got num_workers={m}")
    if not callable(average_step):
        in_range = (average_step > 0) & (average_step <= 1)
        require(in_range, f"far_sign needs 0 < average_step <= 1: got {average_step}")
    storage = dense(m, size) if storage is None else storage
    own = dictionary.num_workers
    require(own in (None, m), f"the dictionary is for {own} workers: got num_workers={m}")
    require(sign_of in ("new", "old"), f"sign_of is 'new' or 'old': got {sign_of!r}")
    step_size = check_step_size("far_sign", step_size)
    average_step = as_schedule(average_step)
    arrival_weight = _arrival_weight(m, arrival_rates, max_weight)
    heard = _cap(m, rate_cap, cap_rank, cap_burst)
    require(soft >= 0, f"far_sign needs soft >= 0: got {soft}")
    rule = f"far_sign needs averaging >= 0 or None: got {averaging}"
    require(averaging is None or averaging >= 0, rule)
    rule = "iterates are averaged where they move along coordinates"
    require(averaging is None or dictionary.coordinates, rule)

    def init(params, key=None):
        del key  # nothing to draw
        d = params.shape[-1]
        require(dictionary.dim == d, f"the dictionary is for d={dictionary.dim}: got d={d}")
        return FarSignState(
            params=params,
            averages=storage.init(params.dtype),
            counts=jnp.zeros((m,), jnp.int32),
            step=jnp.zeros((), jnp.int32),
            asked=() if sampler is None else sampler.init(),
            lag=() if averaging is None else IterateAverage.none(params, averaging),
        )

    def query(state, worker, key):
        if sampler is None:
            direction = dictionary.draw(key, worker)
        else:
            direction = sampler.draw(state.asked, key)
        return Query(state.params, worker, direction, state.step)

    def amounts(state, i, j, y):
        """How far x moves along each direction, f32[s, k]."""
        vote = jnp.sign(y)
        if soft:
            usual = jnp.mean(jnp.abs(y), axis=-1, keepdims=True)
            vote = jnp.where(usual > 0, jnp.clip(y / (soft * usual), -1, 1), 0)
        alpha = jnp.asarray(step_size(state.step), state.params.dtype)
        amount = -alpha * arrival_weight(state.counts, i) * vote
        if gain is not None:
            amount *= gain(j)
        if sampler is not None:
            amount *= jnp.minimum(sampler.weights(state.asked, j), max_weight)
        return jnp.where(i[:, None] < m, amount, 0.0).astype(state.params.dtype)

    def update(state, reports):
        i, j = heard(state.counts, reports.worker), reports.direction  # [s], [s, k]
        rule = f"an answer is one number per direction: got {reports.value.shape} for {j.shape}"
        require(reports.value.shape == j.shape, rule)
        present = i < m
        answer = sanitize(reports.value, _LARGEST)
        beta = jnp.asarray(average_step(state.step), state.params.dtype)

        old = storage.read(state.averages, i[:, None], j)
        new = old + jnp.clip(beta, 0, 1) * (answer - old)
        amount = amounts(state, i, j, new if sign_of == "new" else old)
        asked, lag = state.asked, state.lag
        if sampler is not None:
            asked = sampler.learn(asked, j, answer, present)
        if averaging is not None:
            lag = lag.moved(j, amount, state.step)
        return FarSignState(
            params=dictionary.move(state.params, i, j, amount),
            averages=storage.write(state.averages, i[:, None], j, old, new),
            counts=state.counts.at[i].add(1, mode="drop"),
            step=state.step + (1 if rate_cap is None else jnp.any(present).astype(jnp.int32)),
            asked=asked,
            lag=lag,
        ), {}

    def recall(state, direction):
        require(
            dictionary.shared,
            "an omniscient attack compares what workers say about the same direction: "
            "this dictionary gives each worker its own",
        )
        everyone = jnp.arange(m, dtype=jnp.int32)[:, None]
        said = storage.read(state.averages, everyone, direction[None])
        return said, said != 0  # never heard, or an average of exactly 0: nothing to imitate

    return Server(
        init,
        query,
        update,
        m,
        recall,
        scheduled=("counts", "step"),
        memory_advice=memory_advice(m),
    )


def _arrival_weight(m: int, rates: Any, max_weight: float) -> Callable[[Array, Array], Any]:
    """(counts i32[m], workers i32[s]) -> the weights of their steps, f32[s, 1]."""
    require(max_weight > 0, f"far_sign needs max_weight > 0: got {max_weight}")
    if rates is None:
        return lambda counts, worker: 1.0
    estimate = isinstance(rates, str)
    if estimate:
        rule = f"arrival_rates is None, 'estimate' or m rates: got {rates!r}"
        require(rates == "estimate", rule)
    else:
        rule = f"far_sign needs m={m} arrival rates: got shape {np.shape(rates)}"
        require(np.shape(rates) == (m,), rule)
        if is_concrete(rates):
            rates = np.asarray(rates, np.float64)  # even rates weigh exactly 1
        good = (rates > 0) & (rates < float("inf"))
        require(good, f"arrival rates must be positive and finite: got {rates}")

    def weight(counts, worker):
        p: Any = (counts + 1).astype(jnp.float32) if estimate else rates
        every = jnp.asarray(p.sum() / (m * p), jnp.float32)  # f32[m]
        return jnp.minimum(every[worker], max_weight)[:, None]

    return weight


def _cap(m: int, cap: float | None, rank: int | None, burst: int) -> Callable:
    """(counts i32[m], workers i32[s]) -> who of them is heard, i32[s]; m for one who is not."""
    rule = f"far_sign needs rate_cap >= 1 or None: got {cap}"
    require(cap is None or 1 <= cap < float("inf"), rule)
    require(
        rank is None or 1 <= rank <= m, f"far_sign needs 1 <= cap_rank <= m={m}: got {rank}"
    )
    require(burst >= 1, f"far_sign needs cap_burst >= 1: got {burst}")

    def heard(counts, worker):
        if cap is None:
            return worker
        others = jnp.sort(counts)[m - (rank or m // 2 + 1)].astype(jnp.float32)
        own = counts[worker].astype(jnp.float32)
        return jnp.where(own < burst + cap * others, worker, m)

    return heard
