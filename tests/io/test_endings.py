"""How commands end: one line, a traceback for errors of the code only, and closed pipes."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from farsign_jax.io import endings
from farsign_jax.validation import DataError, InvalidConfig

ROOT = pathlib.Path(__file__).parents[2]


def end(error):
    with pytest.raises(SystemExit) as caught, endings.in_one_line(interrupted="continues"):
        raise error
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidConfig("need n > 0:\n  got 0"), 2, "error: need n > 0: got 0\n"),
        (DataError("no data"), 2, "error: no data\n"),
        (
            OSError(errno.EIO, "Input/output error", "a/b"),
            2,
            "error: a/b: Input/output error\n",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2, "error: x: No such file\n"),
        (OSError(errno.ENOSPC, "No space"), 2, "error: [Errno 28] No space\n"),
        (TimeoutError("nobody came"), 2, "error: nobody came\n"),
        (KeyboardInterrupt(), 130, "\ncontinues\n"),
    ],
)
def test_what_its_user_can_mend_ends_a_command_in_one_line(error, code, line, capsys):
    assert end(error) == code
    assert capsys.readouterr().err == line


def test_an_error_of_the_code_ends_in_its_traceback(capsys):
    assert end(ZeroDivisionError("why")) == 1
    assert "Traceback" in (said := capsys.readouterr().err) and "why" in said


PRINTING = """
from farsign_jax.io import endings
with endings.in_one_line():
    for _ in range(100_000):
        print("89.7 ± 0.3")
"""


@pytest.fixture(scope="module")
def printing():
    """Starts the command above, which prints more than a pipe holds."""

    def start(**options):
        told = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        options = {"stderr": subprocess.PIPE, "env": told | options.pop("env", {})} | options
        return subprocess.Popen([sys.executable, "-c", PRINTING], **options)

    return start


def test_a_closed_pipe_ends_a_command_silently(printing):
    with printing(stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 128 + 13


def test_a_full_output_is_one_line(printing):
    with open("/dev/full", "wb") as full, printing(stdout=full) as process:
        assert process.stderr.read() == b"error: standard output: No space left on device\n"
        assert process.wait(60) == 2


def test_what_the_output_cannot_encode_is_replaced(printing):
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    out, err = printing(stdout=subprocess.PIPE, env=ascii_only).communicate()
    assert out.splitlines()[-1] == b"89.7 ? 0.3" and err == b""
