"""Which of two methods is ahead: a rule on differences paired over seeds.

Both methods run with the same seeds, and so with the same data, first parameters and schedules.
With the differences d of S seeds, their mean is compared with the half-width of a Student
interval of 95 %,

    h = t(0.975, S - 1) * std(d) / sqrt(S),

and a method is ahead or behind only if the mean differs from 0 by more than h; otherwise both
are level. One seed gives no interval and no verdict.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy


class Difference(NamedTuple):
    """The difference of two methods.

    Attributes:
        mean: over seeds.
        half_width: of the interval of 95 %; infinity with one seed.
    """

    mean: float
    half_width: float

    @property
    def verdict(self) -> str:
        if not np.isfinite(self.half_width):
            return "one seed"
        if abs(self.mean) <= self.half_width:
            return "level"
        return "ahead" if self.mean > 0 else "behind"

    @property
    def points(self) -> str:
        """In percentage points, as in `+1.2 ± 0.4`."""
        text = f"{100 * self.mean:+.1f}"
        return f"{text} ± {100 * self.half_width:.1f}" if np.isfinite(self.half_width) else text


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compares two methods by a value per seed, in the same order of seeds."""
    differences = np.asarray(ours) - np.asarray(theirs)
    count = len(differences)
    if count < 2:
        return Difference(float(differences.mean()), float("inf"))
    error = float(differences.std(ddof=1)) / np.sqrt(count)
    half_width = float(scipy.special.stdtrit(count - 1, 0.975)) * error
    return Difference(float(differences.mean()), half_width)
