"""The journal of arrivals: every accepted answer is on disk before it is applied.

The file begins with a header that names the format, the run and the number of values in an
answer, followed by one record of fixed size per arrival. The checksum of a record covers the
record before it, so that no record can be missing, moved or inserted.

A record that was being written when the machine stopped is incomplete and the last one. It is
moved to a file beside the journal. Everything else that is not a valid record is damage, which
is reported and left as it is: the records behind it may be good.
"""

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


class NotRecorded(Exception):
    """An arrival could not be written, so that it must not be applied; with the reason."""


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


class Contents(NamedTuple):
    """What a journal contains.

    Attributes:
        arrivals: the valid records, a structured array with the layout `record_dtype`.
        checksum: of the last valid record.
        end: the offset of the first byte that belongs to no valid record.
        rest: the number of bytes from there on.
        damage: what is wrong with them; empty if they are an incomplete last record, or none.
    """

    arrivals: np.ndarray
    checksum: int
    end: int
    rest: int
    damage: str


class Journal:
    """Creates a journal, or continues one after its last record.

    Args:
        path: the file.
        k: the number of values in an answer.
        fingerprint: of the run, 16 characters.
        durable: the number of records that must exist, because a checkpoint includes them.

    Attributes:
        tail: the arrivals after the first `durable` ones, a structured array with the layout
            `record_dtype`.
        set_aside: the file with an incomplete last record that was removed; None without one.

    Raises:
        InvalidConfig: if the journal belongs to another run, is damaged, or has fewer than
            `durable` records.
    """

    def __init__(self, path: str | os.PathLike, k: int, fingerprint: str, durable: int = 0):
        self.path = pathlib.Path(path)
        header = _header(k, fingerprint)
        begun = self.path.read_bytes() if _size(self.path) < len(header) else header
        if begun != header and header.startswith(begun):
            with files.naming(self.path):
                self.path.write_bytes(header)
            files.synchronise_folder(self.path.parent)
        found = _contents(self.path, header, durable)
        require(not found.damage, found.damage)
        rule = f"{self.path} is damaged: the checkpoint includes {durable} arrivals"
        valid = (found.end - len(header)) // record_dtype(k).itemsize
        require(valid >= durable, f"{rule}, and the journal has fewer")
        self.tail, self._checksum = found.arrivals, found.checksum
        self._file, self.set_aside = os.open(self.path, os.O_RDWR), None
        if found.rest:
            self.set_aside = self.path.with_name(f"{self.path.name}.incomplete-{found.end}")
            content = os.pread(self._file, found.rest, found.end)
            files.atomic_write(self.set_aside, lambda file: file.write(content))
            os.ftruncate(self._file, found.end)
        os.lseek(self._file, found.end, os.SEEK_SET)

    def append(self, arrival: Arrival) -> None:
        """Passes a record to the operating system; a killed process loses no record.

        Raises:
            NotRecorded: if it cannot be written; the file is as it was before.
        """
        worker, number, version, seconds, value = arrival
        body = _PREFIX.pack(worker, number, version, seconds) + value.tobytes()
        checksum = zlib.crc32(body, self._checksum)
        record = checksum.to_bytes(4, "little") + body
        written = 0
        try:
            while written < len(record):  # a full disk takes a part, and then none
                written += os.write(self._file, record[written:])
        except OSError as error:
            os.ftruncate(self._file, os.lseek(self._file, -written, os.SEEK_CUR))
            raise NotRecorded(f"{self.path}: {error.strerror}") from error
        self._checksum = checksum

    def sync(self) -> None:
        """Writes all records to the disk, so that they also survive a loss of power.

        Raises:
            OSError: if that fails.
            InvalidConfig: if the file is no longer in its place, so that nothing that is
                recorded would be found again.
        """
        there = self.path.exists() and os.path.samestat(os.fstat(self._file), self.path.stat())
        require(there, f"{self.path} was removed or replaced while the run was served")
        with files.naming(self.path):
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


def contents(path: str | os.PathLike, fingerprint: str | None = None) -> Contents:
    """Reads a journal.

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
    return _contents(path, _header(k, fingerprint or own.decode("ascii", "replace")), 0)


def read(path: str | os.PathLike, fingerprint: str | None = None) -> np.ndarray:
    """Returns the arrivals in a journal; a record that is being written does not count.

    Raises:
        InvalidConfig: as `contents`, and if the journal is damaged.
    """
    found = contents(path, fingerprint)
    require(not found.damage, found.damage)
    return found.arrivals


def _size(path: pathlib.Path) -> int:
    path.touch()
    return path.stat().st_size


def _header(k: int, fingerprint: str) -> bytes:
    return _HEADER.pack(_MAGIC, _FORMAT, k, fingerprint.encode())


def _contents(path: pathlib.Path, header: bytes, skip: int) -> Contents:
    """Checks all records, and returns those after the first `skip` ones."""
    _, _, k, fingerprint = _HEADER.unpack(header)
    layout, checksum, valid = record_dtype(k), zlib.crc32(header), 0
    kept: list[bytes] = []
    with path.open("rb") as file:
        found = file.read(len(header))
        if found != header:
            kind = "another run" if found.startswith(_MAGIC) else "something else"
            raise InvalidConfig(f"{path} is a journal of {kind}, not of {fingerprint.decode()}")
        while len(record := file.read(layout.itemsize)) == layout.itemsize:
            computed = zlib.crc32(record[4:], checksum)
            if computed.to_bytes(4, "little") != record[:4]:
                break
            checksum, valid = computed, valid + 1
            if valid > skip:
                kept.append(record)
    end = len(header) + valid * layout.itemsize
    rest, damage = path.stat().st_size - end, ""
    if rest >= layout.itemsize:
        damage = (
            f"{path} is damaged: record {valid}, counted from 0, at byte {end}, is not what "
            f"was written. The {valid} records before it are valid; {rest} bytes from there on "
            "may hold more. Restore the file from a copy"
        )
    return Contents(np.frombuffer(b"".join(kept), layout), checksum, end, rest, damage)
