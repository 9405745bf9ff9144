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
    """What a message looks like: a tree of arrays to the caller, a vector f[d] to a rule."""

    tree: Any
    likes: tuple[Any, ...]  # the leaves of one message, or all messages in one array
    shapes: tuple[tuple[int, ...], ...]
    listed: bool  # was every message handed over by itself?

    @property
    def dtypes(self) -> tuple[Any, ...]:
        return tuple(map(arrays.result_dtype, self.likes))

    def message(self, leaves: Sequence[Array]) -> PyTree:
        """Of the caller's kind, from its leaves."""
        pairs = zip(leaves, self.likes, strict=True)
        return jax.tree.unflatten(self.tree, [arrays.left(leaf, like) for leaf, like in pairs])


def _enter(messages: Any) -> tuple[Array, _Form]:
    """f[n, d] of an array [n, ...] or of n messages, and what these are."""
    if not isinstance(messages, list | tuple):
        x = arrays.entered(arrays.checked(messages))
        require(x.ndim > 0, "need n messages: got a single number")
        rows = x if x.ndim == 2 else x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return rows, _Form(jax.tree.structure(0), (messages,), (tuple(x.shape[1:]),), False)
    require(len(messages) > 0, "need n >= 1 messages: got none")
    tree, found = jax.tree.structure(messages[0]), []
    for number, message in enumerate(messages):
        leaves, own = jax.tree.flatten(message)
        require(own == tree, f"message {number} is a {own}, message 0 a {tree}")
        found.append([arrays.checked(leaf) for leaf in leaves])
    require(len(found[0]) > 0, "need arrays or tensors: got messages without any")
    shapes = [tuple(tuple(leaf.shape) for leaf in leaves) for leaves in found]
    for number, own in enumerate(shapes):
        rule = f"need messages of one shape: got {own} in message {number}, {shapes[0]} in 0"
        require(own == shapes[0], rule)
    libraries = sorted({arrays.library(leaf) for leaves in found for leaf in leaves})
    require(len(libraries) == 1, f"need messages of one kind: got {', '.join(libraries)}")
    x = _join([[arrays.entered(leaf) for leaf in leaves] for leaves in found])
    return x, _Form(tree, tuple(found[0]), shapes[0], True)


@jax.jit
def _join(messages: Sequence[Sequence[Array]]) -> Array:
    """f[n, d] from the leaves of n messages."""
    dtype = arrays.work_dtype(*(leaf.dtype for leaf in jax.tree.leaves(messages)))
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
    with arrays.precision(messages, start):
        x, form = _enter(messages)
        key = None if seed is None else jax.random.key(seed)
        begin = None if start is None else _enter([start])[0][0]
        found = made(x, None if mask is None else arrays.mask(mask), start=begin, key=key)
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
            name, options = attacks.parse(attack)
            attack = attacks.make(name, **options)
        self._attack = attack
        self._byzantine = arrays.mask(byzantine)
        self._key, self._round = keys_lib.split(seed).attacks, 0
        self._state: Any = None
        self._before: Any = None  # f[n, d], what was said last

    def __call__(self, messages: Any) -> Any:
        with arrays.precision(messages):
            x, form = _enter(messages)
            x = x.astype(arrays.work_dtype(x.dtype))
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
            return arrays.left(jnp.array(heard, *form.dtypes, copy=True), *form.likes)


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
