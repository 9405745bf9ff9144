"""Aggregators and attacks for training loops in NumPy, PyTorch or any library with DLPack.

    update = interop.aggregate("krum:f=2", gradients)  # n gradients in, one out
    received = interop.Attack("alie:z=1.5", byzantine=2)(gradients)  # the first two attack
    server = interop.FarSign(x0, 25, directions=100, step_size=0.07, average_step=0.5)

Results are of the same kind as the arguments: NumPy arrays, PyTorch tensors or `jax.Array`s.
For other libraries with DLPack they are `jax.Array`s, which the library's `from_dlpack`
accepts. Results lie on the device of the arguments, where they are also computed. Nothing in
this package imports PyTorch.

Memory. An array is read in place, and copied first only where JAX cannot read it in place: if
it is not contiguous; if it is read-only or bfloat16 in NumPy; or if it does not begin at a
multiple of 64 bytes in the memory of a CPU (PyTorch's tensors do, NumPy's arrays do by
chance). n arrays in a list are copied into one. Results are not copied: a tensor belongs to
the caller, and a NumPy array is a read-only view of memory of JAX. Every call waits for its
result, so that the arguments may be written to afterwards.

Types. float64 is computed and returned as float64, whatever the value of `jax_enable_x64`.
float16 and bfloat16 are computed in float32 and returned in their own type. Integers and
booleans are converted to float32. `InvalidConfig` is raised for anything that is not an array,
masked arrays, complex numbers, tensors that require grad (nothing in this package can be
differentiated; `detach()` states that this is intended), sparse tensors, and devices that JAX
does not have.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from farsign_jax import aggregators, attacks, base
from farsign_jax import keys as keys_lib
from farsign_jax.base import Array, PyTree, Report, View
from farsign_jax.interop import arrays
from farsign_jax.validation import require


class _Form(NamedTuple):
    """The form of a message, which is a tree of arrays to the caller and f[d] to a rule.

    Attributes:
        tree: the structure of the tree.
        likes: the leaves of one message, or the array of all messages.
        shapes: the shapes of the leaves.
        listed: whether the messages were given as a list rather than as one array.
    """

    tree: Any
    likes: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]
    listed: bool

    @property
    def dtypes(self) -> tuple[Any, ...]:
        """The types of the leaves of a result."""
        return tuple(map(arrays.result_dtype, self.likes))

    def message(self, leaves: Sequence[Array]) -> PyTree:
        """A message of the caller's kind from its leaves."""
        pairs = zip(leaves, self.likes, strict=True)
        return jax.tree.unflatten(
            self.tree, [arrays.from_jax(leaf, like) for leaf, like in pairs]
        )


def _to_rows(messages: Any) -> tuple[Array, _Form]:
    """Rows f[n, d] of an array [n, ...] or of n messages, and the form of the messages."""
    if not isinstance(messages, list | tuple):
        x = arrays.to_jax(arrays.check_array(messages))
        require(x.ndim > 0, "need n messages: got a single number")
        rows = x if x.ndim == 2 else x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return rows, _Form(jax.tree.structure(0), (messages,), (tuple(x.shape[1:]),), False)
    require(len(messages) > 0, "need n >= 1 messages: got none")
    tree, columns = jax.tree.structure(messages[0]), []
    for number, message in enumerate(messages):
        leaves, own = jax.tree.flatten(message)
        require(own == tree, f"message {number} is a {own}, message 0 a {tree}")
        columns.append([arrays.check_array(leaf) for leaf in leaves])
    require(len(columns[0]) > 0, "need arrays or tensors: got messages without any")
    shapes = [tuple(tuple(leaf.shape) for leaf in leaves) for leaves in columns]
    for number, own in enumerate(shapes):
        rule = f"need messages of one shape: got {own} in message {number}, {shapes[0]} in 0"
        require(own == shapes[0], rule)
    libraries = sorted({arrays.library(leaf) for leaves in columns for leaf in leaves})
    require(len(libraries) == 1, f"need messages of one kind: got {', '.join(libraries)}")
    x = _join([[arrays.to_jax(leaf) for leaf in leaves] for leaves in columns])
    return x, _Form(tree, tuple(columns[0]), shapes[0], True)


@jax.jit
def _join(messages: Sequence[Sequence[Array]]) -> Array:
    """Rows f[n, d] from the leaves of n messages."""
    dtype = arrays.work_dtype(*(leaf.dtype for leaf in jax.tree.leaves(messages)))
    rows = ([leaf.astype(dtype).reshape(-1) for leaf in leaves] for leaves in messages)
    return jnp.stack([jnp.concatenate(row) for row in rows])


@functools.partial(jax.jit, static_argnames=("shapes", "dtypes"))
def _cut(rows: Sequence[Array], shapes: Any, dtypes: Any) -> list[list[Array]]:
    """The leaves of each message, from its vector f[d]."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = [jax.lax.split(row, sizes) for row in rows]
    return [
        [leaf.reshape(s).astype(t) for leaf, s, t in zip(leaves, shapes, dtypes, strict=True)]
        for leaves in parts
    ]


def aggregate(
    rule: Any, messages: Any, mask: Any = None, *, start: Any = None, seed: int | None = None
) -> Any:
    """Aggregates n messages, of which some may be Byzantine, by a robust rule.

    Args:
        rule: a description for `aggregators.make`, as in "nnm:f=2+krum:f=2", or a `Rule`.
        messages: one array [n, ...]; or a list of n messages, each an array of any shape or a
            tree of such arrays, for example a dictionary of gradients by name or a list of them
            by layer.
        mask: bool[n], the messages that count; None for all.
        start: a message, the previous output, from which `centered_clipping` continues.
        seed: the seed of rules that draw; None makes `bucketing` group the messages in the
            given order.

    Returns:
        One message: an array [...], or such a tree.

    Raises:
        InvalidConfig: if the messages are not arrays of one kind and shape, or `aggregators`
            refuses them.
    """
    rule = rule if isinstance(rule, aggregators.Rule) else aggregators.make(rule)
    with arrays.precision(messages, start):
        x, form = _to_rows(messages)
        key = None if seed is None else jax.random.key(seed)
        first = None if start is None else _to_rows([start])[0][0]
        result = rule(x, None if mask is None else arrays.mask(mask), start=first, key=key)
        return form.message(_cut([result], form.shapes, form.dtypes)[0])


class Attack:
    """The messages that n workers send, of which some are Byzantine, round after round.

        attack = interop.Attack("alie:z=1.5", byzantine=2)
        received = attack(gradients)

    It is called with the honest messages of all n workers, an array or a list as for
    `aggregate`, and returns what they send: the same messages, with those of the Byzantine
    workers replaced. Byzantine workers see all honest messages of the round. The object keeps
    the state of the attack (of `mimic` and `replay`), so use one object for each run.

    Args:
        attack: a description as on the command line, "name:option=value,...", or a
            `farsign_jax.Attack`.
        byzantine: the number of Byzantine workers, which are then the first ones, or a mask
            bool[n].
        seed: the seed of attacks that draw.

    Raises:
        InvalidConfig: if `attacks.make` refuses the description; when called, if `aggregate`
            would refuse the messages, their shapes have changed, or no worker is honest.
    """

    def __init__(self, attack: Any, byzantine: Any, *, seed: int = 0):
        given = attack
        if not isinstance(attack, base.Attack):
            rule = f"an attack is a text or a farsign_jax.Attack: got {attack!r}"
            require(isinstance(attack, str), rule)
            name, options = attacks.parse(attack)
            attack = attacks.make(name, **options)
        rule = "an attack on data changes examples, of which messages tell nothing: got "
        require(attack.poison is None, f"{rule}{given!r}")
        self._attack = attack
        self._byzantine = arrays.mask(byzantine)
        self._key, self._round = keys_lib.split(seed).attacks, 0
        self._state: Any = None
        self._before: Any = None  # f[n, d], the messages sent in the last round

    def __call__(self, messages: Any) -> Any:
        """Returns the messages that are sent, for the honest messages of all workers."""
        with arrays.precision(messages):
            x, form = _to_rows(messages)
            x = x.astype(arrays.work_dtype(x.dtype))
            before = x if self._before is None else self._before
            require(
                before.shape == x.shape, f"the last messages were {before.shape}: got {x.shape}"
            )
            byzantine = jnp.asarray(attacks.byzantine_mask(x.shape[0], self._byzantine))
            state = self._state if self._round else self._attack.init(x.shape[0])
            arguments = (x, before, byzantine, self._key, np.int32(self._round))
            self._state, self._before = _send(self._attack, state, *arguments)
            self._round += 1
            if form.listed:
                rows = _cut(list(self._before), form.shapes, form.dtypes)
                return [form.message(leaves) for leaves in rows]
            sent = self._before.reshape(x.shape[0], *form.shapes[0])
            return arrays.from_jax(jnp.array(sent, *form.dtypes, copy=True), *form.likes)


@functools.partial(jax.jit, static_argnames="attack")
def _send(
    attack: base.Attack,
    state: Any,
    x: Array,
    before: Array,
    byzantine: Array,
    key: Any,
    number: Any,
) -> tuple[Any, Array]:
    """The state of the attack and the messages sent, f[n, d]; Byzantine workers act in turn.

    Args:
        attack: what Byzantine workers do.
        state: the state of the attack.
        x: f[n, d], the honest messages.
        before: f[n, d], the messages sent in the last round.
        byzantine: bool[n].
        key: the key of the attack.
        number: i32[], the number of the round.
    """
    # Of a Byzantine worker, the adversary sees the messages sent, not the honest ones.
    reported = jnp.where(byzantine[:, None], before, x)
    received = jnp.broadcast_to((~byzantine | (number > 0))[:, None], x.shape)

    def send(state: Any, worker: Array) -> tuple[Any, Array]:
        report = Report(worker, number, (), x[worker])

        def forge(state: Any) -> tuple[Any, Array]:
            own = keys_lib.message(key, worker, number)
            view = View(None, byzantine, reported, received)
            state, value = attack.forge(state, report, view, own)
            return state, value.astype(x.dtype)

        lies = byzantine[worker] & (number >= attack.after)
        return jax.lax.cond(lies, forge, lambda s: (s, report.value), state)

    return jax.lax.scan(send, state, jnp.arange(x.shape[0], dtype=jnp.int32))
