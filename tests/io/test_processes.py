"""Processes that exchange values and arrays, whoever is first, and notice who is lost."""

import socket
import subprocess
import sys
import time

import pytest

CHILD = """
import sys, time
import numpy as np
from farsign_jax.io import processes
index, port, last = int(sys.argv[1]), sys.argv[2], sys.argv[3]
processes.join(f"127.0.0.1:{port}", 3, index)
assert processes.place() == (index, 3)
time.sleep(0.2 * index)
assert processes.exchange([index, None]) == [[0, None], [1, None], [2, None]]
sizes = [0, 5, 3_000_000]
arrays = processes.exchange_arrays({"a": np.arange(sizes[index]) / 3, "i": np.int64(index)})
for other, found in enumerate(arrays):
    np.testing.assert_array_equal(found["a"], np.arange(sizes[other]) / 3)
    assert found["i"] == other and found["i"].dtype == np.int64
processes.agree("the same", "text")
if last == "agree":
    processes.agree(index, "number")
if last == "lost" and index == 1:
    sys.exit(0)
processes.exchange(0)
processes.part()
assert processes.place() == (0, 1)
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def three(last):
    """Three processes; the first one, which the others wait for, comes last."""
    port, made = free_port(), []
    for index in (2, 1, 0):
        command = [sys.executable, "-c", CHILD, str(index), str(port), last]
        made.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    # Something else that connects is ignored.
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port)) as stray:
                stray.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
            break
        except OSError:
            time.sleep(0.1)
    errors = [process.communicate(timeout=120)[1] for process in made]
    return [process.returncode for process in made][::-1], errors[::-1]


def test_processes_exchange_values_and_arrays():
    codes, errors = three("part")
    assert codes == [0, 0, 0], errors


def test_processes_that_do_not_agree_are_told_what_differs():
    codes, errors = three("agree")
    assert codes == [1, 1, 1]
    assert all("all processes need the same number: got [0, 1, 2]" in error for error in errors)


@pytest.mark.slow
def test_a_process_that_ends_is_noticed():
    codes, errors = three("lost")
    assert (codes[0], codes[1], codes[2]) == (1, 0, 1)
    assert "LostProcess: process 0 of 3 is alone" in errors[0]
    assert "LostProcess: process 2 of 3 is alone" in errors[2]
