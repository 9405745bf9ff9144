"""The metrics of a server, as the parser of prometheus_client reads them."""

import asyncio
import urllib.request
from collections import Counter

import numpy as np
import pytest
from prometheus_client import parser

from farsign_jax.runtime import metrics
from farsign_jax.runtime.session import SessionClosed
from tests.runtime.helpers import K, answer_question, make_core


class Server:
    """A core after some answers: worker 1 answers late, and worker 2 is excluded."""

    def __init__(self):
        self.core = make_core()
        self.bytes = Counter(up=10, down=20)
        self.rejected = Counter({'a "quoted" reason': 3})
        slow, late = self.core.join(1, None, 0.0)
        session, reply = self.core.join(0, None, 0.0)
        for _ in range(5):
            reply = answer_question(self.core, session, reply.question)
        answer_question(self.core, slow, late.question)
        session, reply = self.core.join(2, None, 0.0)
        wrong = {"value": np.full(K, np.nan, np.float32).tobytes()}
        with pytest.raises(SessionClosed):
            for _ in range(9):
                answer_question(self.core, session, reply.question, wrong=wrong)

    def now(self):
        return 12.5


def families(server):
    text = metrics.render(server, {"test_accuracy": 0.75}).decode()
    return {each.name: each for each in parser.text_string_to_metric_families(text)}


def test_every_metric_has_a_type_and_the_expected_samples():
    found = metrics.parse(metrics.render(Server(), {"test_accuracy": 0.75}).decode())
    assert found["farsign_events_total"] == {(): 6}
    assert found["farsign_run_seconds"] == {(): 12.5}
    assert found["farsign_test_accuracy"] == {(): 0.75}
    assert found["farsign_sessions"] == {(): 2}
    assert metrics.total(found, "bytes_total", direction="down") == 20
    assert metrics.total(found, "rejected_connections_total", reason='a "quoted" reason') == 3
    assert metrics.total(found, "answers_total", worker=0, verdict="accepted") == 5
    assert metrics.total(found, "answers_total", worker=2) == 4
    assert metrics.total(found, "answers_total", verdict="nonfinite") == 4
    assert metrics.total(found, "strikes", worker=2) == 4
    assert metrics.total(found, "worker_connected", worker=2) == 0
    assert metrics.total(found, "joins_total", worker=2) == 1
    assert metrics.total(found, "leaves_total", worker=2, reason="strikes") == 1
    assert metrics.total(found, "staleness", worker=1) == 5
    kinds = {name: family.type for name, family in families(Server()).items()}
    assert set(kinds.values()) == {"counter", "gauge", "histogram"}
    assert [name for name, kind in kinds.items() if kind == "histogram"] == [
        "farsign_answer_staleness"
    ]


def test_the_histogram_of_staleness_is_valid():
    samples = families(Server())["farsign_answer_staleness"].samples
    for worker, count, total in (("0", 5, 0), ("1", 1, 5), ("2", 0, 0)):
        own = [s for s in samples if s.labels["worker"] == worker]
        by_name = {s.name.rpartition("_")[2]: s.value for s in own}
        buckets = [(s.labels["le"], s.value) for s in own if s.name.endswith("_bucket")]
        bounds, counts = zip(*buckets, strict=True)
        assert bounds[-1] == "+Inf" and counts[-1] == by_name["count"] == count
        assert by_name["sum"] == total
        assert list(counts) == sorted(counts) and len(bounds) == 16
        assert list(map(float, bounds)) == sorted(map(float, bounds))
    late = {s.labels.get("le"): s.value for s in samples if s.labels["worker"] == "1"}
    assert late["3.0"] == 0 and late["7.0"] == 1  # its staleness is 5


def test_metrics_are_served_over_http():
    async def run():
        page = await metrics.listen(Server(), {}, "127.0.0.1", 0)
        port = page.sockets[0].getsockname()[1]

        def read():
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/metrics", timeout=20
            ) as answer:
                return answer.headers["Content-Type"], answer.read().decode()

        kind, text = await asyncio.to_thread(read)
        page.close()
        return kind, metrics.parse(text)

    kind, found = asyncio.run(run())
    assert kind.startswith("text/plain") and found["farsign_events_total"] == {(): 6}
