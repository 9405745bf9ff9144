"""Lanes over the devices of this machine.

Every device runs its share of the lanes by itself. `jax.shard_map` hands the data to all of
them and splits whatever leads with lanes, so no device waits for, or hears of, another: what
one computes has the shapes, and on a CPU the bits, of a run on that device alone.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from farsign_jax.base import Problem, PyTree
from farsign_jax.validation import require

Device = Any  # jax.Device, which is no type to type checkers


SPLIT, WHOLE = PartitionSpec("lanes"), PartitionSpec()


def local(devices: Sequence[Device] | None = None) -> list[Device]:
    """These devices, or all of this process.

    Raises:
        InvalidConfig: where there is none, one twice, or one of another process.
    """
    mine = jax.local_devices()
    if devices is None:
        return mine
    require(len(devices) > 0, "devices names none")
    require(len(set(devices)) == len(devices), f"devices names one twice: got {devices}")
    for device in devices:
        require(device in mine, f"{device} is not a device of this process")
    return list(devices)


def mesh_of(devices: Sequence[Device]) -> Mesh | None:
    """One axis, `lanes`; None where the default device needs none."""
    if list(devices) == jax.local_devices()[:1]:
        return None
    axes = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("lanes",), axis_types=axes, devices=devices)


def _parts(problem: Problem) -> Problem:
    """The specification of each part of a problem of many lanes."""
    return dataclasses.replace(problem, data=WHOLE, rows=SPLIT, sizes=SPLIT, x0=SPLIT)


def over(mesh: Mesh | None, f: Callable, problem: Problem, *rest: PyTree) -> PyTree:
    """`f(problem, *rest)`, on each device of the lanes that it has.

    Leaves of `rest`, and of the result, lead with lanes, a multiple of the devices.
    """
    if mesh is None:
        return f(problem, *rest)
    given = (_parts(problem), *(SPLIT for _ in rest))
    # Nothing is replicated on purpose but the data, so there is nothing to check.
    each = jax.shard_map(f, mesh=mesh, in_specs=given, out_specs=SPLIT, check_vma=False)
    return each(problem, *rest)


def split(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Leaves that lead with lanes, each device having its own."""
    if mesh is None:
        return jax.device_put(tree)
    tree = jax.tree.map(np.asarray, tree)  # cut on a device, every piece would be a program
    return jax.device_put(tree, NamedSharding(mesh, SPLIT))


def spread(mesh: Mesh | None, problem: Problem) -> Problem:
    """A problem of many lanes, each device having its own, and all of the data."""
    if mesh is None:
        return jax.device_put(problem)
    own = {name: split(mesh, getattr(problem, name)) for name in ("rows", "sizes", "x0")}
    data = jax.device_put(problem.data, NamedSharding(mesh, WHOLE))
    return dataclasses.replace(problem, data=data, **own)


def each(mesh: Mesh | None, tree: PyTree) -> list[PyTree]:
    """What every device has of the leaves, in the order of the lanes, left where it is."""
    if mesh is None:
        return [tree]

    def parts(leaf):
        return sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)

    leaves, form = jax.tree.flatten(tree)
    told = zip(*map(parts, leaves), strict=True)
    return [jax.tree.unflatten(form, [shard.data for shard in one]) for one in told]


def joined(parts: Sequence[PyTree]) -> PyTree:
    """The leaves of all parts on the host, one after the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(list(map(np.asarray, leaves))), *parts)
