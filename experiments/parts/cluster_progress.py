"""How a cluster is getting on: its metrics, once a second, and who misbehaves when."""

import sys
import time

from farsign_jax.harness import plots
from farsign_jax.runtime import metrics
from farsign_jax.runtime.limits import Limits
from farsign_jax.runtime.metrics import Samples
from farsign_jax.runtime.testing.local_cluster import LocalCluster
from farsign_jax.validation import require


def new_marks(event: float, before: dict[str, int], now: dict[str, int]) -> list[plots.Mark]:
    """What happened to workers between two looks at their strikes, as marks of a plot."""
    found = []
    for worker, count in now.items():
        if count > before.get(worker, 0):
            ejected = count >= Limits().strikes
            text = f"worker {worker}: " + ("ejected" if ejected else f"strike {count}")
            found.append(plots.Mark(event, text, ejected))
    return found


def watch(local: LocalCluster, events: int) -> tuple[dict[str, Samples], list[plots.Mark]]:
    """Reports the progress of the server until it ends.

    Returns:
        Its last metrics, and the answers after which workers got strikes or were ejected.
    """
    last = local.metrics()
    before, then, alone = 0.0, time.monotonic(), 0
    known: dict[str, int] = {}
    marks: list[plots.Mark] = []
    while local.server.poll() is None:
        time.sleep(1.0)
        alone = alone + 1 if local.deserted else 0  # they also leave when the run is over
        rule = f"all workers have left: {local.failure() or 'see above'}"
        require(alone < 10 or local.server.poll() is not None, rule)
        if not (found := local.metrics()):
            continue
        last, now = found, time.monotonic()
        applied = metrics.total(found, "events_total")
        rate, before, then = (applied - before) / (now - then), applied, now
        accuracy = found.get("farsign_test_accuracy", {}).get((), float("nan"))
        staleness = max(found["farsign_staleness"].values())
        strikes = {
            dict(labels)["worker"]: int(count)
            for labels, count in found["farsign_strikes"].items()
            if count
        }
        marks += new_marks(applied, known, strikes)
        known = strikes
        line = f"{applied:5.0f} of {events} answers, {rate:4.0f}/s, "
        line += f"accuracy {100 * accuracy:4.1f} %, "
        line += f"staleness {staleness:.0f}, strikes {strikes or 'none'}"
        print(line, file=sys.stderr, flush=True)
    return last, marks
