"""Rates of convergence: slopes on logarithmic axes, with confidence intervals."""

from typing import Any, NamedTuple

import numpy as np

from farsign_jax.validation import require


class Slope(NamedTuple):
    """A rate, the slope of log mean over log n, and the interval of 95 % of the resamples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def slope(events: Any, values: Any, *, resamples: int = 2000, seed: int = 0) -> Slope:
    """Fits the mean over replicas to C n^slope, by least squares on a log-log scale.

    Values of one run at two times are correlated, so that replicas are resampled, not records.

    Args:
        events: [E], n > 0, evenly spaced on a log scale.
        values: [R, E] > 0, for R replicas.
        resamples: the number of resamples of the bootstrap.
        seed: the seed of the bootstrap.

    Raises:
        InvalidConfig: if there are fewer than two records or replicas, or a value is not
            positive and finite.
    """
    x, values = np.log(np.asarray(events, np.float64)), np.asarray(values, np.float64)
    replicas, records = values.shape
    require(records > 1 and replicas > 1, f"a slope needs 2 x 2 values: got {values.shape}")
    require((values > 0) & np.isfinite(values), "a slope needs positive, finite values")
    x = x - x.mean()
    means = np.concatenate([values.mean(axis=0)[None], resampled(values, resamples, seed)])
    slopes = np.log(means) @ x / (x @ x)
    return Slope(float(slopes[0]), *middle(slopes[1:]))


def resampled(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Returns means over replicas drawn with replacement, f64[resamples, ...] from [R, ...]."""
    rng = np.random.default_rng(seed)
    return values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)


def middle(samples: np.ndarray) -> tuple[float, float]:
    """Returns the interval that contains the middle 95 % of the samples."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def log_spaced(events: Any, first: float, count: int = 25) -> np.ndarray:
    """Returns indices of `count` records from event `first` on, evenly on a log scale."""
    events = np.asarray(events)
    wanted = np.geomspace(first, events[-1], count)
    return np.unique(np.searchsorted(events, wanted).clip(0, len(events) - 1))
