"""Distributes the runs of a batch over the devices of this machine.

Every device advances its chunk of the runs by itself. `jax.shard_map` gives the data to all of
them and splits whatever has a leading axis of runs, so that no device waits for another or
communicates with it: what one computes has the shapes, and on a CPU the bits, of a program for
that device alone.
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


SPLIT, REPLICATED = PartitionSpec("runs"), PartitionSpec()


def local(devices: Sequence[Device] | None = None) -> list[Device]:
    """Returns these devices, or all devices of this process.

    Raises:
        InvalidConfig: if there is none, or one twice, or one of another process.
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
    """Returns a mesh with one axis, `runs`; None for the default device, which needs none."""
    if list(devices) == jax.local_devices()[:1]:
        return None
    axes = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("runs",), axis_types=axes, devices=devices)


def _parts(problem: Problem) -> Problem:
    """Returns how each part of a problem of many runs is distributed."""
    return dataclasses.replace(problem, data=REPLICATED, rows=SPLIT, sizes=SPLIT, x0=SPLIT)


def over(mesh: Mesh | None, f: Callable[..., Any], problem: Problem, *rest: PyTree) -> PyTree:
    """Calls `f(problem, *rest)` on each device, for the runs that it has.

    Leaves of `rest` and of the result have a leading axis of runs, a multiple of the devices.
    """
    if mesh is None:
        return f(problem, *rest)
    given = (_parts(problem), *(SPLIT for _ in rest))
    # Only the data are replicated, so there is no replication of results to check.
    each = jax.shard_map(f, mesh=mesh, in_specs=given, out_specs=SPLIT, check_vma=False)
    return each(problem, *rest)


def split(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Puts leaves with a leading axis of runs on the devices, each having its own runs."""
    if mesh is None:
        return jax.device_put(tree)
    tree = jax.tree.map(np.asarray, tree)  # cut on a device, every part would be a program
    return jax.device_put(tree, NamedSharding(mesh, SPLIT))


def spread(mesh: Mesh | None, problem: Problem) -> Problem:
    """Puts a problem of many runs on the devices: the own runs of each, and all of the data."""
    if mesh is None:
        return jax.device_put(problem)
    own = {name: split(mesh, getattr(problem, name)) for name in ("rows", "sizes", "x0")}
    data = jax.device_put(problem.data, NamedSharding(mesh, REPLICATED))
    return dataclasses.replace(problem, data=data, **own)


def each(mesh: Mesh | None, tree: PyTree) -> list[PyTree]:
    """Returns the leaves of each device, in the order of the runs, without copying."""
    if mesh is None:
        return [tree]

    def parts(leaf):
        if not leaf.size:  # a program leaves it whole on every device
            return np.split(np.asarray(leaf), mesh.size)
        shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return [shard.data for shard in shards]

    leaves, form = jax.tree.flatten(tree)
    return [jax.tree.unflatten(form, one) for one in zip(*map(parts, leaves), strict=True)]


def joined(parts: Sequence[PyTree]) -> PyTree:
    """Concatenates the leaves of all parts on the host."""
    return jax.tree.map(lambda *leaves: np.concatenate(list(map(np.asarray, leaves))), *parts)
