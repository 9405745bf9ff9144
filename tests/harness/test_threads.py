import threading

import pytest

from farsign_jax.harness import threads
from farsign_jax.harness.progress import Progress
from farsign_jax.harness.threads import in_threads


def test_results_are_in_order_and_calls_side_by_side(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    together = threading.Barrier(2, timeout=60)  # neither call ends before the other begins

    def call(item):
        together.wait()
        return -item

    assert list(in_threads(call, range(4))) == [0, -1, -2, -3]


def test_after_a_failure_no_call_begins_and_those_that_run_end(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    progress, failed, begun = Progress(10), threading.Event(), []

    def call(item):
        begun.append(item)
        if item == 0:
            failed.set()
            raise ValueError("the first")
        failed.wait(60)
        while True:  # a long computation, which counts its segments
            progress(1)

    with pytest.raises(ValueError, match="the first"):
        list(in_threads(call, range(9)))
    assert len(begun) <= 3


def test_ctrl_c_ends_all_calls(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    progress, both = Progress(10), threading.Barrier(2, timeout=60)

    def call(item):
        both.wait()
        progress.interrupted = True  # what the handler of Ctrl-C does
        progress(1)

    with pytest.raises(KeyboardInterrupt):
        list(in_threads(call, range(2)))


def test_one_thread_where_a_sweep_has_several_devices(monkeypatch):
    monkeypatch.setattr(threads.jax, "device_count", lambda: 2)
    names = in_threads(lambda _: threading.current_thread().name, range(4))
    assert len(set(names)) == 1
