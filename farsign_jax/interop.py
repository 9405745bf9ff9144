"""Aggregators, attacks and the FAR-SIGN server for loops in NumPy, PyTorch, or what has DLPack.

    update = interop.aggregate("krum:f=2", gradients)  # n gradients in, one out
    heard = interop.Attack("alie:z=1.5", byzantine=2)(gradients)  # the first two lie
    server = interop.FarSign(x0, 25, directions=100, step_size=0.07, average_step=0.5)

What is handed over comes back as the kind it was (NumPy array, tensor, `jax.Array`; of other
libraries with DLPack as a `jax.Array`, which their `from_dlpack` takes), on its device, where
the work is done too. Nothing here imports PyTorch.

Memory. An array is read where it lies. It is copied first where JAX cannot read it there: not
contiguous; read-only, or bfloat16, in NumPy; not at a multiple of 64 bytes in the memory of a
CPU (PyTorch's tensors begin at one, NumPy's arrays by chance). n arrays in a list are copied
into one. Results are not copied: a tensor is the caller's, a NumPy array is a read-only view
of memory of JAX. Every call waits for its result, so arguments may be written to afterwards.

Types. float64 is computed and returned as float64, whatever `jax_enable_x64` says; float16 and
bfloat16 are computed in float32 and returned as they came; integers and booleans count as
float32. Refused, as `InvalidConfig`: what is no array, masked arrays, complex numbers, tensors
that require grad (nothing here can be differentiated; `detach()` says that this is meant),
sparse tensors, devices that JAX does not have.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import aggregators, attacks, base, foreign
from farsign_jax import directions as directions_lib
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, InvalidConfig, PyTree, Report, View, require
from farsign_jax.directions import Dictionary
from farsign_jax.servers.far_sign import FarSignState, far_sign


class _Form(NamedTuple):
    """What a message looks like: a tree of arrays to the caller, a vector f[d] to a rule."""

    tree: Any
    likes: tuple[Any, ...]  # the leaves of one message, or all messages in one array
    shapes: tuple[tuple[int, ...], ...]
    listed: bool  # was every message handed over by itself?

    @property
    def dtypes(self) -> tuple[Any, ...]:
        return tuple(map(foreign.result_dtype, self.likes))

    def message(self, leaves: Sequence[Array]) -> PyTree:
        """Of the caller's kind, from its leaves."""
        pairs = zip(leaves, self.likes, strict=True)
        return jax.tree.unflatten(self.tree, [foreign.left(leaf, like) for leaf, like in pairs])


def _enter(messages: Any) -> tuple[Array, _Form]:
    """f[n, d] of an array [n, ...] or of n messages, and what these are."""
    if not isinstance(messages, list | tuple):
        x = foreign.entered(foreign.checked(messages))
        require(x.ndim > 0, "need n messages: got a single number")
        rows = x if x.ndim == 2 else x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return rows, _Form(jax.tree.structure(0), (messages,), (tuple(x.shape[1:]),), False)
    require(len(messages) > 0, "need n >= 1 messages: got none")
    tree, found = jax.tree.structure(messages[0]), []
    for number, message in enumerate(messages):
        leaves, own = jax.tree.flatten(message)
        require(own == tree, f"message {number} is a {own}, message 0 a {tree}")
        found.append([foreign.checked(leaf) for leaf in leaves])
    require(len(found[0]) > 0, "need arrays or tensors: got messages without any")
    shapes = [tuple(tuple(leaf.shape) for leaf in leaves) for leaves in found]
    for number, own in enumerate(shapes):
        rule = f"need messages of one shape: got {own} in message {number}, {shapes[0]} in 0"
        require(own == shapes[0], rule)
    libraries = sorted({foreign.library(leaf) for leaves in found for leaf in leaves})
    require(len(libraries) == 1, f"need messages of one kind: got {', '.join(libraries)}")
    x = _join([[foreign.entered(leaf) for leaf in leaves] for leaves in found])
    return x, _Form(tree, tuple(found[0]), shapes[0], True)


@jax.jit
def _join(messages: Sequence[Sequence[Array]]) -> Array:
    """f[n, d] from the leaves of n messages."""
    dtype = foreign.work_dtype(*(leaf.dtype for leaf in jax.tree.leaves(messages)))
    rows = ([leaf.astype(dtype).reshape(-1) for leaf in leaves] for leaves in messages)
    return jnp.stack([jnp.concatenate(row) for row in rows])


@functools.partial(jax.jit, static_argnames=("shapes", "dtypes"))
def _cut(rows: Sequence[Array], shapes: Any, dtypes: Any) -> list[list[Array]]:
    """The leaves of messages from their vectors f[d]."""
    sizes = [math.prod(shape) for shape in shapes]
    every = [jax.lax.split(row, sizes) for row in rows]
    return [
        [leaf.reshape(s).astype(t) for leaf, s, t in zip(leaves, shapes, dtypes, strict=True)]
        for leaves in every
    ]


def aggregate(
    rule: Any, messages: Any, mask: Any = None, *, start: Any = None, seed: int | None = None
) -> Any:
    """What a robust rule makes of n messages of which some may be lies.

    Args:
        rule: what `aggregators.make` takes, as in "nnm:f=2+krum:f=2", or a `Rule`.
        messages: one array [n, ...]; or a list of n messages, each an array of any shape or a
            tree of such (a dict of gradients by name, a list of them by layer).
        mask: bool[n], which messages count; None, all.
        start: a message, the previous output, from which `centered_clipping` goes on.
        seed: of rules that draw (`bucketing`); None, groups in the order given.

    Returns:
        One message: an array [...], or such a tree.

    Raises:
        InvalidConfig: on messages that are no arrays of one kind and shape, and on all that
            `aggregators` refuses.
    """
    made = rule if isinstance(rule, aggregators.Rule) else aggregators.make(rule)
    with foreign.precision(messages, start):
        x, form = _enter(messages)
        key = None if seed is None else jax.random.key(seed)
        begin = None if start is None else _enter([start])[0][0]
        found = made(x, None if mask is None else foreign.mask(mask), start=begin, key=key)
        return form.message(_cut([found], form.shapes, form.dtypes)[0])


class Attack:
    """What workers say of whom some lie, round after round.

        attack = interop.Attack("alie:z=1.5", byzantine=2)
        heard = attack(gradients)

    Called with what all n workers would honestly say, an array or a list as in `aggregate`, it
    returns what they say: the same, with lies in the place of the liars' own answers. Liars see
    all honest answers of the round. It remembers what an attack needs to remember (`mimic`,
    `replay`), so use one for each run.

    Args:
        attack: as on the command lines, "name:option=value,...", or a `farsign_jax.Attack`.
        byzantine: how many lie, the first ones, or a mask bool[n].
        seed: of attacks that draw.

    Raises:
        InvalidConfig: on what `attacks.make` refuses; when called, on what `aggregate` refuses
            of messages, on other shapes than before, or where no honest worker is left.
    """

    def __init__(self, attack: Any, byzantine: Any, *, seed: int = 0):
        if not isinstance(attack, base.Attack):
            rule = f"an attack is a text or a farsign_jax.Attack: got {attack!r}"
            require(isinstance(attack, str), rule)
            name, _, rest = attack.partition(":")
            options = aggregators.options_of(rest, attack, "attack ")
            attack = attacks.make(name.strip(), **options)
        self._attack = attack
        self._byzantine = foreign.mask(byzantine)
        self._key, self._round = keys_lib.split(seed).attacks, 0
        self._state: Any = None
        self._before: Any = None  # f[n, d], what was said last

    def __call__(self, messages: Any) -> Any:
        with foreign.precision(messages):
            x, form = _enter(messages)
            x = x.astype(foreign.work_dtype(x.dtype))
            before = x if self._before is None else self._before
            require(
                before.shape == x.shape, f"the last messages were {before.shape}: got {x.shape}"
            )
            lies = jnp.asarray(attacks.byzantine_mask(x.shape[0], self._byzantine))
            state = self._state if self._round else self._attack.init(x.shape[0])
            told = (x, before, lies, self._key, np.int32(self._round))
            self._state, self._before = _lie(self._attack, state, *told)
            self._round += 1
            if form.listed:
                rows = _cut(list(self._before), form.shapes, form.dtypes)
                return [form.message(leaves) for leaves in rows]
            heard = self._before.reshape(x.shape[0], *form.shapes[0])
            return foreign.left(jnp.array(heard, *form.dtypes, copy=True), *form.likes)


@functools.partial(jax.jit, static_argnames="attack")
def _lie(
    attack: base.Attack, state: Any, x: Array, before: Array, lies: Array, key: Any, number: Any
) -> tuple[Any, Array]:
    """The attack's state and what is heard of x f[n, d]; liars speak in turn."""
    said = jnp.where(lies[:, None], before, x)  # of a liar only its lies are known
    heard = jnp.broadcast_to((~lies | (number > 0))[:, None], x.shape)

    def speak(state, worker):
        report = Report(worker, number, (), x[worker])

        def lie(state):
            own = keys_lib.message(key, worker, number)
            state, value = attack.forge(state, report, View(None, lies, said, heard), own)
            return state, value.astype(x.dtype)

        return jax.lax.cond(lies[worker], lie, lambda state: (state, report.value), state)

    return jax.lax.scan(speak, state, jnp.arange(x.shape[0], dtype=jnp.int32))


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
        self._like = foreign.checked(x0)
        with foreign.precision(x0):
            x = foreign.entered(x0)
            good = x.ndim == 1 and x.size > 0
            require(good, f"FarSign needs x0 of shape [d], d > 0: got shape {x.shape}")
            x = jnp.array(x, foreign.work_dtype(x.dtype), copy=True)
            if not isinstance(directions, Dictionary):
                k = x.size if directions is None else directions
                directions = directions_lib.identity(x.size, k)
            self._size = directions.size
            self._server = far_sign(num_workers, directions, **options)
            self._state = jax.block_until_ready(self._server.init(x))
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
        with foreign.precision(self._like):
            dtype = foreign.result_dtype(self._like)
            x = foreign.left(jnp.array(self._state.params, dtype, copy=True), self._like)
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
        with foreign.precision(self._like):
            ids = self._draw(self._state, np.int32(i), np.int32(self._asked))
            ids = foreign.left_ids(ids, self._like)
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
        with foreign.precision(self._like):
            value = foreign.entered(foreign.checked(values)).astype(self._state.params.dtype)
            ids = foreign.entered_ids(question.directions)
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
        told = np.asarray(told.cpu() if foreign.is_tensor(told) else told)
        good = told.dtype.kind in "iu" and told.ndim == 1
        good = good and bool(np.all((told >= 0) & (told < self._size)))
        rule = f"a question has directions 0..{self._size - 1}"
        require(good, f"{rule}: got {np.array2string(told.reshape(-1)[:9], separator=', ')}")
