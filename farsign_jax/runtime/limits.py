"""What a worker may do, and how often."""

import dataclasses

from farsign_jax.validation import require


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a worker may do.

    Attributes:
        strikes: so many, and the worker is out.
        rate: answers per second that a worker is asked for in the long run.
        burst: answers it may give ahead of that.
        staleness: answers about an x that so many updates have passed since are not heard, but
            asked for again; None, all are heard (FAR-SIGN needs no bound).
        history: updates that a worker may be behind and still be told what changed; behind
            more, it is sent all of x.
    """

    strikes: int = 4
    rate: float = 500.0
    burst: float = 100.0
    staleness: int | None = None
    history: int = 16384

    def __post_init__(self):
        for name in ("strikes", "rate", "burst", "history"):
            value = getattr(self, name)
            require(value >= 1, f"need {name} >= 1: got {value}")
        stale = self.staleness
        require(stale is None or stale >= 0, f"need staleness >= 0 or none: got {stale}")


class Bucket:
    """A token bucket: `rate` tokens a second, at most `burst`; it may be overdrawn by one."""

    def __init__(self, rate: float, burst: float):
        self.rate, self.burst = rate, burst
        self.level, self.at = burst, float("-inf")

    def due(self, now: float) -> float:
        """Seconds until there is a token."""
        if now > self.at:
            self.level = min(self.level + (now - self.at) * self.rate, self.burst)
            self.at = now
        return max(1 - self.level, 0.0) / self.rate

    def take(self, now: float) -> float:
        """Takes a token; seconds until there is another."""
        self.due(now)
        self.level -= 1
        return self.due(now)
