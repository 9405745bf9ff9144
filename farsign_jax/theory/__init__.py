"""Theory: what the papers prove, measured along runs."""

from farsign_jax.theory.adversaries import greedy, hidden, lookahead
from farsign_jax.theory.far_sign import Gradient, Observed, Sums, bound, observed, rows
from farsign_jax.theory.rates import Slope, log_spaced, middle, resampled, slope
from farsign_jax.theory.tracking import discounted_sum, tracking_bound

__all__ = [
    "Gradient",
    "Observed",
    "Slope",
    "Sums",
    "bound",
    "discounted_sum",
    "greedy",
    "hidden",
    "log_spaced",
    "lookahead",
    "middle",
    "observed",
    "resampled",
    "rows",
    "slope",
    "tracking_bound",
]
