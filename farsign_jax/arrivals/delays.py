"""Delay models: how long a worker takes to answer.

Delays are virtual seconds, drawn on the host in float64. A worker receives its next question at
the moment when its answer arrives, so the answers of one worker form a renewal process, which
the windows in which the worker is at work stop and continue.

To add a model, write a function whose parameters are its options and which returns a
`DelayModel`, and enter it in `DELAYS`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from farsign_jax import specs
from farsign_jax.validation import InvalidConfig, lookup, require

NUMBER = (int, float, np.integer, np.floating)


class Draw(Protocol):
    """Draws the delays of consecutive answers of one worker.

    Two draws in a row must give what one longer draw gives, so that the schedule does not
    depend on how far ahead is drawn.

    Args:
        rng: the random generator of this worker.
        first: the number of the first answer, counted from 0.
        count: how many delays to draw.

    Returns:
        Seconds >= 0, f64[count], of the answers first .. first + count - 1. A delay of inf
        means that the worker never answers again.
    """

    def __call__(self, rng: np.random.Generator, first: int, count: int, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class DelayModel:
    """The delays of one worker and the times at which it works.

    Attributes:
        draw: draws the delays; see `Draw`.
        typical: about the median delay, in seconds. It only decides how far ahead to draw.
        windows: intervals (begin, end) in seconds, in ascending order, in which the worker is
            at work. It joins at the first begin and dies at the last end. An answer that is
            unfinished at the end of a window is finished in the next one. All workers receive
            their first question at time 0, also those that join later.
    """

    draw: Draw
    typical: float
    windows: tuple[tuple[float, float], ...] = ((0.0, np.inf),)

    def __post_init__(self) -> None:
        rule = f"windows are (begin, end), begin >= 0, one after the other: got {self.windows}"
        require(all(np.shape(window) == (2,) for window in self.windows), rule)
        ends = np.ravel(self.windows)
        require(np.issubdtype(ends.dtype, np.number), rule)
        ordered = np.all(ends >= 0) and np.all(ends[1:] >= ends[:-1])
        require(ordered and np.all(np.isfinite(ends[::2])), rule)
        rule = f"typical is a finite number of seconds >= 0: got {self.typical}"
        require(0 <= self.typical < np.inf, rule)

    def within(self, *windows: tuple[float, float]) -> "DelayModel":
        """The same worker, at work only in these windows; without any, it never answers."""
        return dataclasses.replace(self, windows=windows)

    def at_speed(self, speed: float) -> "DelayModel":
        """A worker whose delays are 1 / speed times as long.

        Raises:
            InvalidConfig: if the speed is not finite and > 0.
        """
        rule = f"a worker needs a finite speed > 0, or it never answers: got {speed}"
        require(isinstance(speed, NUMBER) and 0 < speed < np.inf, rule)

        def draw(rng: np.random.Generator, first: int, count: int) -> np.ndarray:
            return self.draw(rng, first, count) / speed

        return dataclasses.replace(self, draw=draw, typical=self.typical / speed)

    def arrival_times(self, work: np.ndarray) -> np.ndarray:
        """The times at which the worker has worked for `work` seconds in total.

        Args:
            work: seconds of work, f64[n].

        Returns:
            Seconds since the start, f64[n]; inf where the worker dies before.
        """
        if not self.windows:
            return np.full(np.shape(work), np.inf)
        begin, end = np.asarray(self.windows, np.float64).T
        worked = np.cumsum(end - begin)  # until the end of each window
        at = np.searchsorted(worked, work, side="left")
        last = np.minimum(at, len(worked) - 1)
        before = np.concatenate([[0.0], worked[:-1]])
        return np.where(at < len(worked), begin[last] + (work - before[last]), np.inf)


def check_nonnegative_number(model: str, **options: Any) -> None:
    """Raises `InvalidConfig` unless every option is a finite number >= 0."""
    for name, value in options.items():
        rule = f"{model} needs a finite {name} >= 0: got {value}"
        require(isinstance(value, NUMBER) and 0 <= value < np.inf, rule)


def check_positive_number(model: str, **options: Any) -> None:
    """Raises `InvalidConfig` unless every option is a finite number > 0."""
    for name, value in options.items():
        rule = f"{model} needs a finite {name} > 0: got {value}"
        require(isinstance(value, NUMBER) and 0 < value < np.inf, rule)


def deterministic(time: float = 1.0) -> DelayModel:
    """The same delay for every answer.

    Args:
        time: seconds, >= 0; with 0, the worker answers at once.

    Raises:
        InvalidConfig: if the time is not finite and >= 0.
    """
    check_nonnegative_number("deterministic", time=time)
    return DelayModel(lambda rng, first, count: np.full(count, float(time)), time)


def exponential(mean: float = 1.0) -> DelayModel:
    """Exponential delays, without memory: workers with equal means are equally likely next.

    Args:
        mean: seconds, > 0.

    Raises:
        InvalidConfig: if the mean is not finite and > 0.
    """
    check_positive_number("exponential", mean=mean)
    return DelayModel(lambda rng, first, count: mean * rng.exponential(size=count), mean)


def lognormal(mean: float = 1.0, sigma: float = 1.0) -> DelayModel:
    """Log-normal delays exp(N(mu, sigma^2)), which are skewed and have all moments.

    Args:
        mean: the mean, which determines mu, in seconds, > 0.
        sigma: the standard deviation of the logarithm of the delay, > 0, without unit.

    Raises:
        InvalidConfig: if an option is not finite and > 0.
    """
    check_positive_number("lognormal", mean=mean, sigma=sigma)
    mu = np.log(mean) - sigma**2 / 2
    return DelayModel(lambda rng, first, count: rng.lognormal(mu, sigma, count), np.exp(mu))


def pareto(shape: float = 2.5, scale: float = 1.0) -> DelayModel:
    """Pareto delays: P(delay > t) = (scale / t)^shape for t >= scale.

    The mean, scale * shape / (shape - 1), is infinite for shape <= 1. The second moment, and
    with it that of staleness (Assumption 5), is infinite for shape <= 2.

    Args:
        shape: the exponent of the tail, > 0, without unit.
        scale: the shortest delay, in seconds, > 0.

    Raises:
        InvalidConfig: if an option is not finite and > 0.
    """
    check_positive_number("pareto", shape=shape, scale=scale)

    def draw(rng: np.random.Generator, first: int, count: int) -> np.ndarray:
        return scale * (1 + rng.pareto(shape, count))

    return DelayModel(draw, min(scale * np.exp(min(np.log(2) / shape, 690)), 1e300))


def bimodal(
    usual: float = 1.0, slow: float = 10.0, share: float = 0.1, jitter: float = 0.1
) -> DelayModel:
    """Occasional stragglers: the delay is `slow` with probability `share`, else `usual`.

    Either delay is multiplied by a factor that is uniform in 1 +- jitter, so that workers do
    not answer in step.

    Args:
        usual: seconds, > 0.
        slow: seconds, > 0.
        share: the probability of a slow answer, in [0, 1].
        jitter: the relative spread, in [0, 1], without unit.

    Raises:
        InvalidConfig: if an option is out of range.
    """
    check_positive_number("bimodal", usual=usual, slow=slow)
    for name, value in (("share", share), ("jitter", jitter)):
        rule = f"bimodal needs 0 <= {name} <= 1: got {value}"
        require(isinstance(value, NUMBER) and 0 <= value <= 1, rule)

    def draw(rng: np.random.Generator, first: int, count: int) -> np.ndarray:
        coin, place = rng.random((count, 2)).T
        return np.where(coin < share, slow, usual) * (1 + jitter * (2 * place - 1))

    return DelayModel(draw, slow if share > 0.5 else usual)


class DelayFactory(Protocol):
    """A function in `DELAYS`: its parameters are the options of the model, all numbers."""

    def __call__(self, *args: Any, **options: Any) -> DelayModel: ...


DELAYS: dict[str, DelayFactory] = {
    "deterministic": deterministic,
    "exponential": exponential,
    "lognormal": lognormal,
    "pareto": pareto,
    "bimodal": bimodal,
}


def make_checked(
    kind: str, name: str, table: Mapping[str, Callable[..., Any]], *args: Any, **options: Any
) -> Any:
    """Calls `table[name]` with options that must be numbers.

    Args:
        kind: what the table contains, for messages.
        name: a name in the table, perhaps with options.
        table: functions by name.
        args: positional arguments of the function.
        options: further options.

    Raises:
        InvalidConfig: if the name or an option does not exist, or a value is not a number or is
            refused by the function.
    """
    name, texts = specs.parse(name)
    factory = lookup(kind, name, table)
    given = specs.typed(name, texts, specs.parameters(factory, skip=len(args)))
    options = dict(specs.joined(name, given, options))
    for option, value in options.items():
        rule = f"{kind} {name!r} needs a number for {option}: got {value!r}"
        require(isinstance(value, NUMBER), rule)
    try:
        return factory(*args, **options)
    except TypeError as error:
        raise InvalidConfig(f"{kind} {name!r}: {error}") from None


def make(name: str, **options: Any) -> DelayModel:
    """Makes the delay model of that name.

    Args:
        name: one of `DELAYS`, perhaps with options, as in "pareto:shape=1.5".
        options: further options of the model, all numbers.

    Raises:
        InvalidConfig: if the name or an option does not exist, or a value is refused.
    """
    return make_checked("delay model", name, DELAYS, **options)


def geometric_speeds(num_workers: int, spread: float) -> np.ndarray:
    """Speeds from 1 down to 1 / spread, with a constant factor from worker to worker.

    Args:
        num_workers: m.
        spread: the ratio of the largest to the smallest speed, >= 1.

    Returns:
        f64[m].

    Raises:
        InvalidConfig: if the spread is not finite and >= 1.
    """
    good = isinstance(spread, NUMBER) and 1 <= spread < np.inf
    require(good, f"need a finite spread >= 1: got {spread}")
    return np.geomspace(1.0, 1.0 / spread, num_workers)
