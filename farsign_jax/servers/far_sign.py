"""FAR-SIGN: sign descent on one moving average per (worker, direction).

Event n delivers answers Y(i, j) about a_ij . grad f for the pairs (i, j) in S_n. With a slow
step alpha_n, a fast step beta_n and weights w_i (1 unless arrivals are uneven):

    y(i, j) <- y(i, j) + beta_n * (Y(i, j) - y(i, j))          for (i, j) in S_n    eq. (3)
    x       <- x - alpha_n * sum_{S_n} w_i * sign(y(i, j)) * a_ij                   eq. (4)

No rounds, no buffers, no trusted data; whatever is said, x moves by at most alpha_n along
each direction, and sign(0) = 0 means no move.

References:
    Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, "Adversary-Robust Learning from
    Fully Asynchronous Directional Derivative Estimates", arXiv 2605.09337, 2026, Algorithm 1.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from farsign_jax.base import (
    Array,
    Query,
    Schedule,
    Server,
    as_schedule,
    is_concrete,
    require,
    step_schedule,
    tame,
)
from farsign_jax.directions import Dictionary

_LARGEST = 1e30  # only signs reach x; far from overflow even in the difference Y - y


class FarSignState(NamedTuple):
    """m workers, K directions each, d parameters."""

    params: Array  # f32[d], x
    averages: Array  # f32[m, K], y, zero until first heard
    counts: Array  # i32[m], answers heard from each worker, those over its cap left out
    step: Array  # i32[], updates applied so far, n


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
        max_weight: upper bound of these weights.
        rate_cap: None, every answer counts; c >= 1, against workers that flood: worker i is
            heard while c_i < cap_burst + c * C, where C is the `cap_rank`-th largest count of
            all workers, and ignored beyond, as if it had not answered. No clock, which the
            flood would drive. q liars are then worth up to c q workers: it takes c q < m - q.
        cap_rank: None, the middle one, m // 2 + 1, which fewer than half of the workers cannot
            raise. Any rank above q will do; if fewer workers than that are alive, the others
            come to the end of what they may say.
        cap_burst: answers that everybody may give ahead of the others.

    Returns:
        A `Server` for m workers and `dictionary.dim` parameters.

    A non-finite number counts as the answer 0 and a huge one is clipped to 1e30: neither can
    enter y or x.

    Raises:
        InvalidConfig: on a step size that is not positive, beta outside (0, 1], unknown
            `sign_of`, rates that are not m positive numbers, a cap below 1, or a dictionary of
            other workers or another d.
    """
    m = num_workers
    require(m > 0, f"far_sign needs at least one worker: got num_workers={m}")
    if not callable(average_step):
        in_range = (average_step > 0) & (average_step <= 1)
        require(in_range, f"far_sign needs 0 < average_step <= 1: got {average_step}")
    own = dictionary.num_workers
    require(own in (None, m), f"the dictionary is for {own} workers: got num_workers={m}")
    require(sign_of in ("new", "old"), f"sign_of is 'new' or 'old': got {sign_of!r}")
    step_size = step_schedule("far_sign", step_size)
    average_step = as_schedule(average_step)
    estimate = isinstance(arrival_rates, str)
    if estimate:
        rule = f"arrival_rates is None, 'estimate' or m rates: got {arrival_rates!r}"
        require(arrival_rates == "estimate", rule)
    elif arrival_rates is not None:
        rule = f"far_sign needs m={m} arrival rates: got shape {np.shape(arrival_rates)}"
        require(np.shape(arrival_rates) == (m,), rule)
        if is_concrete(arrival_rates):
            arrival_rates = np.asarray(arrival_rates, np.float64)  # even rates weigh exactly 1
        good = (arrival_rates > 0) & (arrival_rates < float("inf"))
        require(good, f"arrival rates must be positive and finite: got {arrival_rates}")
    require(max_weight > 0, f"far_sign needs max_weight > 0: got {max_weight}")

    rank = m // 2 + 1 if cap_rank is None else cap_rank
    rule = f"far_sign needs rate_cap >= 1 or None: got {rate_cap}"
    require(rate_cap is None or 1 <= rate_cap < float("inf"), rule)
    require(1 <= rank <= m, f"far_sign needs 1 <= cap_rank <= m={m}: got {cap_rank}")
    require(cap_burst >= 1, f"far_sign needs cap_burst >= 1: got {cap_burst}")

    def init(params, key=None):
        del key  # nothing to draw
        d = params.shape[-1]
        require(dictionary.dim == d, f"the dictionary is for d={dictionary.dim}: got d={d}")
        return FarSignState(
            params=params,
            averages=jnp.zeros((m, dictionary.size), params.dtype),
            counts=jnp.zeros((m,), jnp.int32),
            step=jnp.zeros((), jnp.int32),
        )

    def query(state, worker, key):
        return Query(state.params, worker, dictionary.draw(key, worker), state.step)

    def weights(counts, worker):
        if arrival_rates is None:
            return 1.0
        rates: Any = (counts + 1).astype(jnp.float32) if estimate else arrival_rates
        every = jnp.asarray(rates.sum() / (m * rates), jnp.float32)  # f32[m]
        return jnp.minimum(every[worker], max_weight)[:, None]

    def heard(counts, worker):
        """The workers that are heard; m for one over its cap."""
        if rate_cap is None:
            return worker
        others = jnp.sort(counts)[m - rank].astype(jnp.float32)
        own = counts[worker].astype(jnp.float32)
        return jnp.where(own < cap_burst + rate_cap * others, worker, m)

    def update(state, reports):
        i, j = heard(state.counts, reports.worker), reports.direction  # [s], [s, k]
        rule = f"an answer is one number per direction: got {reports.value.shape} for {j.shape}"
        require(reports.value.shape == j.shape, rule)
        present = i < m
        answer = tame(reports.value, _LARGEST)
        dtype = state.params.dtype
        alpha = jnp.asarray(step_size(state.step), dtype)
        beta = jnp.clip(jnp.asarray(average_step(state.step), dtype), 0, 1)

        old = state.averages[i[:, None], j]
        new = old + beta * (answer - old)
        vote = jnp.sign(new if sign_of == "new" else old)
        amount = jnp.where(present[:, None], -alpha * weights(state.counts, i) * vote, 0.0)
        state = FarSignState(
            params=dictionary.move(state.params, i, j, amount.astype(dtype)),
            averages=state.averages.at[i[:, None], j].set(new, mode="drop"),
            counts=state.counts.at[i].add(1, mode="drop"),
            step=state.step + (1 if rate_cap is None else jnp.any(present).astype(jnp.int32)),
        )
        return state, {}

    def recall(state, direction):
        require(
            dictionary.shared,
            "an omniscient attack compares what workers say about the same direction: "
            "this dictionary gives each worker its own",
        )
        said = state.averages[:, direction]
        return said, said != 0  # never heard, or an average of exactly 0: nothing to imitate

    return Server(init, query, update, m, recall, scheduled=("counts", "step"))
