"""How long a worker takes to answer, honestly or to do harm; `arrivals` makes schedules of it.

Times are virtual seconds, drawn on the host in float64. A worker is asked again at the moment
it is heard, so the answers of one worker are a renewal process, stopped and continued by the
windows in which it works.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from farsign_jax.validation import InvalidConfig, lookup, require

NUMBER = (int, float, np.integer, np.floating)


Draw = Callable[[np.random.Generator, int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class DelayModel:
    """The times that one worker takes.

    Attributes:
        draw: `(rng, first, count)`, seconds for its answers number first .. first + count - 1,
            f64[count] >= 0. Two draws in a row give what one longer draw gives. inf: it never
            answers again.
        typical: seconds, about the median; only decides how far ahead is drawn.
        windows: when it works, ascending: it joins at the first begin, dies at the last end.
            What it has in hand at the end of a window it finishes in the next one. Everybody
            is asked at time 0: who joins late finds that question waiting.
    """

    draw: Draw
    typical: float
    windows: tuple[tuple[float, float], ...] = ((0.0, np.inf),)

    def __post_init__(self):
        rule = f"windows are (begin, end), begin >= 0, one after the other: got {self.windows}"
        require(all(np.shape(window) == (2,) for window in self.windows), rule)
        ends = np.ravel(self.windows)
        require(np.issubdtype(ends.dtype, np.number), rule)
        ordered = np.all(ends >= 0) and np.all(ends[1:] >= ends[:-1])
        require(ordered and np.all(np.isfinite(ends[::2])), rule)
        rule = f"typical is a finite number of seconds >= 0: got {self.typical}"
        require(0 <= self.typical < np.inf, rule)

    def within(self, *windows: tuple[float, float]) -> "DelayModel":
        """The same worker, at work only in these windows; none: dead from the beginning."""
        return dataclasses.replace(self, windows=windows)

    def at_speed(self, speed: float) -> "DelayModel":
        """A worker that takes 1 / speed of the time."""
        rule = f"a worker needs a finite speed > 0, or it is never heard: got {speed}"
        require(isinstance(speed, NUMBER) and 0 < speed < np.inf, rule)

        def draw(rng, first, count):
            return self.draw(rng, first, count) / speed

        return dataclasses.replace(self, draw=draw, typical=self.typical / speed)

    def wall(self, work: np.ndarray) -> np.ndarray:
        """When it has worked for so long: seconds since the start, inf where it dies before."""
        if not self.windows:
            return np.full(np.shape(work), np.inf)
        begin, end = np.asarray(self.windows, np.float64).T
        worked = np.cumsum(end - begin)  # until the end of each window
        at = np.searchsorted(worked, work, side="left")
        last = np.minimum(at, len(worked) - 1)
        before = np.concatenate([[0.0], worked[:-1]])
        return np.where(at < len(worked), begin[last] + (work - before[last]), np.inf)


def check_positive_number(model: str, **options: float) -> None:
    for name, value in options.items():
        rule = f"{model} needs a finite {name} > 0: got {value}"
        require(isinstance(value, NUMBER) and 0 < value < np.inf, rule)


def deterministic(time: float = 1.0) -> DelayModel:
    """Always the same time; 0 is allowed: an answer at once.

    Args:
        time: seconds, >= 0.
    """
    rule = f"deterministic needs a finite time >= 0: got {time}"
    require(isinstance(time, NUMBER) and 0 <= time < np.inf, rule)
    return DelayModel(lambda rng, first, count: np.full(count, float(time)), time)


def exponential(mean: float = 1.0) -> DelayModel:
    """Memoryless: with equal means, every worker is equally likely to be the next.

    Args:
        mean: seconds, > 0.
    """
    check_positive_number("exponential", mean=mean)
    return DelayModel(lambda rng, first, count: mean * rng.exponential(size=count), mean)


def lognormal(mean: float = 1.0, sigma: float = 1.0) -> DelayModel:
    """exp(N(mu, sigma^2)) with this mean: skewed, all moments finite.

    Args:
        mean: seconds, > 0.
        sigma: standard deviation of the logarithm of the time, > 0, no unit.
    """
    check_positive_number("lognormal", mean=mean, sigma=sigma)
    mu = np.log(mean) - sigma**2 / 2
    return DelayModel(lambda rng, first, count: rng.lognormal(mu, sigma, count), np.exp(mu))


def pareto(shape: float = 2.5, scale: float = 1.0) -> DelayModel:
    """P(time > t) = (scale / t)^shape for t >= scale.

    The mean, scale * shape / (shape - 1), is infinite for shape <= 1, the second moment, and
    with it that of staleness (Assumption 5), for shape <= 2.

    Args:
        shape: exponent of the tail, > 0, no unit.
        scale: the shortest time, seconds, > 0.
    """
    check_positive_number("pareto", shape=shape, scale=scale)

    def draw(rng, first, count):
        return scale * (1 + rng.pareto(shape, count))

    return DelayModel(draw, min(scale * np.exp(min(np.log(2) / shape, 690)), 1e300))


def bimodal(
    usual: float = 1.0, slow: float = 10.0, share: float = 0.1, jitter: float = 0.1
) -> DelayModel:
    """A straggler now and then: `slow` with probability `share`, else `usual`.

    Either is spread evenly by a factor 1 +- jitter, as real answers do not come in step.

    Args:
        usual: seconds, > 0.
        slow: seconds, > 0.
        share: probability of a slow answer, in [0, 1].
        jitter: in [0, 1], no unit.
    """
    check_positive_number("bimodal", usual=usual, slow=slow)
    for name, value in (("share", share), ("jitter", jitter)):
        rule = f"bimodal needs 0 <= {name} <= 1: got {value}"
        require(isinstance(value, NUMBER) and 0 <= value <= 1, rule)

    def draw(rng, first, count):
        coin, place = rng.random((count, 2)).T
        return np.where(coin < share, slow, usual) * (1 + jitter * (2 * place - 1))

    return DelayModel(draw, slow if share > 0.5 else usual)


DELAYS: dict[str, Callable[..., DelayModel]] = {
    "deterministic": deterministic,
    "exponential": exponential,
    "lognormal": lognormal,
    "pareto": pareto,
    "bimodal": bimodal,
}


def make_checked(
    kind: str, name: str, table: dict[str, Callable], *args: Any, **options: Any
) -> Any:
    for option, value in options.items():
        rule = f"{kind} {name!r} needs a number for {option}: got {value!r}"
        require(isinstance(value, NUMBER), rule)
    try:
        return lookup(kind, name, table)(*args, **options)
    except TypeError as error:
        raise InvalidConfig(f"{kind} {name!r}: {error}") from None


def make(name: str, **options: Any) -> DelayModel:
    """The service model of that name; an `InvalidConfig` names close names or wrong options."""
    return make_checked("delay model", name, DELAYS, **options)


def geometric_speeds(num_workers: int, spread: float) -> np.ndarray:
    """Speeds f64[m] from 1 down to 1 / spread, by a constant factor from worker to worker."""
    good = isinstance(spread, NUMBER) and 1 <= spread < np.inf
    require(good, f"need a finite spread >= 1: got {spread}")
    return np.geomspace(1.0, 1.0 / spread, num_workers)
