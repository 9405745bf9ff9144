"""The journal of arrivals: every accepted answer is on disk before it is applied.

The file begins with a header that names the format, the run and the number of values in an
answer, followed by one record of fixed size per arrival. The checksum of a record covers the
record before it, so that no record can be missing, moved or inserted. A record that was being
written when the machine stopped is removed. It is an error if a checkpoint refers to records
that do not exist.
"""

import errno
import os
import pathlib
import struct
import zlib
from typing import NamedTuple

import numpy as np

from farsign_jax.io import files
from farsign_jax.validation import InvalidConfig, require

_MAGIC = b"farsign arrivals"
_HEADER = struct.Struct("<16sII16s")  # magic, format, values in an answer, fingerprint
_FORMAT = 1
_PREFIX = struct.Struct("<IIid")  # worker, number, version, seconds


class Arrival(NamedTuple):
    """One accepted answer.

    Attributes:
        worker: the worker that sent it.
        number: of the question: the number of events when it was first asked.
        version: the step of the server at which x was read.
        seconds: time since the run began.
        value: f32[k], the values of the answer.
    """

    worker: int
    number: int
    version: int
    seconds: float
    value: np.ndarray


def record_dtype(k: int) -> np.dtype:
    """Returns the layout of a record with `k` values: little-endian, without padding."""
    fields = [("worker", "<u4"), ("number", "<u4"), ("version", "<i4"), ("seconds", "<f8")]
    return np.dtype([("checksum", "<u4"), *fields, ("value", "<f4", (k,))])


class Journal:
    """Creates a journal, or continues one after its last valid record.

    Args:
        path: the file.
        k: the number of values in an answer.
        fingerprint: of the run, 16 characters.
        durable: the number of records that must exist, because a checkpoint includes them.

    Attributes:
        tail: the arrivals after the first `durable` ones, a structured array with the layout
            `record_dtype`.
        removed_bytes: the size of an incomplete record that was removed.

    Raises:
        InvalidConfig: if the journal belongs to another run, or is damaged before record
            `durable`.
    """

    def __init__(self, path: str | os.PathLike, k: int, fingerprint: str, durable: int = 0):
        self.path = pathlib.Path(path)
        header = _header(k, fingerprint)
        if not self.path.exists() or self.path.stat().st_size < len(header):
            with files.naming(self.path):
                self.path.write_bytes(header)
        self.tail, self._checksum, self.removed_bytes = _read(self.path, header, durable)
        self._file = os.open(self.path, os.O_WRONLY)
        end = self.path.stat().st_size - self.removed_bytes
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)

    def append(self, arrival: Arrival) -> None:
        """Passes a record to the operating system; a killed process loses no record.

        Raises:
            OSError: if it cannot be written, as on a full disk; nothing of it then is.
        """
        worker, number, version, seconds, value = arrival
        body = _PREFIX.pack(worker, number, version, seconds) + value.tobytes()
        checksum = zlib.crc32(body, self._checksum)
        record = checksum.to_bytes(4, "little") + body
        written = 0
        with files.naming(self.path):
            try:
                while written < len(record):  # a full disk takes a part, and then none
                    written += os.write(self._file, record[written:])
            except OSError:
                os.ftruncate(self._file, os.lseek(self._file, -written, os.SEEK_CUR))
                raise
        self._checksum = checksum

    def sync(self) -> None:
        """Writes all records to the disk, so that they also survive a loss of power.

        Raises:
            OSError: if that fails, or the file is no longer in its place.
        """
        with files.naming(self.path):
            if not os.path.samestat(os.fstat(self._file), self.path.stat()):
                raise OSError(errno.ESTALE, "another file is in the place of the journal")
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read(path: str | os.PathLike, fingerprint: str | None = None) -> np.ndarray:
    """Returns the arrivals in a journal up to the first invalid record.

    Args:
        path: the file.
        fingerprint: of the run that the journal must belong to; None accepts any run.

    Raises:
        InvalidConfig: if the file is not a journal, or belongs to another run.
    """
    path = pathlib.Path(path)
    header = b""
    if path.is_file():
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise InvalidConfig(f"{path} is not a journal of arrivals")
    _, _, k, own = _HEADER.unpack(header)
    return _read(path, _header(k, fingerprint or own.decode("ascii", "replace")), 0)[0]


def _header(k: int, fingerprint: str) -> bytes:
    return _HEADER.pack(_MAGIC, _FORMAT, k, fingerprint.encode())


def _read(path: pathlib.Path, header: bytes, durable: int) -> tuple[np.ndarray, int, int]:
    """Returns the valid records after the first `durable` ones, the checksum of the last valid
    record, and the number of bytes that follow it."""
    _, _, k, fingerprint = _HEADER.unpack(header)
    layout, checksum = record_dtype(k), zlib.crc32(header)
    with path.open("rb") as file:
        found = file.read(len(header))
        if found != header:
            kind = "another run" if found.startswith(_MAGIC) else "something else"
            raise InvalidConfig(f"{path} is a journal of {kind}, not of {fingerprint.decode()}")
        if durable:
            file.seek(len(header) + (durable - 1) * layout.itemsize)
            last = file.read(layout.itemsize)
            rule = f"{path} is damaged: the checkpoint includes {durable} arrivals"
            require(len(last) == layout.itemsize, f"{rule}, and the journal has fewer")
            checksum = int.from_bytes(last[:4], "little")
        body = file.read()
    end = len(body) - len(body) % layout.itemsize
    valid = 0
    for start in range(0, end, layout.itemsize):
        computed = zlib.crc32(body[start + 4 : start + layout.itemsize], checksum)
        if computed.to_bytes(4, "little") != body[start : start + 4]:
            break
        valid, checksum = start + layout.itemsize, computed
    return np.frombuffer(body[:valid], layout), checksum, len(body) - valid
