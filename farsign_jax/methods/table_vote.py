"""Votes over the table: x moves by what all workers have said about a direction.

FAR-SIGN moves by the sign of the average of the one worker that answered. The server keeps the
averages of all workers, y f32[m, K], and can let them vote: when worker i has answered about
direction j, and y[i, j] is up to date,

    x <- x - alpha * sign(R(y[1, j], ..., y[m, j])) * a_j

with a robust aggregator R. A worker that answers more often than others then refreshes its own
row more often, and still has one vote of m. Nobody waits, and messages remain k numbers.

Who votes. A worker votes on a direction about which it has been heard; an average of exactly 0
stands for none. With `max_age`, workers that have not answered for so many updates do not vote
until they return. Where fewer rows vote than R needs for its f, R lowers f to what they admit
(`aggregators.row_ops`); a single row decides alone, which is the rule of the paper. With a rule
that works coordinate by coordinate, each direction has voters of its own; with another rule,
such as krum, those workers vote that have been heard about all k directions of the answer.

NNM (nearest-neighbour mixing) as the first stage compares workers by all directions that they
have in common, instead of by the k at hand. Its distances are updated in O(m k) operations per
answer (`row_distances`); for this, each average must be stored as it is.

DeMoA (arXiv 2509.02970) aggregates cached momenta f32[d] of absent clients, in rounds; here m K
numbers are kept, and there are no rounds.
"""

# The signatures of JAX are typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from farsign_jax import aggregators
from farsign_jax.aggregators.row_ops import add_up, number, positions
from farsign_jax.aggregators.rule import MAJORITY, Count, Rule
from farsign_jax.base import Array
from farsign_jax.methods import row_distances
from farsign_jax.methods.average_storage import AverageStorage
from farsign_jax.methods.row_distances import RowDistances
from farsign_jax.validation import check_integer, require

OWN = "own"  # the rule of the paper, which is no vote
OPTIONS = ("vote", "max_age", "age_decay")  # of a method, and arguments of `table_vote`

Listener = Callable[[Any, Array, Array, Array, Array, Array], tuple[Any, Array]]
"""(table, i i32[s], j i32[s, k], answers f32[s, k], beta, step) -> (table, decisive f32[s, k]).

The table is the state of the storage and that of the vote. The averages of the pairs (i, j) are
brought up to date; `decisive` are the numbers by which x moves along the directions j."""


class VoteState(NamedTuple):
    """What a vote keeps beside the table."""

    heard: Array  # i32[m], the number of the update with the worker's last answer; -1, none
    distances: Any = ()  # `RowDistances`, if the first stage is NNM


class TableVote(NamedTuple):
    """How the averages of all workers about a direction become one number.

    Attributes:
        num_workers: m.
        init: makes the first state.
        learn: `(state, i, columns, new, step) -> state`, after worker i (m, nobody) has changed
            its entries of the columns f32[m, k] to new f32[k], in update number `step`.
        result: `(state, columns, step) -> f32[k]`, what x moves by.
        compares_rows: whether `learn` must see every change of the table.
    """

    num_workers: int
    init: Callable[[], VoteState]
    learn: Callable[[VoteState, Array, Array, Array, Array], VoteState]
    result: Callable[[VoteState, Array, Array], Array]
    compares_rows: bool

    def hear(
        self, state: VoteState, i: Array, columns: Array, new: Array, step: Array
    ) -> tuple[VoteState, Array]:
        """Learns what worker i has changed, and returns what x then moves by."""
        state = self.learn(state, i, columns, new, step)
        return state, self.result(state, columns.at[i].set(new, mode="drop"), step)


def table_vote(
    num_workers: int,
    size: int,
    vote: str = OWN,
    max_age: int | None = None,
    age_decay: float = 1.0,
) -> TableVote | None:
    """A vote of the workers by a rule of `aggregators`.

    Args:
        num_workers: m (static).
        size: K, the number of directions (static).
        vote: an aggregator, the rule R, with pre-aggregators before it, such as "median",
            "trimmed_mean:f=5" or "nnm:f=5+trimmed_mean:f=5"; or "own", no vote.
        max_age: workers whose last answer is more than so many updates old do not vote; None,
            all that have been heard do.
        age_decay: a factor in (0, 1]; averages that are n updates old are multiplied by its
            n-th power. It changes no majority of signs.

    Returns:
        The vote for `far_sign`, or None for "own".

    Raises:
        InvalidConfig: if the rule or its options are unknown, m rows are too few for it,
            `max_age` is below 1, or `age_decay` is outside (0, 1]; with NNM also if K is above
            65,536.
    """
    if max_age is not None:
        max_age = check_integer("far_sign", "max_age", max_age, 1)
    require(0 < age_decay <= 1, f"far_sign needs 0 < age_decay <= 1: got {age_decay}")
    if vote == OWN:
        unused = max_age is None and age_decay == 1
        require(unused, "max_age and age_decay are about a vote: got vote=own")
        return None
    mix, rule = _stages(num_workers, vote)
    limit = row_distances.MAX_DIRECTIONS
    require(mix is None or size <= limit, f"a vote with nnm needs K <= {limit}: got K={size}")

    def init() -> VoteState:
        distances = () if mix is None else RowDistances.start(num_workers)
        return VoteState(jnp.full((num_workers,), -1, jnp.int32), distances)

    def learn(state: VoteState, i: Array, columns: Array, new: Array, step: Array) -> VoteState:
        distances = state.distances
        if mix is not None:
            distances = distances.replaced(i, columns, new)
        return VoteState(state.heard.at[i].set(step, mode="drop"), distances)

    def result(state: VoteState, columns: Array, step: Array) -> Array:
        age, votes = step - state.heard, state.heard >= 0
        if max_age is not None:
            votes &= age <= max_age
        if age_decay < 1:
            columns = columns * (age_decay ** age.astype(columns.dtype))[:, None]
        cast = (columns != 0) & votes[:, None]
        if mix is not None:
            columns, cast = mix(state.distances, columns, cast, votes)
        return rule(jnp.where(cast, columns, 0), cast)

    return TableVote(num_workers, init, learn, result, mix is not None)


def listener(vote: TableVote | None, storage: AverageStorage, newest: bool) -> Listener:
    """Returns how the table hears answers.

    Args:
        vote: the vote, or None if the worker that answered decides alone.
        storage: where averages are kept.
        newest: whether what decides is taken after the answer has changed the averages.

    Raises:
        InvalidConfig: if the storage does not keep what the vote compares.
    """
    if vote is None:

        def listen_to_one(table: Any, i: Any, j: Any, answer: Any, beta: Any, step: Any) -> Any:
            averages, votes = table
            old = storage.read(averages, i[:, None], j)
            new = old + beta * (answer - old)
            averages = storage.write(averages, i[:, None], j, old, new)
            return (averages, votes), new if newest else old

        return listen_to_one
    rule = "a vote with nnm compares averages that are stored as they are: storage=float32"
    require(storage.exact or not vote.compares_rows, rule)
    m = vote.num_workers

    def listen(table: Any, i: Any, j: Any, answer: Any, beta: Any, step: Any) -> Any:
        everyone = jnp.arange(m, dtype=jnp.int32)[:, None]

        def hear(table: Any, heard: tuple[Array, Array, Array]) -> tuple[Any, Array]:
            (averages, votes), (i, j, answer) = table, heard
            columns = storage.read(averages, everyone, j[None])
            old = columns[jnp.minimum(i, m - 1)]
            new = old + beta * (answer - old)
            if newest:
                learned, decisive = vote.hear(votes, i, columns, new, step)
            else:
                learned = vote.learn(votes, i, columns, new, step)
                decisive = vote.result(votes, columns, step)
            averages = storage.write(averages, i[None, None], j[None], old[None], new[None])
            return (averages, learned), decisive

        if len(i) == 1:
            table, decisive = hear(table, (i[0], j[0], answer[0]))
            return table, decisive[None]
        return jax.lax.scan(hear, table, (i, j, answer))

    return listen


def _stages(m: int, text: str) -> tuple[Any, Callable[[Array, Array], Array]]:
    """Returns NNM, if it is the first stage or else None, and the other stages."""
    stages = aggregators.parse(text)
    whole = aggregators.make(text)
    whole.check(Count(m, m))
    (first, options), *others = stages
    if first != "nnm" or not others:
        return None, _for_each_direction(whole)
    rest = aggregators.make([{"name": n, "parameters": o} for n, o in others])
    return _nearest_neighbour_mixing(options["f"]), _for_each_direction(rest)


def _nearest_neighbour_mixing(f: int) -> Callable[..., tuple[Array, Array]]:
    """Returns `(distances, columns, cast, votes) -> (columns, cast)`: row i becomes, in each
    column, the mean of what the rows nearest to it have cast."""

    def mix(
        distances: RowDistances, columns: Array, cast: Array, votes: Array
    ) -> tuple[Array, Array]:
        apart = distances.mean_squares()
        # Rows that have nothing in common come after the others, and before those without vote.
        apart = jnp.minimum(apart, jnp.finfo(apart.dtype).max)
        order = positions(jnp.where(votes[None], apart, jnp.inf))
        keep = number(votes) - MAJORITY.clamp(jnp.asarray(f, jnp.int32), votes)
        near = (order < keep) & votes[:, None] & votes[None]

        def of(row: Array, near: Array) -> Array:
            return near[:, None] & row[None]  # bool[m, k]

        def means() -> tuple[Array, Array]:
            count = add_up(lambda row, near: of(row, near).astype(columns.dtype), cast, near.T)
            total = add_up(
                lambda column, row, near: jnp.where(of(row, near), column[None], 0),
                columns,
                cast,
                near.T,
            )
            return total / jnp.maximum(count, 1), count > 0

        # XLA would repeat the sums in each of the operations that use them, which takes three
        # times as long; the body of a loop is computed once.
        once = votes.any().astype(jnp.int32)
        nothing = jnp.zeros_like(columns), jnp.zeros_like(cast)
        return jax.lax.fori_loop(0, once, lambda *_: means(), nothing)

    return mix


def _for_each_direction(rule: Rule) -> Callable[[Array, Array], Array]:
    """Returns `(columns f32[m, k], cast bool[m, k]) -> f32[k]`."""
    if rule.coordinatewise:

        def one(column: Array, cast: Array) -> Array:
            return rule.core(column[:, None], cast, None, None)[0]

        return jax.vmap(one, in_axes=1)
    return lambda columns, cast: rule.core(columns, cast.all(axis=1), None, None)
