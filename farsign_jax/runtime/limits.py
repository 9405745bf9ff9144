"""Limits on what a worker may do, and on how often it may do it."""

import dataclasses

from farsign_jax.validation import require


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits that the server imposes on each worker.

    Attributes:
        strikes: number of invalid messages after which a worker is excluded.
        rate: long-run limit on the answers per second that a worker is asked for.
        burst: number of answers by which a worker may exceed that rate for a short time.
        staleness: largest staleness, in updates, of an answer that is still accepted; the
            question of an older answer is asked again. None accepts every answer (FAR-SIGN
            needs no bound).
        history: number of updates that a worker may be behind and still receive only the
            changes of x. A worker that is further behind receives all of x.
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


class TokenBucket:
    """A token bucket that holds at most `burst` tokens and gains `rate` tokens per second.

    The bucket may be overdrawn: `take` always succeeds and returns the time to wait.
    """

    def __init__(self, rate: float, burst: float):
        self.rate, self.burst = rate, burst
        self.level, self._updated = burst, float("-inf")

    def delay(self, now: float) -> float:
        """Returns the number of seconds until the next token is available."""
        if now > self._updated:
            self.level = min(self.level + (now - self._updated) * self.rate, self.burst)
            self._updated = now
        return max(1 - self.level, 0.0) / self.rate

    def take(self, now: float) -> float:
        """Takes one token and returns the number of seconds until the next one."""
        self.delay(now)
        self.level -= 1
        return self.delay(now)
