"""How the runs of a batch are cut into chunks, and where the state of each chunk is kept.

A chunk is the runs that one device advances at a time, with a checkpoint of its own. The cut is
made when a sweep begins and kept when it resumes. Which chunks then run side by side depends on
the devices and processes at hand, but neither the results of a chunk nor its memory do: a sweep
that began on eight devices can continue on one, with the same bits.
"""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from farsign_jax.base import PyTree
from farsign_jax.io import files, processes
from farsign_jax.validation import require


class Chunk(NamedTuple):
    """Some runs of a batch, for one device.

    Attributes:
        ids: i[w], indices of the runs; w is the same for all chunks, so the last run may be
            repeated.
        count: number of ids that are not such padding; 0 if all of the chunk is padding.
        path: its checkpoint, or None.
    """

    ids: np.ndarray
    count: int
    path: pathlib.Path | None

    @property
    def runs(self) -> np.ndarray:
        """The ids that are not padding."""
        return self.ids[: self.count]


def agree_number(
    total: int,
    fit: int,
    devices: int,
    max_parallel_runs: int | None = None,
    checkpoint: pathlib.Path | None = None,
) -> int:
    """Returns the number of chunks into which all processes cut a sweep.

    It is that of an earlier call, if its chunks are not too wide; otherwise one or more for
    each device, as many on all of them if there are enough runs.

    Args:
        total: number of runs.
        fit: number of runs that one device of this process may advance at a time.
        devices: number of devices of this process.
        max_parallel_runs: number of runs that the caller allows on a device, or None.
        checkpoint: of the sweep, or None.
    """
    least = 1 if max_parallel_runs is None else -(-total // max_parallel_runs)
    begun = None if checkpoint is None else _begun(checkpoint, least)
    of_all = processes.exchange((fit, devices, begun))
    for _, _, number in of_all:
        if number is not None:
            return number
    everywhere = sum(one[1] for one in of_all)
    rounds = -(-total // (min(one[0] for one in of_all) * everywhere))
    width = -(-total // min(rounds * everywhere, total))
    return -(-total // width)


def _begun(checkpoint: pathlib.Path, least: int) -> int | None:
    """Returns the smallest number of chunks, at least `least`, of an earlier call, or None."""
    name = re.compile(rf"{re.escape(checkpoint.stem)}-\d+of(\d+){checkpoint.suffix}")
    found = map(name.fullmatch, _names(checkpoint.parent))
    return min((n for n in (int(m[1]) for m in found if m) if n >= least), default=None)


def _names(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def cut(total: int, number: int, checkpoint: pathlib.Path | None) -> list[Chunk]:
    """Cuts `total` runs into `number` chunks of the same width, for one program."""
    width, made = -(-total // number), []
    for n in range(number):
        ids = np.arange(n * width, min((n + 1) * width, total))
        padding = np.full(width - len(ids), ids[-1])
        path = None
        if checkpoint is not None:
            path = checkpoint.with_name(f"{checkpoint.stem}-{n}of{number}{checkpoint.suffix}")
        made.append(Chunk(np.concatenate([ids, padding]), len(ids), path))
    return made


def side_by_side(chunks: Sequence[Chunk], devices: int) -> Iterator[list[Chunk]]:
    """Groups chunks that run side by side: at most one for each device, all at the same event.

    All groups have the same size, so that one program does for them; the last chunks of a group
    may be padding.
    """
    by_event: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_event.setdefault(done(chunk) if devices > 1 else 0, []).append(chunk)
    for _, alike in sorted(by_event.items()):
        rounds = -(-len(alike) // devices)
        size = -(-len(alike) // rounds)
        for begin in range(0, len(alike), size):
            group = alike[begin : begin + size]
            padding = group[-1]._replace(count=0, path=None)
            yield group + [padding] * (size - len(group))


def fingerprint(
    build: Any, batch: PyTree, delivery: str, every: int, measure: Any = None
) -> np.ndarray:
    """Returns u8[16], a digest of everything that a checkpoint depends on.

    The representation of a dataclass contains all that it builds; of a function only the name
    is known. Test data count where `measure` has them as `data`.
    """
    program = repr(build) if dataclasses.is_dataclass(build) else getattr(build, "__name__", "")
    digest = hashlib.blake2b(f"{program} {delivery} {every}".encode(), digest_size=16)
    for leaf in map(np.asarray, jax.tree.leaves((batch, getattr(measure, "data", ())))):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def save(chunk: Chunk, inputs: np.ndarray, event: int, columns: PyTree, run: PyTree) -> None:
    """Writes the checkpoint of a chunk, if it has one, after `event` events."""
    if chunk.path is not None:
        files.save_state(chunk.path, (inputs, np.asarray(event), columns, run))


def done(chunk: Chunk) -> int:
    """Returns the number of events in the checkpoint of a chunk."""
    if chunk.path is None or not chunk.path.exists():
        return 0
    return int(files.load_leaf(chunk.path, 1))


def check(chunk: Chunk, inputs: np.ndarray) -> None:
    """Raises `InvalidConfig` if there is a checkpoint and it belongs to another sweep."""
    if chunk.path is None or not chunk.path.exists():
        return
    found = files.load_leaf(chunk.path, 0)
    require(
        found.shape == inputs.shape and (found == inputs).all(),
        f"{chunk.path} belongs to a sweep of another method, attack, data, seeds or settings",
    )


def load(chunk: Chunk, inputs: np.ndarray, columns: PyTree, run: PyTree) -> Any:
    """Reads the checkpoint of a chunk: (event, columns, run), or None if there is none.

    Args:
        chunk: whose checkpoint is read.
        inputs: the `fingerprint` of the sweep.
        columns: arrays of the shapes that are expected, as for `run`.
        run: likewise.

    Raises:
        InvalidConfig: if it belongs to another sweep, or is damaged.
    """
    if chunk.path is None or not chunk.path.exists():
        return None
    like = (inputs, np.zeros((), np.int64), columns, run)
    _, event, columns, run = files.load_state(chunk.path, like)
    check(chunk, inputs)
    return int(event), columns, run
