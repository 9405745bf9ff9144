"""The FAR-SIGN server for training loops in any framework, with the methods ask and tell."""

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
    """A question to a worker about the derivatives at `params` along `directions`.

    Attributes:
        worker: the id of the worker.
        params: f[d], a copy of x that the worker may keep.
        directions: int64[k], or i32[k] in JAX: coordinates, or ids of a `Dictionary`.
        version: the number of updates of x before the question.
        number: the number of questions that the server asked before.
    """

    worker: int
    params: Any
    directions: Any
    version: int
    number: int


class FarSign:
    """The server of FAR-SIGN for a training loop of your own.

        server = FarSign(x0, num_workers=25, directions=100, step_size=0.07, average_step=0.5)
        question = server.ask(worker=3)
        server.tell(question, gradient(question.params)[question.directions])
        print(server.params)

    For each direction j of an answer Y of worker i, `tell` computes (arXiv 2605.09337,
    Algorithm 1; this is the `Server` of `far_sign`, compiled once)

        y(i, j) <- y(i, j) + beta (Y(j) - y(i, j))
        x       <- x - alpha sign(y(i, j)) a_ij

    with unit vectors a_ij = e_j unless a `Dictionary` is given. Questions may stay open for any
    time, and may be answered in any order, each at most once. A question that is never answered
    costs the server two integers. If each question is answered before the next one is asked, in
    the order of a schedule, the parameters are those of `simulation.run` with that seed, to the
    last bit. y takes m d numbers (fewer with another `storage` of `far_sign`), `tell` takes
    time O(k), and a copy of x takes O(d).

    Args:
        x0: f[d], the initial parameters. `params` and questions are arrays of the same library
            and type, on the same device.
        num_workers: m.
        directions: k, the number of coordinates per question, drawn without replacement; None
            for all d; or a `Dictionary`.
        seed: the seed of the directions.
        options: options of `far_sign`, among them `step_size` and `average_step`, which are
            numbers or optax schedules.

    Raises:
        InvalidConfig: if `far_sign` refuses an option; from `ask` and `tell`, if the worker,
            the question or the answer does not fit, or the question was answered before. The
            state of the server is then unchanged.
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
        self._like = arrays.check_array(x0)
        with arrays.precision(x0):
            x = arrays.to_jax(x0)
            vector = x.ndim == 1 and x.size > 0
            require(vector, f"FarSign needs x0 of shape [d], d > 0: got shape {x.shape}")
            x = jnp.array(x, arrays.work_dtype(x.dtype), copy=True)
            if not isinstance(directions, Dictionary):
                k = x.size if directions is None else directions
                directions = directions_lib.identity(x.size, k)
            self._size = directions.size
            self._server = far_sign(num_workers, directions, **options)
            self._state = jax.block_until_ready(self._server.init(x, None))
        self._queries, self._asked = keys_lib.split(seed).queries, 0
        self._open: dict[int, int] = {}  # number of an open question -> its worker
        self._draw = jax.jit(self._draw_directions)
        self._update = jax.jit(self._updated, donate_argnums=0)

    def _draw_directions(self, state: FarSignState, worker: Array, number: Array) -> Array:
        key = keys_lib.message(self._queries, worker, number)
        return self._server.query(state, worker, key).direction

    def _updated(self, state: FarSignState, report: Report) -> FarSignState:
        return self._server.update(state, jax.tree.map(lambda a: a[None], report))[0]

    @property
    def params(self) -> Any:
        """The iterate, f[d]: a copy, so that writing to it does not affect the server."""
        with arrays.precision(self._like):
            dtype = arrays.result_dtype(self._like)
            x = arrays.from_jax(jnp.array(self._state.params, dtype, copy=True), self._like)
        return x.copy() if isinstance(x, np.ndarray) else x

    @property
    def step(self) -> int:
        """The number of updates of x."""
        return int(self._state.step)

    def ask(self, worker: int) -> Question:
        """Asks the next question.

        Args:
            worker: the id of the worker, 0 .. m - 1.
        """
        m = self._server.num_workers
        rule = f"FarSign has workers 0..{m - 1}: got worker={worker!r}"
        try:
            i = operator.index(worker)
        except TypeError:
            raise InvalidConfig(rule) from None
        require(0 <= i < m, rule)
        with arrays.precision(self._like):
            ids = self._draw(self._state, np.int32(i), np.int32(self._asked))
            ids = arrays.ids_from_jax(ids, self._like)
        question = Question(i, self.params, ids, self.step, self._asked)
        self._open[self._asked] = i
        self._asked += 1
        return question

    def tell(self, question: Question, values: Any) -> None:
        """Updates the parameters with the answer to a question.

        Args:
            question: an open question of this server.
            values: f[k], a derivative for each direction of the question. A number that is not
                finite counts as 0, as in `far_sign`.
        """
        self._check(question)
        if isinstance(values, list | tuple):
            try:
                values = np.asarray(values, np.float32)
            except (TypeError, ValueError):
                raise InvalidConfig(
                    f"an answer consists of real numbers: got {values!r}"
                ) from None
        with arrays.precision(self._like):
            value = arrays.to_jax(arrays.check_array(values)).astype(self._state.params.dtype)
            ids = arrays.ids_to_jax(question.directions)
            rule = f"an answer is one number per direction, {ids.size} here"
            require(value.shape == ids.shape, f"{rule}: got shape {value.shape}")
            stamps = jnp.int32(question.worker), jnp.int32(question.version)
            report = Report(*stamps, ids, value)
            del self._open[question.number]
            self._state = jax.block_until_ready(self._update(self._state, report))

    def _check(self, question: Question) -> None:
        """Raises `InvalidConfig` unless the question is open and unchanged."""
        rule = f"tell takes a question of ask: got {type(question).__name__}"
        require(isinstance(question, Question), rule)
        number, ids = question.number, question.directions
        rule = f"a question is answered once, to its own server: number {number} is not open"
        require(number in self._open, rule)
        worker = self._open[number]
        rule = f"question {number} is for worker {worker}: got {question.worker!r}"
        require(question.worker == worker, rule)
        ids = np.asarray(ids.cpu() if arrays.is_tensor(ids) else ids)
        good = ids.dtype.kind in "iu" and ids.ndim == 1
        good = good and bool(np.all((ids >= 0) & (ids < self._size)))
        rule = f"a question has directions 0..{self._size - 1}"
        require(good, f"{rule}: got {np.array2string(ids.reshape(-1)[:9], separator=', ')}")
