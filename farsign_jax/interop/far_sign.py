"""FAR-SIGN for programs of any framework: ask for a question, and tell the answer."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import directions as directions_lib
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, Report
from farsign_jax.directions.dictionary import Dictionary
from farsign_jax.interop import arrays
from farsign_jax.methods.far_sign import FarSignState, far_sign
from farsign_jax.validation import InvalidConfig, require


class Question(NamedTuple):
    """What a worker is asked: derivatives at `params` along `directions`."""

    worker: int
    params: Any  # f[d], a copy of x: the worker's to keep
    directions: Any  # int64[k], i32 of JAX: coordinates, or ids of a `Dictionary`
    version: int  # updates of x before it was asked
    number: int  # questions that the server asked before


class FarSign:
    """FAR-SIGN's server for a loop of your own: it asks, somebody answers, it is told.

        server = FarSign(x0, num_workers=25, directions=100, step_size=0.07, average_step=0.5)
        question = server.ask(worker=3)
        server.tell(question, gradient(question.params)[question.directions])
        print(server.params)

    What `tell` does, for each direction j of an answer Y of worker i (arXiv 2605.09337,
    Algorithm 1; `far_sign`, of which this is the `Server`, compiled once):

        y(i, j) <- y(i, j) + beta (Y(j) - y(i, j))
        x       <- x - alpha sign(y(i, j)) a_ij

    with unit vectors a_ij = e_j unless a `Dictionary` says otherwise. Questions may stay open
    for as long, and be answered in any order, as the network likes; each is told at most once
    (and one that is never told costs the server two whole numbers).
    Asked and told in turn, in the order of a schedule, this is the run of `simulate.run` with
    that seed, to the bit. y takes m d numbers (`storage` of `far_sign`: fewer), a `tell` O(k),
    a copy of x O(d).

    Args:
        x0: f[d], the parameters to start from: what `params` and questions are, and where.
        num_workers: m.
        directions: k, coordinates per question, drawn without replacement; None, all d; or a
            `Dictionary`.
        seed: what directions are drawn from.
        options: of `far_sign`: `step_size`, `average_step`, numbers or optax schedules, and
            what it knows beside.

    Raises:
        InvalidConfig: on what `far_sign` refuses, on workers, questions or answers that do not
            fit, and on a question that was told before; the server is then what it was.
    """

    def __init__(
        self,
        x0: Any,
        num_workers: int,
        *,
        directions: int | Dictionary | None = None,
        seed: int = 0,
        **options: Any,
    ):
        self._like = arrays.checked(x0)
        with arrays.precision(x0):
            x = arrays.entered(x0)
            good = x.ndim == 1 and x.size > 0
            require(good, f"FarSign needs x0 of shape [d], d > 0: got shape {x.shape}")
            x = jnp.array(x, arrays.work_dtype(x.dtype), copy=True)
            if not isinstance(directions, Dictionary):
                k = x.size if directions is None else directions
                directions = directions_lib.identity(x.size, k)
            self._size = directions.size
            self._server = far_sign(num_workers, directions, **options)
            self._state = jax.block_until_ready(self._server.init(x, None))
        self._queries, self._asked = keys_lib.split(seed).queries, 0
        self._open: dict[int, int] = {}  # numbers of the questions not told yet: the workers
        self._draw, self._hear = jax.jit(self._drawn), jax.jit(self._heard, donate_argnums=0)

    def _drawn(self, state: FarSignState, worker: Array, number: Array) -> Array:
        key = keys_lib.message(self._queries, worker, number)
        return self._server.query(state, worker, key).direction

    def _heard(self, state: FarSignState, report: Report) -> FarSignState:
        return self._server.update(state, jax.tree.map(lambda a: a[None], report))[0]

    @property
    def params(self) -> Any:
        """f[d], the iterate; a copy, so that who writes to it does not reach the server."""
        with arrays.precision(self._like):
            dtype = arrays.result_dtype(self._like)
            x = arrays.left(jnp.array(self._state.params, dtype, copy=True), self._like)
        return x.copy() if isinstance(x, np.ndarray) else x

    @property
    def step(self) -> int:
        """How often x was updated."""
        return int(self._state.step)

    def ask(self, worker: int) -> Question:
        """The next question to a worker, 0 .. m - 1."""
        m = self._server.num_workers
        rule = f"FarSign has workers 0..{m - 1}: got worker={worker!r}"
        try:
            i = operator.index(worker)
        except TypeError:
            raise InvalidConfig(rule) from None
        require(0 <= i < m, rule)
        with arrays.precision(self._like):
            ids = self._draw(self._state, np.int32(i), np.int32(self._asked))
            ids = arrays.left_ids(ids, self._like)
        question = Question(i, self.params, ids, self.step, self._asked)
        self._open[self._asked] = i
        self._asked += 1
        return question

    def tell(self, question: Question, values: Any) -> None:
        """Hears the answer, f[k], a derivative for each direction of the question.

        A number that is not finite counts as 0, as in `far_sign`.
        """
        self._check(question)
        if isinstance(values, list | tuple):
            try:
                values = np.asarray(values, np.float32)
            except (TypeError, ValueError):
                raise InvalidConfig(f"an answer is of real numbers: got {values!r}") from None
        with arrays.precision(self._like):
            value = arrays.entered(arrays.checked(values)).astype(self._state.params.dtype)
            ids = arrays.entered_ids(question.directions)
            rule = f"an answer is one number per direction, {ids.size} here"
            require(value.shape == ids.shape, f"{rule}: got shape {value.shape}")
            of = jnp.int32(question.worker), jnp.int32(question.version)
            report = Report(*of, ids, value)
            del self._open[question.number]
            self._state = jax.block_until_ready(self._hear(self._state, report))

    def _check(self, question: Question) -> None:
        """Raises `InvalidConfig` on what is no open question."""
        rule = f"tell takes a question of ask: got {type(question).__name__}"
        require(isinstance(question, Question), rule)
        number, told = question.number, question.directions
        rule = f"a question is told once, to who asked it: number {number} is not open"
        require(number in self._open, rule)
        worker = self._open[number]
        rule = f"question {number} is for worker {worker}: got {question.worker!r}"
        require(question.worker == worker, rule)
        told = np.asarray(told.cpu() if arrays.is_tensor(told) else told)
        good = told.dtype.kind in "iu" and told.ndim == 1
        good = good and bool(np.all((told >= 0) & (told < self._size)))
        rule = f"a question has directions 0..{self._size - 1}"
        require(good, f"{rule}: got {np.array2string(told.reshape(-1)[:9], separator=', ')}")
