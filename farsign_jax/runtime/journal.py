"""The log of arrivals: every accepted answer, on disk before it is heard.

A header names the format, the run and the numbers of an answer; then one record of fixed size
per arrival. The checksum of a record covers the one before it, so that none can be missing,
moved or put in. What was being written when the machine stopped is cut off; where a checkpoint
counts on records that are not there, that is an error.
"""

import os
import pathlib
import struct
import zlib
from typing import NamedTuple

import numpy as np

from farsign_jax.validation import InvalidConfig, require

_MAGIC = b"farsign arrivals"


_HEADER = struct.Struct("<16sII16s")  # magic, format, numbers in an answer, fingerprint


_FORMAT = 1


_FRONT = struct.Struct("<IIid")  # worker, number, version, seconds


class Arrival(NamedTuple):
    """One accepted answer."""

    worker: int
    number: int  # of the question: events heard when it was first asked
    version: int  # step of the server at which its x was read
    seconds: float  # since the run began
    value: np.ndarray  # f32[k], what was said


def record(k: int) -> np.dtype:
    """The layout of a record: little-endian, no padding."""
    fields = [("worker", "<u4"), ("number", "<u4"), ("version", "<i4"), ("seconds", "<f8")]
    return np.dtype([("checksum", "<u4"), *fields, ("value", "<f4", (k,))])


class Log:
    """Appends to a log; creates it, or goes on behind its last good record.

    Args:
        path: the file.
        k: numbers in an answer.
        fingerprint: of the run, 16 characters.
        durable: so many records must be there (those before the last checkpoint).

    Attributes:
        tail: the arrivals behind those, a structured array (`record`).
        cut: bytes of a torn record that were cut off.

    Raises:
        InvalidConfig: on a log of another run, or one that is damaged before `durable`.
    """

    def __init__(self, path: str | os.PathLike, k: int, fingerprint: str, durable: int = 0):
        self.path = pathlib.Path(path)
        header = _header(k, fingerprint)
        if not self.path.exists() or self.path.stat().st_size < len(header):
            self.path.write_bytes(header)
        self.tail, self._checksum, self.cut = _read(self.path, header, durable)
        self._file = os.open(self.path, os.O_WRONLY)
        end = self.path.stat().st_size - self.cut
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)

    def append(self, arrival: Arrival) -> None:
        """Hands the record to the operating system: a killed process loses none."""
        worker, number, version, seconds, value = arrival
        body = _FRONT.pack(worker, number, version, seconds) + value.tobytes()
        checksum = zlib.crc32(body, self._checksum)
        line = checksum.to_bytes(4, "little") + body
        written = os.write(self._file, line)
        if written != len(line):  # as if it had not been tried
            os.ftruncate(self._file, os.lseek(self._file, -written, os.SEEK_CUR))
            raise OSError(f"{self.path}: {written} of {len(line)} bytes written: disk full?")
        self._checksum = checksum

    def sync(self) -> None:
        """Now a machine that loses power loses none, either."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read(path: str | os.PathLike, fingerprint: str | None = None) -> np.ndarray:
    """The arrivals in a log, a structured array, up to the first record that is torn.

    Raises:
        InvalidConfig: where it is no log, or that of another run.
    """
    path = pathlib.Path(path)
    front = b""
    if path.is_file():
        with path.open("rb") as file:
            front = file.read(_HEADER.size)
    if len(front) < _HEADER.size or not front.startswith(_MAGIC):
        raise InvalidConfig(f"{path} is no log of arrivals")
    _, _, k, own = _HEADER.unpack(front)
    return _read(path, _header(k, fingerprint or own.decode("ascii", "replace")), 0)[0]


def _header(k: int, fingerprint: str) -> bytes:
    return _HEADER.pack(_MAGIC, _FORMAT, k, fingerprint.encode())


def _read(path: pathlib.Path, header: bytes, durable: int) -> tuple[np.ndarray, int, int]:
    """The good records behind the first `durable` ones, the checksum of the last, and how many
    bytes follow."""
    _, _, k, fingerprint = _HEADER.unpack(header)
    layout, checksum = record(k), zlib.crc32(header)
    with path.open("rb") as file:
        front = file.read(len(header))
        if front != header:
            kind = "another run" if front.startswith(_MAGIC) else "something else"
            raise InvalidConfig(f"{path} is a log of {kind}, not of {fingerprint.decode()}")
        if durable:
            file.seek(len(header) + (durable - 1) * layout.itemsize)
            last = file.read(layout.itemsize)
            rule = f"{path} is damaged: a checkpoint counts on {durable} arrivals"
            require(len(last) == layout.itemsize, f"{rule}, and there are fewer")
            checksum = int.from_bytes(last[:4], "little")
        body = file.read()
    end = len(body) - len(body) % layout.itemsize
    good = 0
    for at in range(0, end, layout.itemsize):
        found = zlib.crc32(body[at + 4 : at + layout.itemsize], checksum)
        if found.to_bytes(4, "little") != body[at : at + 4]:
            break
        good, checksum = at + layout.itemsize, found
    return np.frombuffer(body[:good], layout), checksum, len(body) - good
