"""The rows of the paper's Tables 1 and 2: methods, what the tables say of them, their steps.

The small problems have smoothness L, the distance `GAP` from the start to the lowest value, and
noise of standard deviation `SIGMA` in a gradient. Steps for runs of K updates are of the order
that the theorems have. Where a theorem has no constants, or they were not at hand, the factor
is that of `descent`, or 1.
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
OF_ROUND = SIGMA / math.sqrt(WORKERS)  # of the mean of a round
STALENESS = WORKERS - 1  # on average, with one open question per worker
EPS = 0.01  # of FAR-SIGN's sequences, by which its exponents are smaller
FIRST, COUPLED, INDEPENDENT = "first", "coupled", "independent"


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
        claimed: for each kind of noise the exponent of 1/K that is compared with the slope of
            the mean gradient norm, or None. In Table 1 it is 1/4 where the table says that the
            rate is optimal.
        steps: `(K, noise) -> Steps`; None for FAR-SIGN, whose sequences are those of its
            theorems.
        step_size: the initial step size on the digits, of eight the one with the highest mean
            accuracy over all attacks; `experiments.tune` chose it (prior-art-steps.md).
        note: what the theorem needs, or bounds, that differs from the runs.
        options: of the method on the small problems.
        answers: the average number of answers per update.
    """

    method: str
    reference: str
    asynchronous: bool
    resilient: bool
    claimed: dict[str, float | None]
    steps: Callable[[int, str], Steps] | None
    step_size: float
    note: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    answers: float = 1.0


def descent(updates: int, sigma: float, largest: float = 1 / SMOOTHNESS) -> float:
    """min{largest, sqrt(2 gap / (L K)) / sigma}, which balances the terms of a bound."""
    return min(largest, math.sqrt(2 * GAP / (SMOOTHNESS * updates)) / sigma)


def _rsg(updates: int, noise: str) -> Steps:
    return Steps(corollary_2_2(updates, noise_std=OF_ROUND, **KNOWN))


def _byzantine_sgd(updates: int, noise: str) -> Steps:
    return Steps(descent(updates, OF_ROUND, 1 / (2 * SMOOTHNESS)))


def _basgd(updates: int, noise: str) -> Steps:
    return Steps(1 / (SMOOTHNESS * math.sqrt(updates)))


def _sign_sgd(updates: int, noise: str) -> Steps:
    return Steps(math.sqrt(GAP / (SMOOTHNESS * DIM * updates)))


def _ef_sign_sgd(updates: int, noise: str) -> Steps:
    return Steps(1 / math.sqrt(updates + 1))


def _rsgf(updates: int, noise: str) -> Steps:
    return Steps(*corollary_3_3(updates, DIM, noise_std=OF_ROUND, **KNOWN))


def _async_sgd(updates: int, noise: str) -> Steps:
    return Steps(descent(updates, SIGMA, 1 / (2 * SMOOTHNESS * (1 + STALENESS))))


def _async_zo_sgd(updates: int, noise: str) -> Steps:
    largest = 1 / (2 * SMOOTHNESS * DIM * (1 + STALENESS / math.sqrt(DIM)))
    delta = 1 / math.sqrt(DIM * updates)
    return Steps(descent(updates, SIGMA * math.sqrt(DIM), largest), delta)


def _zo_sign_sgd(updates: int, noise: str) -> Steps:
    return Steps(*[1 / math.sqrt(DIM * updates)] * 2)


def _random_directions(updates: int, noise: str) -> Steps:
    power, radius = (2 / 3, 1 / 6) if noise == INDEPENDENT else (1 / 2, 1 / 4)
    return Steps(min(1 / (SMOOTHNESS * DIM), updates**-power), updates**-radius)


def _cyber0(updates: int, noise: str) -> Steps:
    sigma = OF_ROUND * math.sqrt(DIM)
    return Steps(descent(updates, sigma, 1 / (2 * SMOOTHNESS * DIM)), 1 / math.sqrt(updates))


_COUPLED_ONLY: dict[str, float | None] = {COUPLED: 1 / 4, INDEPENDENT: None}
_BOTH: dict[str, float | None] = {COUPLED: 1 / 4, INDEPENDENT: 1 / 6}
_LIAN, _BHAVSAR = "Lian et al., 2016, Cor. 5", "Bhavsar and Prashanth, 2022, Thms. 1, 2"
_CONSTANT = (("power", 0.0), ("delta_power", 0.0))

TABLES: dict[int, tuple[Entry, ...]] = {
    1: (
        Entry(
            "rsg",
            "Ghadimi and Lan, 2013, Thm. 2.1",
            False,
            False,
            {FIRST: 1 / 4},
            _rsg,
            0.25,
            answers=WORKERS,
        ),
        Entry(
            "byzantine_sgd",
            "Alistarh et al., 2018, Thm. 3.2",
            False,
            True,
            {FIRST: 1 / 4},
            _byzantine_sgd,
            0.5,
            "bounds the values of convex functions",
            # The noise of no example is longer than 4.03.
            (("variance", 4.1), ("radius", 12.0)),
            WORKERS,
        ),
        Entry(
            "basgd",
            "Yang and Li, 2023, Thm. 2",
            True,
            True,
            {FIRST: None},
            _basgd,
            0.4,
            "the table's mark is lost",
            (("buffers", 2 * BYZANTINE + 1),),
            # Until each of three buffers has an answer, of two, two and one of five workers.
            1 + 2 * 5 / 2 + 5 - 5 / 4 - 2 * 5 / 3,
        ),
        Entry(
            "sign_sgd_mv",
            "Bernstein et al., 2019, Thm. 1",
            False,
            True,
            {FIRST: 1 / 4},
            _sign_sgd,
            0.0025,
            "needs unimodal, symmetric noise",
            (("momentum", 0.0),),
            WORKERS,
        ),
        Entry(
            "ef_sign_sgd",
            "Karimireddy et al., 2019, Thm. II",
            False,
            False,
            {FIRST: 1 / 4},
            _ef_sign_sgd,
            0.25,
            "is about one worker",
            answers=WORKERS,
        ),
        Entry(
            "far_sign_first_order",
            "FAR-SIGN, Thm. 6",
            True,
            True,
            {FIRST: 1 / 4 - EPS},
            None,
            0.035,
        ),
    ),
    2: (
        Entry(
            "rsgf",
            "Ghadimi and Lan, 2013, Thm. 3.2",
            False,
            False,
            _COUPLED_ONLY,
            _rsgf,
            0.05,
            "is about one direction a step",
            answers=WORKERS,
        ),
        Entry("async_sgd", _LIAN, True, False, {FIRST: 1 / 4}, _async_sgd, 0.025),
        Entry("async_zo_sgd", _LIAN, True, False, _COUPLED_ONLY, _async_zo_sgd, 0.005),
        Entry(
            "zo_sign_sgd",
            "Liu et al., 2019, Cor. 3",
            False,
            False,
            _COUPLED_ONLY,
            _zo_sign_sgd,
            0.005,
            "needs mini-batches that grow with K",
            answers=WORKERS,
        ),
        Entry(
            "rdsa",
            _BHAVSAR,
            False,
            False,
            _BOTH,
            _random_directions,
            0.5,
            options=_CONSTANT,
            answers=WORKERS,
        ),
        Entry(
            "spsa",
            _BHAVSAR,
            False,
            False,
            _BOTH,
            _random_directions,
            0.5,
            options=_CONSTANT,
            answers=WORKERS,
        ),
        Entry(
            "cyber0_rounds",
            "Egger et al., 2025, Thm. 5.7",
            False,
            True,
            _COUPLED_ONLY,
            _cyber0,
            0.22,
            answers=WORKERS,
        ),
        Entry(
            "far_sign",
            "FAR-SIGN, Thm. 8",
            True,
            True,
            {COUPLED: 1 / 4 - EPS, INDEPENDENT: 1 / 6 - EPS},
            None,
            0.035,
        ),
    ),
}
