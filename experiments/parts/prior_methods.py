"""The rows of the paper's Tables 1 and 2: methods, what the tables say of them, their steps.

Each method has the step sizes of its own theorem for a run of K updates, on functions with
smoothness L, a distance `GAP` to the lowest value, and noise of standard deviation sigma in the
gradient. Where a theorem gives an order only, such as O(1 / sqrt(d K)), the factor is 1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.parts.convergence_rates import LOWEST, SMOOTHNESS
from farsign_jax.harness.small_problems import BYZANTINE, DIM, WORKERS
from farsign_jax.methods.rsg import corollary_2_2
from farsign_jax.methods.rsgf import corollary_3_3

GAP = 4 * (4.5 + 2 * math.cos(3.0)) - LOWEST  # of `waves` at (3, 3, 3, 3), also if crossed
KNOWN = {"smoothness": SMOOTHNESS, "gap": GAP}
SIGMA = math.sqrt(DIM)  # of one gradient: 1 in each coordinate
STALENESS = WORKERS - 1  # on average, with one open question per worker


class Steps(NamedTuple):
    """The numbers of a run of K updates."""

    step_size: float
    delta: float = 1e-3


class Entry(NamedTuple):
    """A row of Table 1 or 2.

    Attributes:
        method: a name of `METHODS`.
        reference: the paper and the theorem that the table names.
        asynchronous, resilient: the table's tick marks.
        claimed: the exponents of K in the bound on the expected gradient norm by kind of
            noise, which are the table's; None where it claims none.
        steps: `(K, noise) -> Steps`; None for FAR-SIGN, whose steps are those of its theorems.
        options: of the method on the small problems, by name.
    """

    method: str
    reference: str
    asynchronous: bool
    resilient: bool
    claimed: dict[str, float | None]
    steps: Callable[[int, str], Steps] | None
    options: tuple[tuple[str, Any], ...] = ()


def descent(updates: int, sigma: float, largest: float = 1 / SMOOTHNESS) -> float:
    """min{largest, sqrt(2 gap / (L K)) / sigma}, which balances the terms of a bound."""
    return min(largest, math.sqrt(2 * GAP / (SMOOTHNESS * updates)) / sigma)


def _rsg(updates: int, noise: str) -> Steps:
    return Steps(corollary_2_2(updates, noise_std=SIGMA / math.sqrt(WORKERS), **KNOWN))


def _byzantine_sgd(updates: int, noise: str) -> Steps:
    return Steps(descent(updates, SIGMA / math.sqrt(WORKERS), 1 / (2 * SMOOTHNESS)))


def _basgd(updates: int, noise: str) -> Steps:
    return Steps(1 / (SMOOTHNESS * math.sqrt(updates)))


def _sign_sgd(updates: int, noise: str) -> Steps:
    return Steps(math.sqrt(GAP / (SMOOTHNESS * DIM * updates)))


def _ef_sign_sgd(updates: int, noise: str) -> Steps:
    return Steps(1 / math.sqrt(updates + 1))


def _rsgf(updates: int, noise: str) -> Steps:
    return Steps(*corollary_3_3(updates, DIM, noise_std=SIGMA / math.sqrt(WORKERS), **KNOWN))


def _async_sgd(updates: int, noise: str) -> Steps:
    return Steps(descent(updates, SIGMA, 1 / (2 * SMOOTHNESS * (1 + STALENESS))))


def _async_zo_sgd(updates: int, noise: str) -> Steps:
    largest = 1 / (2 * SMOOTHNESS * DIM * (1 + STALENESS / math.sqrt(DIM)))
    delta = 1 / math.sqrt(DIM * updates)
    return Steps(descent(updates, SIGMA * math.sqrt(DIM), largest), delta)


def _zo_sign_sgd(updates: int, noise: str) -> Steps:
    return Steps(*[1 / math.sqrt(DIM * updates)] * 2)


def _random_directions(updates: int, noise: str) -> Steps:
    power, radius = (2 / 3, 1 / 6) if noise == "independent" else (1 / 2, 1 / 4)
    return Steps(min(1 / (SMOOTHNESS * DIM), updates**-power), updates**-radius)


def _cyber0(updates: int, noise: str) -> Steps:
    sigma = SIGMA * math.sqrt(DIM / WORKERS)
    return Steps(descent(updates, sigma, 1 / (2 * SMOOTHNESS * DIM)), 1 / math.sqrt(updates))


FIRST, COUPLED, INDEPENDENT = "first", "coupled", "independent"

TABLES: dict[int, tuple[Entry, ...]] = {
    1: (
        Entry("rsg", "Ghadimi and Lan, 2013, Thm. 2.1", False, False, {FIRST: 1 / 4}, _rsg),
        Entry(
            "byzantine_sgd",
            "Alistarh et al., 2018, Thm. 3.2",
            False,
            True,
            {FIRST: 1 / 4},
            _byzantine_sgd,
            # No gradient is further from its mean than six standard deviations.
            (("variance", 6 * SIGMA), ("radius", 12.0)),
        ),
        Entry(
            "basgd",
            "Yang and Li, 2023, Thm. 2",
            True,
            True,
            {FIRST: None},
            _basgd,
            (("buffers", 2 * BYZANTINE + 1),),
        ),
        Entry(
            "sign_sgd_mv",
            "Bernstein et al., 2019, Thm. 1",
            False,
            True,
            {FIRST: 1 / 4},
            _sign_sgd,
            (("momentum", 0.0),),
        ),
        Entry(
            "ef_sign_sgd",
            "Karimireddy et al., 2019, Thm. II",
            False,
            False,
            {FIRST: 1 / 4},
            _ef_sign_sgd,
        ),
        Entry("far_sign_first_order", "FAR-SIGN, Thm. 6", True, True, {FIRST: 1 / 4}, None),
    ),
    2: (
        Entry(
            "rsgf",
            "Ghadimi and Lan, 2013, Thm. 3.2",
            False,
            False,
            {COUPLED: 1 / 4, INDEPENDENT: None},
            _rsgf,
        ),
        Entry(
            "async_sgd", "Lian et al., 2016, Cor. 5", True, False, {FIRST: 1 / 4}, _async_sgd
        ),
        Entry(
            "async_zo_sgd",
            "Lian et al., 2016, Cor. 5",
            True,
            False,
            {COUPLED: 1 / 4, INDEPENDENT: None},
            _async_zo_sgd,
        ),
        Entry(
            "zo_sign_sgd",
            "Liu et al., 2019, Cor. 3",
            False,
            False,
            {COUPLED: 1 / 4, INDEPENDENT: None},
            _zo_sign_sgd,
        ),
        Entry(
            "rdsa",
            "Bhavsar and Prashanth, 2022, Thms. 1, 2",
            False,
            False,
            {COUPLED: 1 / 4, INDEPENDENT: 1 / 6},
            _random_directions,
            (("power", 0.0), ("delta_power", 0.0)),
        ),
        Entry(
            "spsa",
            "Bhavsar and Prashanth, 2022, Thms. 1, 2",
            False,
            False,
            {COUPLED: 1 / 4, INDEPENDENT: 1 / 6},
            _random_directions,
            (("power", 0.0), ("delta_power", 0.0)),
        ),
        Entry(
            "cyber0_rounds",
            "Egger et al., 2025, Thm. 5.7",
            False,
            True,
            {COUPLED: 1 / 4, INDEPENDENT: None},
            _cyber0,
        ),
        Entry(
            "far_sign",
            "FAR-SIGN, Thm. 8",
            True,
            True,
            {COUPLED: 1 / 4, INDEPENDENT: 1 / 6},
            None,
        ),
    ),
}
