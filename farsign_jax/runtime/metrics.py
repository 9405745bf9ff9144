"""Prometheus metrics of a server.

The metrics of one moment are collected when they are requested, in the thread that runs the
server, so that a page is consistent and no counter changes while it is read. This is why the
HTTP server of prometheus_client, which runs in a thread of its own, is not used.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from farsign_jax.cli import commands
from farsign_jax.runtime.core import ServerCore

try:
    from prometheus_client import CollectorRegistry, exposition, parser
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
except ModuleNotFoundError as error:
    commands.missing(error, __name__)

ANSWERS = "farsign_answers_total"
_SECONDS = 5  # for a reader to send its request, and to read the page
_BUCKETS = 15  # of the staleness: 0, 1, 3, 7, ..., 16383

# The samples of one metric by sorted labels: {(("reason", "gone"), ("worker", "0")): 3.0}.
Samples = dict[tuple[tuple[str, str], ...], float]


class MonitoredServer(Protocol):
    """A server whose metrics can be collected.

    Attributes:
        core: the server's side of the run.
        bytes: number of bytes in messages, "up" and "down"; empty if they are not counted.
        rejected: number of peers that were not admitted, by reason.
    """

    core: ServerCore
    bytes: Counter[str]
    rejected: Counter[str]

    def now(self) -> float:
        """Returns the number of seconds since the run began."""
        ...


class ServerCollector:
    """Collects the metrics of a server; to be registered with a `CollectorRegistry`.

    Args:
        server: the server.
        measured: the most recent measurements of x, by name.
    """

    def __init__(self, server: MonitoredServer, measured: Mapping[str, float]):
        self._server, self._measured = server, measured

    def collect(self) -> Iterable[Metric]:
        server, core = self._server, self._server.core
        yield _counter("events", "Answers that have been applied.", value=core.events)
        yield _gauge("run_seconds", "Seconds since the run began.", value=server.now())
        yield _gauge("sessions", "Workers that are connected.", value=len(core.sessions))
        counts = {(way,): n for way, n in server.bytes.items()}
        yield _counter("bytes", "Bytes in messages.", ("direction",), counts)
        counts = {(reason,): n for reason, n in server.rejected.items()}
        text = "Peers that were not admitted."
        yield _counter("rejected_connections", text, ("reason",), counts)
        for name, value in self._measured.items():
            yield _gauge(name, "The most recent measurement.", value=value)
        yield from self._worker_metrics()

    def _worker_metrics(self) -> Iterable[Metric]:
        core = self._server.core
        workers = {str(i): each for i, each in enumerate(core.statistics)}
        labels = ("worker",)
        counts: dict[tuple[str, ...], float] = {
            (i, verdict): n for i, w in workers.items() for verdict, n in w.verdicts.items()
        }
        yield _counter("answers", "Messages of a worker.", ("worker", "verdict"), counts)
        counts = {(str(i),): int(n) for i, n in enumerate(core.strikes)}
        yield _gauge("strikes", "Invalid messages of a worker.", labels, counts)
        counts = {(i,): int(int(i) in core.sessions) for i in workers}
        yield _gauge("worker_connected", "Whether a worker is connected.", labels, counts)
        counts = {(i,): w.joins for i, w in workers.items()}
        yield _counter("joins", "Sessions that a worker has opened.", labels, counts)
        counts = {(i, reason): n for i, w in workers.items() for reason, n in w.leaves.items()}
        text = "Sessions of a worker that were closed."
        yield _counter("leaves", text, ("worker", "reason"), counts)
        counts = {(i,): w.latest for i, w in workers.items()}
        text = "Staleness of a worker's most recent answer, in updates."
        yield _gauge("staleness", text, labels, counts)
        text = "Staleness of a worker's accepted answers, in updates."
        histogram = HistogramMetricFamily("farsign_answer_staleness", text, labels=labels)
        for i, each in workers.items():
            histogram.add_metric([i], _buckets(each.staleness), each.total_staleness)
        yield histogram


def _counter(name: str, text: str, *samples: Any, value: float | None = None) -> Metric:
    return _family(CounterMetricFamily, name, text, *samples, value=value)


def _gauge(name: str, text: str, *samples: Any, value: float | None = None) -> Metric:
    return _family(GaugeMetricFamily, name, text, *samples, value=value)


def _family(
    kind: Any,
    name: str,
    text: str,
    labels: tuple[str, ...] = (),
    samples: Mapping[tuple[str, ...], float] | None = None,
    value: float | None = None,
) -> Metric:
    """Returns a metric with labelled samples, or with a single value."""
    family = kind(f"farsign_{name}", text, labels=labels)
    for key, sample in ({(): value} if samples is None else samples).items():
        family.add_metric(key, sample)
    return family


def _buckets(by_bit_length: Counter[int]) -> list[tuple[str, float]]:
    """Returns the cumulative buckets of counts of the values 0, 1, 2..3, 4..7, ...

    All workers have the same buckets, so that their histograms can be added.
    """
    buckets, below = [], 0
    for power in range(_BUCKETS):
        below += by_bit_length[power]
        buckets.append((str(float(2**power - 1)), below))
    return [*buckets, ("+Inf", by_bit_length.total())]


def render(server: MonitoredServer, measured: Mapping[str, float]) -> bytes:
    """Returns the metrics of a server in the text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(server, measured))
    return exposition.generate_latest(registry)


def parse(text: str) -> dict[str, Samples]:
    """Returns the samples in the text format of Prometheus, by name and labels."""
    samples: dict[str, Samples] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[labels] = sample.value
    return samples


def total(metrics: Mapping[str, Samples], name: str, **labels: Any) -> float:
    """Returns the sum of the samples of one metric that have these labels, 0 without any."""
    wanted = {(label, str(value)) for label, value in labels.items()}
    return sum(v for k, v in metrics.get(f"farsign_{name}", {}).items() if wanted <= set(k))


async def listen(
    server: MonitoredServer, measured: Mapping[str, float], host: str, port: int
) -> asyncio.Server:
    """Answers every HTTP request at HOST:PORT with the metrics of a server."""
    failures = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(*failures):  # an incomplete request gets no answer
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _SECONDS)
                body = render(server, measured)
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {exposition.CONTENT_TYPE_LATEST}\r\n"
                head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.transport.set_write_buffer_limits(0)  # drain waits for all of it
                writer.write(head.encode() + body)
                await asyncio.wait_for(writer.drain(), _SECONDS)
        finally:
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # the reader does not read
            writer.close()

    return await asyncio.start_server(answer, host, port, limit=8192)
