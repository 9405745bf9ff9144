"""FAR-SIGN: sign descent on one moving average per (worker, direction).

Event n delivers answers Y(i, j) about a_ij . grad f for the pairs (i, j) in S_n. With a slow
step alpha_n, a fast step beta_n and weights w_i (1 unless arrivals are uneven):

    y(i, j) <- y(i, j) + beta_n * (Y(i, j) - y(i, j))          for (i, j) in S_n    eq. (3)
    x       <- x - alpha_n * sum_{S_n} w_i * sign(y(i, j)) * a_ij                   eq. (4)

There are no rounds, no buffers and no trusted data. Whatever an answer is, x moves by at most
alpha_n w_i along each direction, and sign(0) = 0 means no move.

Beyond the paper, all workers may vote on a direction (`vote`), and other parts learn more from
as many evaluations (`experiments.ablation`): the choice of directions (`sampler`), the size of
steps (`gain`, `sign`), and an average of the iterates as the output (`averaging`).

References:
    Paul, Roy, Talagani, Ganesh, Thoppe and Reiffers-Masson, "Adversary-Robust Learning from
    Fully Asynchronous Directional Derivative Estimates", arXiv 2605.09337, 2026, Algorithm 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from farsign_jax import oracles
from farsign_jax.base import (
    Array,
    Key,
    Problem,
    PyTree,
    Query,
    Report,
    Schedule,
    Server,
    Worker,
)
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.directions.importance import Sampler
from farsign_jax.methods import average_storage, table_vote
from farsign_jax.methods import far_sign_parts as parts
from farsign_jax.methods.average_storage import AverageStorage
from farsign_jax.methods.iterate_average import IterateAverage
from farsign_jax.methods.method import Hyper, Method, OracleConfig
from farsign_jax.methods.table_vote import TableVote
from farsign_jax.step_sizes import as_schedule, check_step_size
from farsign_jax.validation import require, sanitize

_LARGEST = 1e30  # only signs reach x; far from overflow even in the difference Y - y


class FarSignState(NamedTuple):
    """The state for m workers, K directions each, and d parameters."""

    params: Array  # f32[d], x
    averages: PyTree  # f32[m, K], y, zero before the first answer; or what the storage keeps
    counts: Array  # i32[m], the number of admitted answers of each worker
    step: Array  # i32[], updates applied so far, n
    sampler: Any = ()  # the state of the sampler
    iterate_average: Any = ()  # `IterateAverage`, where iterates are averaged
    votes: Any = ()  # the state of the vote

    @property
    def output(self) -> Array:
        """f32[d], the result of the run: x, or the average of the iterates."""
        if not self.iterate_average:
            return self.params
        return self.params - self.iterate_average.behind(self.step)


def far_sign(
    num_workers: int,
    dictionary: Dictionary,
    *,
    step_size: float | Array | Schedule,
    average_step: float | Array | Schedule,
    sign_of: str = "new",
    arrival_weights: parts.ArrivalWeights | None = None,
    admit: parts.Admission | None = None,
    vote: TableVote | None = None,
    sign: parts.Sign = jnp.sign,
    gain: Callable[[Array], Array] | None = None,
    sampler: Sampler | None = None,
    averaging: float | None = None,
    storage: AverageStorage | None = None,
) -> Server:
    """Asynchronous sign descent with one memory per worker and direction.

    The first five arguments are the method of the paper. The others are parts that may be
    combined, for the same numbers of workers and directions.

    Args:
        num_workers: m (static).
        dictionary: the directions (static), see `directions`.
        step_size: alpha, the distance moved along each direction: a number, a tracer or a
            schedule of the number of updates so far.
        average_step: beta in (0, 1], the weight of the newest answer: a number, a tracer or a
            schedule, clipped to [0, 1], as the schedules of the theorems may begin above 1.
        sign_of: "new", x moves along the sign of the average just updated, as in the MNIST
            experiment (Section 4); "old", of the one before, as in the analysis (eq. 4 with
            F_n-measurable y_n), where the first answer about a direction moves nothing.
        arrival_weights: w_i, see `far_sign_parts.arrival_weights`; None stands for 1.
        admit: which answers are admitted, see `far_sign_parts.rate_cap`; None stands for all.
        vote: how the averages of all workers decide, see `table_vote`; None, the average of the
            worker that answered decides alone.
        sign: what takes the place of the sign, such as `far_sign_parts.soft_sign`.
        gain: a function from directions j to factors >= 0 of the steps along them.
        sampler: how directions are drawn, see `directions.importance`; None, evenly.
        averaging: g >= 0, the output is the mean of the iterates with weights (n + 1)^g, at a
            cost of O(k) per update; None, the output is the last iterate.
        storage: where y is kept, see `average_storage`; None, as m K numbers.

    Returns:
        A `Server` for m workers and `dictionary.dim` parameters. A number that is not finite
        counts as the answer 0, and a huge one is clipped to 1e30.

    Raises:
        InvalidConfig: if the step size is not positive, beta is outside (0, 1], `sign_of` is
            unknown, `averaging` is negative, or the dictionary is for another m or d.
    """
    m, size = num_workers, dictionary.size
    require(m > 0, f"far_sign needs at least one worker: got num_workers={m}")
    if not callable(average_step):
        in_range = (average_step > 0) & (average_step <= 1)
        require(in_range, f"far_sign needs 0 < average_step <= 1: got {average_step}")
    storage = average_storage.dense(m, size) if storage is None else storage
    own = dictionary.num_workers
    require(own in (None, m), f"the dictionary is for {own} workers: got num_workers={m}")
    require(sign_of in ("new", "old"), f"sign_of is 'new' or 'old': got {sign_of!r}")
    alpha_of = check_step_size("far_sign", step_size)
    beta_of = as_schedule(average_step)
    if averaging is not None:
        require(averaging >= 0, f"far_sign needs averaging >= 0 or None: got {averaging}")
        require(dictionary.coordinates, "iterates are averaged where x moves along coordinates")
    rule = "workers vote on directions that all of them share: here each has its own"
    require(vote is None or dictionary.shared, rule)
    listen = table_vote.listener(vote, storage, sign_of == "new")

    def init(params: Array, key: Key | None = None) -> FarSignState:
        del key  # nothing is drawn
        d = params.shape[-1]
        mean = () if averaging is None else IterateAverage.start(params, averaging)
        require(dictionary.dim == d, f"the dictionary is for d={dictionary.dim}: got d={d}")
        return FarSignState(
            params=params,
            averages=storage.init(params.dtype),
            counts=jnp.zeros((m,), jnp.int32),
            step=jnp.zeros((), jnp.int32),
            sampler=() if sampler is None else sampler.init(),
            iterate_average=mean,
            votes=() if vote is None else vote.init(),
        )

    def query(state: FarSignState, worker: Array, key: Key) -> Query:
        if sampler is None:
            direction = dictionary.draw(key, worker)
        else:
            direction = sampler.draw(state.sampler, key)
        return Query(state.params, worker, direction, state.step)

    def amounts(state: FarSignState, i: Array, j: Array, y: Array) -> Array:
        """Returns how far x moves along each direction, f32[s, k]."""
        amount = -jnp.asarray(alpha_of(state.step), state.params.dtype)
        if arrival_weights is not None:
            amount = amount * arrival_weights(state.counts, i)
        amount = amount * sign(y)
        if gain is not None:
            amount = amount * gain(j)
        if sampler is not None:
            amount = amount * sampler.weights(state.sampler, j)
        return jnp.where(i[:, None] < m, amount, 0.0).astype(state.params.dtype)

    def update(state: FarSignState, reports: Report) -> tuple[FarSignState, dict[str, Array]]:
        i, j = reports.worker, reports.direction  # [s], [s, k]
        rule = f"an answer is one number per direction: got {reports.value.shape} for {j.shape}"
        require(reports.value.shape == j.shape, rule)
        i = i if admit is None else admit(state.counts, i)
        present = i < m
        answer = sanitize(reports.value, _LARGEST)
        beta = jnp.clip(jnp.asarray(beta_of(state.step), state.params.dtype), 0, 1)
        table = state.averages, state.votes
        (averages, votes), decisive = listen(table, i, j, answer, beta, state.step)
        amount = amounts(state, i, j, decisive)
        asked, mean = state.sampler, state.iterate_average
        if sampler is not None:
            asked = sampler.learn(asked, j, answer, present)
        if averaging is not None:
            mean = mean.moved(j, amount, state.step)
        return FarSignState(
            params=dictionary.move(state.params, i, j, amount),
            averages=averages,
            counts=state.counts.at[i].add(1, mode="drop"),
            step=state.step + (1 if admit is None else jnp.any(present).astype(jnp.int32)),
            sampler=asked,
            iterate_average=mean,
            votes=votes,
        ), {}

    def recall(state: FarSignState, direction: Array) -> tuple[Array, Array]:
        rule = "an omniscient attack compares what workers report about the same direction: "
        require(dictionary.shared, rule + "this dictionary gives each worker its own")
        everyone = jnp.arange(m, dtype=jnp.int32)[:, None]
        reported = storage.read(state.averages, everyone, direction[None])
        # An average of exactly 0 counts as no answer: there is nothing to imitate.
        return reported, reported != 0

    scheduled, advice = ("counts", "step"), average_storage.memory_advice(m)
    return Server(init, query, update, m, recall, scheduled, memory_advice=advice)


def build(
    problem: Problem,
    oracle: OracleConfig,
    hyper: Hyper,
    *,
    arrival_rates: str | Sequence[float] = "none",
    rate_cap: float | None = None,
    cap_rank: int | None = None,
    scheme: str = "central",
    sampler: str = "uniform",
    floor: float = 0.1,
    weights: str = "none",
    last_layer: float = 1.0,
    soft: float = 0.0,
    averaging: float | None = None,
    storage: str = "float32",
    slots: int | None = None,
    vote: str = table_vote.OWN,
    max_age: int | None = None,
    age_decay: float = 1.0,
    seeded: int | None = None,
) -> tuple[Server, Worker]:
    """Signs of a moving average per worker and coordinate, of two-point differences.

    Args:
        step_size: alpha, the initial distance moved along each coordinate.
        average_step: beta in (0, 1], the initial weight of the newest answer.
        arrival_rates: "none", all steps have weight 1; or they are divided by m times the
            worker's share of the arrivals, "known" (on a command line) or by "estimate".
        rate_cap: c >= 1, against floods: worker i is admitted while c_i < 10 + c * C, where C
            is the `cap_rank`-th largest count of answers of all workers; None, always.
        cap_rank: the rank of the count that the cap follows; None, m // 2 + 1.
        scheme: "central" differences, or "forward" for k + 1 evaluations instead of 2k.
        sampler: "uniform"; or "alive" or "rank", coordinates that matter are asked for more
            often, see `directions.importance`.
        floor: in (0, 1], the weight of a coordinate of score 0 relative to one of score 1.
        weights: "none"; or "inverse", steps are divided by K / k times their probability.
        last_layer: the factor >= 0 of the steps in the last layer of an MLP.
        soft: c >= 0; along direction j, x moves by alpha * clip(y_j / (c * mean |y|), -1, 1)
            instead of alpha * sign(y_j), with the mean over the directions of the answer.
        averaging: g >= 0, the output is the mean of iterates with weights (n + 1)^g; None, x.
        storage: how y is kept, see `average_storage`.
        slots: averages per worker of the last three kinds; None, an eighth of K.
        vote: "own", x moves by the average of the worker that answered; or an aggregator of
            those of all workers, as in "nnm:f=5+trimmed_mean:f=5", see `table_vote`.
        max_age: workers that did not answer for so many updates have no vote; None, they have.
        age_decay: in (0, 1], the factor per update of age of an average that votes.
        seeded: K random directions that x moves in, the same for all seeds; None, coordinates.
    """
    beta, m = hyper["average_step"], problem.num_workers
    require(beta <= 1, f"far_sign needs 0 < average_step <= 1: got {beta}")
    dictionary = parts.make_dictionary(problem.x0.shape[-1], oracle.directions, seeded)
    server = far_sign(
        m,
        dictionary,
        step_size=oracle.schedule(hyper["step_size"]),
        average_step=oracle.schedule(hyper["average_step"]),
        arrival_weights=parts.arrival_weights(m, arrival_rates),
        admit=parts.rate_cap(m, rate_cap, cap_rank),
        vote=table_vote.table_vote(m, dictionary.size, vote, max_age, age_decay),
        sign=parts.soft_sign(soft),
        gain=parts.last_layer_gain(problem, dictionary, last_layer),
        sampler=parts.make_sampler(dictionary, sampler, floor, weights),
        averaging=averaging,
        storage=average_storage.make(storage, m, dictionary.size, slots),
    )
    worker = oracles.zeroth_order(
        problem,
        dictionary,
        batch_size=oracle.batch_size,
        delta=oracle.delta,
        coupled=oracle.coupled,
        scheme=scheme,
    )
    return server, worker


# The paper's step sizes are not known. These reproduce its Table 3; `experiments.tune` tuned.
METHOD = Method(
    build,
    {
        "paper": {"step_size": 0.07, "average_step": 0.5},
        "tuned": {"step_size": 0.035, "average_step": 0.5},
    },
    moves_along_coordinates=True,
    dense_options=("averaging", "seeded"),
    state_dependent_options=("sampler",),
    has_numpy_server=True,
    one_step_per_answer=True,
)
