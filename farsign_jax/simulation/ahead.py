"""A loop over events that computes ahead whatever does not depend on the state.

Which directions a worker is asked about, and the examples of its mini-batch, follow from the
schedule and the keys alone. `scan` finds such operations in the program of an event and applies
them to many events at once, which takes far fewer operations, of larger arrays, than one event
after the other does. Only operations whose results have the same bits in any grouping are
moved: those on integers, and those that move data. Arithmetic on floating-point numbers stays
in the loop.
"""

# JAX annotates its programs only in part, so what they contain is often of unknown type.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownLambdaType=false

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from farsign_jax.base import PyTree

LARGEST = 2**18  # bytes of a result that is computed ahead; a larger one is written in the loop
TOGETHER = 2**22  # bytes of all results that are computed ahead at a time
LEAST = 8  # events at a time, below which a remainder is accepted
_CALLS = {"jit", "pjit", "closed_call", "core_call"}
_MOVES = frozenset(
    ("broadcast_in_dim", "concatenate", "copy", "dynamic_slice", "gather", "pad", "reshape")
    + ("rev", "select_n", "slice", "split", "squeeze", "transpose")
)


class _Operation(NamedTuple):
    """An equation of a program, with a number for each variable."""

    equation: Any
    inputs: tuple[Any, ...]  # numbers of variables, and literals
    outputs: tuple[int, ...]

    @property
    def size(self) -> int:
        """The bytes of its results."""
        return sum(_bytes(v.aval) for v in self.equation.outvars)

    @property
    def movable(self) -> bool:
        """Whether its results have the same bits in any grouping, and are small."""
        if self.equation.effects or self.size > LARGEST:
            return False
        types = [v.aval.dtype for v in (*self.equation.outvars, *self.equation.invars)]
        integers = not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in types)
        return integers or self.equation.primitive.name in _MOVES

    def spreads(self) -> Iterator[int]:
        """The variables of which it reads an element for each of its results."""
        name = self.equation.primitive.name
        for variable, shape in zip(self.inputs, self.equation.invars, strict=True):
            one = shape.aval.ndim == 0 and not name.startswith(("dynamic", "scatter"))
            if isinstance(variable, int) and (one or name == "broadcast_in_dim"):
                yield variable

    def needs(self) -> Iterator[int]:
        """The variables that it reads."""
        return (name for name in self.inputs if isinstance(name, int))


def _bytes(array: Any) -> int:
    """The size of an array; a key has four words at most."""
    key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return math.prod(array.shape) * (16 if key else array.dtype.itemsize)


class _Program(NamedTuple):
    """A function as operations, with those of the functions that it calls."""

    operations: list[_Operation]
    constants: dict[int, Any]
    inputs: list[int]
    outputs: list[Any]  # numbers of variables, and literals


def _program(closed: Any) -> _Program:
    """Returns the program of what `jax.make_jaxpr` returns."""
    numbers = itertools.count()
    operations: list[_Operation] = []
    constants: dict[int, Any] = {}

    def inline(closed: Any, inputs: Sequence[Any]) -> list[Any]:
        jaxpr = closed.jaxpr
        names: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value in zip(jaxpr.constvars, closed.consts, strict=True):
            names[variable] = number = next(numbers)
            constants[number] = value

        def read(atom: Any) -> Any:
            return atom if isinstance(atom, Literal) else names[atom]

        for equation in jaxpr.eqns:
            own = tuple(map(read, equation.invars))
            if equation.primitive.name in _CALLS:
                function = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
                outputs = inline(function, own)
            else:
                outputs = [next(numbers) for _ in equation.outvars]
                operations.append(_Operation(equation, own, tuple(outputs)))
            names.update(zip(equation.outvars, outputs, strict=True))
        return list(map(read, jaxpr.outvars))

    inputs = [next(numbers) for _ in closed.jaxpr.invars]
    outputs = inline(closed, inputs)
    return _Program(operations, constants, inputs, outputs)


def _read(values: dict[int, Any], atoms: Sequence[Any]) -> list[Any]:
    return [a.val if isinstance(a, Literal) else values[a] for a in atoms]


def _evaluate(operations: Sequence[_Operation], values: dict[int, Any]) -> dict[int, Any]:
    """Returns the values of variables with the results of the operations."""
    values = dict(values)
    for equation, inputs, outputs in operations:
        options = equation.primitive.get_bind_params(equation.params)
        # Before JAX 0.10, the functions that it calls stood apart.
        functions, options = options if isinstance(options, tuple) else ((), options)
        results = equation.primitive.bind(*functions, *_read(values, inputs), **options)
        several = equation.primitive.multiple_results
        values.update(zip(outputs, results if several else [results], strict=True))
    return values


class _Split(NamedTuple):
    """The operations of an event by the place where they are computed."""

    once: list[_Operation]  # they are the same in all events
    ahead: list[_Operation]  # they depend on which event it is
    within: list[_Operation]
    handed: dict[int, Any]  # results of `ahead` that the loop reads, and their types


def _split(program: _Program, of_event: Sequence[int]) -> _Split:
    """Divides the operations of an event.

    Those of literals alone are computed wherever they are needed. So is what an operation in
    the loop spreads out over many elements: a fused loop that reads a number at the place of
    the event is not vectorised, and slow if it is long.

    Args:
        program: that of an event.
        of_event: the variables that tell which event it is.
    """
    free, fixed, known = set[int](), set(program.constants), set(of_event)
    places: list[set[str]] = []
    for operation in program.operations:
        needs, results = set(operation.needs()), operation.outputs
        if not operation.movable or not needs <= free | fixed | known:
            places.append({"within"})
        elif needs <= free:
            places.append({"once", "ahead", "within"})
            free.update(results)
        elif needs <= free | fixed:
            places.append({"once"})
            fixed.update(results)
        else:
            places.append({"ahead"})
            known.update(results)

    used, spread_far = set[int](), set[int]()
    read = {name for name in program.outputs if isinstance(name, int)}  # in the loop
    found = list(zip(program.operations, places, strict=True))
    for operation, own in reversed(found):
        results = set(operation.outputs)
        spread = operation.equation.primitive.name == "broadcast_in_dim"
        if own == {"ahead"} and spread and not used & results:
            own ^= {"ahead", "within"}  # it is smaller before it is spread out
        if own == {"within"} and operation.size > LARGEST:
            spread_far.update(operation.spreads())
        elif own == {"ahead"} and spread_far & results:
            spread_far.update(operation.needs())
            own.add("within")
        for place, names in (("ahead", used), ("within", read)):
            if place in own:
                names.update(operation.needs())

    def at(place: str) -> list[_Operation]:
        return [operation for operation, own in found if place in own]

    handed = {
        name: variable.aval
        for operation, own in found
        for name, variable in zip(operation.outputs, operation.equation.outvars, strict=True)
        if own == {"ahead"} and name in read
    }
    return _Split(at("once"), at("ahead"), at("within"), handed)


def scan(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], state: PyTree, events: PyTree
) -> tuple[PyTree, PyTree]:
    """Does what `jax.lax.scan` does, with the same bits, and as much as possible before it.

    Args:
        step: `(state, event) -> (state, info)`.
        state: before the first event.
        events: leaves [T, ...].

    Returns:
        The state after the last event, and what `step` tells of all events, leaves [T, ...].
    """
    leaves, total = jax.tree.leaves(events), len(jax.tree.leaves(events)[0])
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), events)
    closed, shape = jax.make_jaxpr(step, return_shape=True)(state, first)
    program = _program(closed)
    of_event = program.inputs[-len(leaves) :]
    once, ahead, within, handed = _split(program, of_event)
    fixed = _evaluate(once, program.constants)

    def prepare(event: Sequence[Any]) -> list[Any]:
        values = fixed | dict(zip(of_event, event, strict=True))
        return _read(_evaluate(ahead, values), list(handed))

    def finish(state: PyTree, known: Any) -> tuple[PyTree, PyTree]:
        event, prepared = known
        values = fixed | dict(zip(handed, prepared, strict=True))
        inputs = [*jax.tree.leaves(state), *event]
        values |= dict(zip(program.inputs, inputs, strict=True))
        outputs = _read(_evaluate(within, values), program.outputs)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    def several(state: PyTree, events: Sequence[Any]) -> tuple[PyTree, PyTree]:
        return jax.lax.scan(finish, state, (events, jax.vmap(prepare)(events)))

    length = _together(total, sum(map(_bytes, handed.values())))
    return _in_pieces(several, state, leaves, length)


def _in_pieces(
    several: Callable[..., tuple[PyTree, PyTree]],
    state: PyTree,
    events: Sequence[Any],
    length: int,
) -> tuple[PyTree, PyTree]:
    """Calls `several(state, events)` for `length` events at a time."""
    total = len(events[0])
    if length == total:
        return several(state, events)
    whole = total - total % length
    pieces = [leaf[:whole].reshape(-1, length, *leaf.shape[1:]) for leaf in events]
    state, infos = jax.lax.scan(several, state, pieces)
    infos = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), infos)
    if whole == total:
        return state, infos
    state, last = several(state, [leaf[whole:] for leaf in events])
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), infos, last)


def _together(total: int, size: int) -> int:
    """The number of events that are prepared at a time, for each of which there are `size`
    bytes: if possible a divisor of all, as what is left over takes a program of its own."""
    fit = max(min(TOGETHER // max(size, 1), total), 1)
    divisor = max(n for n in range(1, fit + 1) if total % n == 0)
    return divisor if divisor >= min(fit, LEAST) else fit
