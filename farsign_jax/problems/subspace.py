"""Classification in a subspace: the model is a public base and K numbers z.

A problem in a subspace has z f32[K] for its parameters, which begin at 0, and whatever
minimises it moves x(z) = x0 + sum_j z_j a_j (`directions.subspaces`). The base x0 and the
factors of the directions are frozen: all workers have them, and no loss changes them.
"""

import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from farsign_jax import models, specs
from farsign_jax.base import Array, Problem
from farsign_jax.directions.subspaces import SUBSPACES, Layer, Leaves, Subspace
from farsign_jax.examples import WithFrozen
from farsign_jax.models import adapters
from farsign_jax.models.transformer import BlockStack
from farsign_jax.problems.supervised import check_examples, loss_of_each, placed
from farsign_jax.validation import check_integer, lookup, require

_SEPARATOR = "/"


class Frozen(NamedTuple):
    """What all workers have and no run changes."""

    leaves: Leaves  # x0, by paths
    factors: Any  # of the directions


class SubspaceModel(NamedTuple):
    """A module as a function of z.

    Attributes:
        size: K.
        frozen: `() -> Frozen`, the base, drawn or read, and the directions.
        apply: `(z f[K], inputs, frozen) -> logits`.
        losses: `(z, (inputs, labels, frozen)) -> f[b]`.
        loss_changes: those of `Problem`.
    """

    size: int
    frozen: Callable[[], Frozen]
    apply: Callable[[Array, Array, Frozen], Array]
    losses: Callable[[Array, Any], Array]
    loss_changes: Callable[..., tuple[Array, list[Array]]]


@functools.lru_cache(maxsize=64)  # the same functions each time, as jit caches by identity
def subspace_model(
    module: nn.Module, input_shape: tuple[int, ...], subspace: str
) -> SubspaceModel:
    """The view of a module as a function of z.

    Args:
        module: maps inputs [b, *input_shape] to logits.
        input_shape: the shape of one input.
        subspace: a kind of `directions.SUBSPACES` with options, as in
            "low_rank:size=512,rank=1,layers=blocks/*,seed=0". `layers` are patterns of the
            paths of parameters, with | between them; `seed` is that of the directions, and of
            parameters that are drawn.

    Raises:
        InvalidConfig: if the kind or an option is unknown, or no layer has such a path.
    """
    kind, given = parse_subspace(subspace)
    patterns, seed = given.pop("layers"), given.pop("seed")
    flat = models.flatten(module, input_shape)
    layers = _layers(module, flat, input_shape, dense_only=kind == "low_rank")
    chosen = [layer for layer in layers if _matches(layer.path, patterns)]
    known = ", ".join(layer.path for layer in layers)
    require(
        len(chosen) > 0,
        f"no layer of {type(module).__name__} matches {patterns!r}: it has {known}",
    )
    return _model(module, flat, SUBSPACES[kind](chosen, **given), chosen, seed)


def parse_subspace(text: str) -> tuple[str, dict[str, Any]]:
    """The kind of a subspace and its options, `layers` and `seed` among them.

    Raises:
        InvalidConfig: if the kind or an option is unknown, or an option of another type.
    """
    kind, options = specs.parse(text)
    make = lookup("subspace", kind, SUBSPACES)
    common = specs.option("layers", str) | specs.option("seed", int)
    given = specs.typed(kind, options, specs.parameters(make, skip=1) | common)
    given = {"layers": "*", "seed": 0} | given
    check_integer(kind, "seed", given["seed"], 0)
    return kind, given


def _matches(path: str, patterns: str) -> bool:
    """Whether the path of a parameter, or of its layer, matches one of the patterns."""
    names = path, path.rpartition(_SEPARATOR)[0]
    return any(fnmatch.fnmatchcase(n, p) for p in patterns.split("|") for n in names)


def _flat_dict(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep=_SEPARATOR)


def _nested(leaves: Mapping[str, Any]) -> Any:
    return flax.traverse_util.unflatten_dict(leaves, sep=_SEPARATOR)


def _layers(
    module: nn.Module, flat: models.Flat, input_shape: tuple[int, ...], dense_only: bool
) -> list[Layer]:
    """The parameters of a module; or the kernels of those of its layers that are dense."""
    shapes = _flat_dict(flat.shapes)
    stacked = isinstance(module, BlockStack)
    found = []
    for path, shape in shapes.items():
        top = path.partition(_SEPARATOR)[0]
        if stacked and top == "blocks":
            found.append(Layer(path, shape, blocks=shape[0]))
        else:  # what comes before the blocks changes all of them, and is no stage
            last = module.layers if stacked and top in module.head_layers else -1
            found.append(Layer(path, shape, block=last))
    if not dense_only:
        return found
    names = _dense_layers(module, flat, input_shape)
    return [
        layer
        for layer in found
        if len(layer.shape) == 2 + bool(layer.blocks)
        and layer.path.rpartition(_SEPARATOR)[2] == "kernel"
        and layer.path.split(_SEPARATOR)[-2] in names
    ]


def _dense_layers(
    module: nn.Module, flat: models.Flat, input_shape: tuple[int, ...]
) -> set[str]:
    """The names of the layers of a module that are `nn.Dense`."""
    names: set[str] = set()

    def record(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dense):
            names.add(str(context.module.name))
        return next_function(*args, **kwargs)

    x = jax.ShapeDtypeStruct((flat.dim,), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: flat.apply(x, jnp.zeros((1, *input_shape))), x)
    return names


def _model(
    module: nn.Module,
    flat: models.Flat,
    subspace: Subspace,
    layers: Sequence[Layer],
    seed: int,
) -> SubspaceModel:
    staged = isinstance(module, BlockStack) and all(
        layer.blocks or layer.block >= 0 for layer in layers
    )

    def frozen() -> Frozen:
        base, directions = jax.random.split(jax.random.key(seed))
        leaves = _flat_dict(jax.jit(flat.tree)(flat.init(base)))
        return Frozen(leaves, jax.jit(subspace.draw)(directions))

    def point(z: Array, base: Frozen) -> dict[str, Any]:
        """The variables of the module at x(z), with the leaves of the parameters by paths."""
        if subspace.move is not None:
            return {"params": subspace.move(base.leaves, base.factors, z)}
        assert subspace.adapters is not None  # which a subspace without `move` has
        changes = subspace.adapters(base.factors, z)
        inserted = {
            path.rpartition(_SEPARATOR)[0]: adapters.adapter(*parts)
            for path, parts in changes.items()
        }
        return {"params": base.leaves, adapters.COLLECTION: inserted}

    def moved(at: dict[str, Any], z: Array, base: Frozen, j: Array, step: Array) -> Any:
        """The variables after a step along direction j, from those at x(z)."""
        if subspace.step is not None:
            return {"params": subspace.step(at["params"], base.factors, j, step)}
        return point(z.at[j].add(step), base)

    def call(variables: dict[str, Any], *args: Any, method: str | None = None) -> Any:
        nested = {name: _nested(leaves) for name, leaves in variables.items()}
        return adapters.apply(module, nested, *args, method=method)

    def apply(z: Array, inputs: Array, base: Frozen) -> Array:
        return call(point(z, base), flat.read(inputs, z.dtype))

    def losses(z: Array, batch: Any) -> Array:
        inputs, labels, base = batch
        return loss_of_each(apply(z, inputs, base), labels)

    def loss_changes(
        z: Array, batch: Any, j: Array, steps: Sequence[Array]
    ) -> tuple[Array, list[Array]]:
        inputs, labels, base = batch
        inputs, at = flat.read(inputs, z.dtype), point(z, base)
        if staged:
            here, beyond = _from_stage(module.layers, call, at, inputs, labels)
        else:
            here = loss_of_each(call(at, inputs), labels)

        def change(pair: tuple[Array, Array]) -> Array:
            j, step = pair
            variables = moved(at, z, base, j, step)
            if staged:
                there = beyond(variables, subspace.block(j))
            else:
                there = loss_of_each(call(variables, inputs), labels)
            return jnp.mean(there - here)

        if not steps:
            return here, []
        amounts = jnp.repeat(jnp.stack([jnp.asarray(s, z.dtype) for s in steps]), len(j))
        pairs = jnp.tile(j, len(steps)), amounts
        changes = jax.lax.platform_dependent(
            pairs,
            # Each direction begins at its own block; on other devices one large product is
            # faster than many small ones, although it begins at the lowest block of all.
            cpu=lambda pairs: jax.lax.map(change, pairs),
            default=lambda pairs: jax.vmap(change)(pairs),
        )
        return here, list(changes.reshape(len(steps), len(j)))

    return SubspaceModel(subspace.size, frozen, apply, losses, loss_changes)


def _from_stage(
    blocks: int, call: Callable[..., Any], at: Any, inputs: Array, labels: Array
) -> tuple[Array, Callable[[Any, Array], Array]]:
    """The losses of a chain of blocks, and a function of variables that differ from one on.

    Returns:
        The losses f[b], and `(variables, first) -> f[b]`, those with other variables in block
        `first` and later ones, which begins with what came before it.
    """
    first, attended = call(at, inputs, method="embed")

    def step(h: Array, number: Array) -> tuple[Array, Array]:
        return call(at, number, (h, attended), method="block")[0], h

    last, before = jax.lax.scan(step, first, jnp.arange(blocks))
    before = jnp.concatenate([before, last[None]])

    def beyond(variables: Any, first: Array) -> Array:
        def block(number: Array, h: Array) -> Array:
            return call(variables, number, (h, attended), method="block")[0]

        h = jax.lax.fori_loop(first, blocks, block, before[first])
        return loss_of_each(call(variables, (h, attended), method="head"), labels)

    return loss_of_each(call(at, (last, attended), method="head"), labels), beyond


def in_subspace(
    model: SubspaceModel, frozen: Frozen, inputs: Any, labels: Any, rows: Any, sizes: Any
) -> Problem:
    """Makes the problem of classification in a subspace; it begins at z = 0.

    Args:
        model: the network and its directions.
        frozen: of the model, in memory once for all problems.
        inputs: [N, ...].
        labels: i32[N], or i32[N, t] where every position has one.
        rows: i32[m, n], the examples of each worker.
        sizes: i32[m], how many of the n rows count.

    Raises:
        InvalidConfig: if labels or rows are out of range, or a worker has no examples.
    """
    z = jnp.zeros((model.size,), jnp.float32)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), inputs)
    logits = jax.eval_shape(model.apply, z, one, frozen)
    check_examples(logits.shape, inputs, labels, rows, sizes)
    examples, rows, sizes = placed(inputs, labels, rows, sizes)
    return Problem(
        data=WithFrozen(examples, frozen),
        rows=rows,
        sizes=sizes,
        x0=z,
        losses=model.losses,
        loss_changes=model.loss_changes,
        num_classes=logits.shape[-1],
    )
