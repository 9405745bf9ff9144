"""How the lanes of a sweep are cut into shares, and where each share is kept.

A share is what one device has of the lanes at a time, and has a checkpoint of its own. The cut
is made when a sweep begins and kept when it resumes. Which shares then run side by side
depends on the devices and processes there are, but neither what one of them computes nor the
memory it takes: where eight devices began, one can go on, to the same bits.
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
    """Lanes of one device.

    Attributes:
        ids: i[w], which lanes; w is the same for all shares, so the last lane may be repeated.
        count: how many of them are not spare; 0 where the whole share is.
        path: its checkpoint, or None.
    """

    ids: np.ndarray
    count: int
    path: pathlib.Path | None

    @property
    def lanes(self) -> np.ndarray:
        """The ids that are not spare."""
        return self.ids[: self.count]


def agreed(
    total: int,
    fit: int,
    devices: int,
    max_parallel_runs: int | None = None,
    checkpoint: pathlib.Path | None = None,
) -> int:
    """Into how many shares all processes cut a sweep.

    As it was cut before, if shares are not too wide; otherwise into one or more for each
    device, as many on all of them, where there are lanes enough.

    Args:
        total: lanes.
        fit: how many of them one device of this process may have at a time.
        devices: of this process.
        max_parallel_runs: how many the caller allows on a device, if it says so.
        checkpoint: of the sweep, or None.
    """
    least = 1 if max_parallel_runs is None else -(-total // max_parallel_runs)
    begun = None if checkpoint is None else _begun(checkpoint, least)
    told = processes.exchange((fit, devices, begun))
    for _, _, number in told:
        if number is not None:
            return number
    everywhere = sum(one[1] for one in told)
    rounds = -(-total // (min(one[0] for one in told) * everywhere))
    width = -(-total // min(rounds * everywhere, total))
    return -(-total // width)


def _begun(checkpoint: pathlib.Path, least: int) -> int | None:
    """Into how many shares, of at least so many, an earlier call cut the lanes."""
    name = re.compile(rf"{re.escape(checkpoint.stem)}-\d+of(\d+){checkpoint.suffix}")
    found = map(name.fullmatch, _names(checkpoint.parent))
    return min((n for n in (int(m[1]) for m in found if m) if n >= least), default=None)


def _names(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def cut(total: int, number: int, checkpoint: pathlib.Path | None) -> list[Chunk]:
    """All lanes in `number` shares of the same width, one program for all of them."""
    width, made = -(-total // number), []
    for n in range(number):
        ids = np.arange(n * width, min((n + 1) * width, total))
        spare = np.full(width - len(ids), ids[-1])
        path = None
        if checkpoint is not None:
            path = checkpoint.with_name(f"{checkpoint.stem}-{n}of{number}{checkpoint.suffix}")
        made.append(Chunk(np.concatenate([ids, spare]), len(ids), path))
    return made


def side_by_side(shares: Sequence[Chunk], devices: int) -> Iterator[list[Chunk]]:
    """Shares that may run together, at most one for each device: all are equally far.

    Of the same number, so that one program does for them; the last ones may be spare.
    """
    by_event: dict[int, list[Chunk]] = {}
    for share in shares:
        by_event.setdefault(done(share) if devices > 1 else 0, []).append(share)
    for _, alike in sorted(by_event.items()):
        rounds = -(-len(alike) // devices)
        size = -(-len(alike) // rounds)
        for begin in range(0, len(alike), size):
            some = alike[begin : begin + size]
            spare = some[-1]._replace(count=0, path=None)
            yield some + [spare] * (size - len(some))


def fingerprint(build: Any, lanes: PyTree, delivery: str, every: int) -> np.ndarray:
    """u8[16], a digest of everything that a checkpoint depends on.

    A dataclass says all that it builds; of a function only the name is known.
    """
    program = repr(build) if dataclasses.is_dataclass(build) else getattr(build, "__name__", "")
    digest = hashlib.blake2b(f"{program} {delivery} {every}".encode(), digest_size=16)
    for leaf in jax.tree.leaves(lanes):
        digest.update(np.asarray(leaf).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def save(share: Chunk, inputs: np.ndarray, event: int, columns: PyTree, run: PyTree) -> None:
    """What there is of a share after so many events."""
    if share.path is not None:
        files.save_state(share.path, (inputs, np.asarray(event), columns, run))


def done(share: Chunk) -> int:
    """How many events of a share are done."""
    if share.path is None or not share.path.exists():
        return 0
    return int(files.load_leaf(share.path, 1))


def check(share: Chunk, inputs: np.ndarray) -> None:
    """Raises `InvalidConfig` where the checkpoint, if there is one, is of another sweep."""
    if share.path is None or not share.path.exists():
        return
    found = files.load_leaf(share.path, 0)
    require(
        found.shape == inputs.shape and (found == inputs).all(),
        f"{share.path} belongs to a sweep of another method, attack, data, seeds or settings",
    )


def load(share: Chunk, inputs: np.ndarray, columns: PyTree, run: PyTree) -> Any:
    """(events, columns, run) of a share, shaped like these; None where nothing is kept.

    Raises:
        InvalidConfig: where it belongs to another sweep, or is damaged.
    """
    if share.path is None or not share.path.exists():
        return None
    like = (inputs, np.zeros((), np.int64), columns, run)
    _, event, columns, run = files.load_state(share.path, like)
    check(share, inputs)
    return int(event), columns, run
