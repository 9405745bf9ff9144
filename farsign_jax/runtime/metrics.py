"""What is going on, as Prometheus text, for those who watch."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from farsign_jax.runtime.core import ServerCore

ANSWERS = "farsign_answers_total"


class Watched(Protocol):
    """A core and what carries its messages."""

    core: ServerCore
    bytes: Counter[str]  # "up" and "down", of messages; empty where nobody counts them
    turned_away: Counter[str]  # who did not get as far as a session

    def now(self) -> float:
        """Seconds since the run began."""
        ...


def text(server: Watched, measured: Mapping[str, float]) -> str:
    """The metrics of a server, and what was last measured of x, in Prometheus' text format."""
    core, lines = server.core, []

    def say(name: str, kind: str, values: Iterable[tuple[str, Any]]) -> None:
        lines.append(f"# TYPE farsign_{name} {kind}")
        lines.extend(f"farsign_{name}{labels} {value}" for labels, value in values)

    say("events_total", "counter", [("", core.events)])
    say("seconds", "gauge", [("", f"{server.now():.3f}")])
    say("sessions", "gauge", [("", len(core.sessions))])
    say("bytes_total", "counter", [(f'{{way="{w}"}}', n) for w, n in server.bytes.items()])
    away = [(f'{{why="{why}"}}', count) for why, count in server.turned_away.items()]
    say("turned_away_total", "counter", away)
    for name, value in measured.items():
        say(name, "gauge", [("", f"{value:.6g}")])
    workers = list(enumerate(core.tallies))
    verdicts = [
        (f'{{worker="{i}",verdict="{verdict}"}}', count)
        for i, tally in workers
        for verdict, count in sorted(tally.verdicts.items())
    ]
    say("answers_total", "counter", verdicts)
    say("strikes", "gauge", [(f'{{worker="{i}"}}', int(core.strikes[i])) for i, _ in workers])
    say("joined", "gauge", [(f'{{worker="{i}"}}', int(i in core.sessions)) for i, _ in workers])
    say("joins_total", "counter", [(f'{{worker="{i}"}}', t.joins) for i, t in workers])
    say("staleness", "gauge", [(f'{{worker="{i}"}}', t.latest) for i, t in workers])
    leaves = [
        (f'{{worker="{i}",why="{why}"}}', count)
        for i, tally in workers
        for why, count in sorted(tally.leaves.items())
    ]
    say("leaves_total", "counter", leaves)
    buckets = []
    for i, tally in workers:
        below = 0
        for power in range(max(tally.staleness, default=-1) + 1):
            below += tally.staleness[power]
            buckets.append((f'{{worker="{i}",le="{2**power - 1}"}}', below))
        buckets.append((f'{{worker="{i}",le="+Inf"}}', below))
    say("staleness_answers_bucket", "counter", buckets)
    return "\n".join(lines) + "\n"


def parse(told: str) -> dict[str, dict[str, float]]:
    """name -> labels as they stand -> value, of what `text` wrote."""
    found: dict[str, dict[str, float]] = {}
    for line in told.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name, _, labels = name.partition("{")
            found.setdefault(name, {})[labels.rstrip("}")] = float(value)
    return found


async def listen(server: Watched, measured: Mapping[str, float], host: str, port: int) -> Any:
    """Answers any HTTP request at HOST:PORT with `text`; an `asyncio` server."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            body = text(server, measured).encode()
            kind = "text/plain; version=0.0.4; charset=utf-8"
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
            writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # who asks like this gets no answer
        finally:
            writer.close()

    return await asyncio.start_server(answer, host, port, limit=8192)
