"""Problems, which define the objective, and the metrics of their solutions."""

from farsign_jax.problems.supervised import classification, cross_entropy
from farsign_jax.problems.synthetic import (
    NOISES,
    bowl,
    crossed_waves,
    kinked_bowl,
    own_quadratics,
    quadratic,
    ripples,
    smooth,
    valley,
    waves,
)

__all__ = [
    "NOISES",
    "bowl",
    "classification",
    "cross_entropy",
    "crossed_waves",
    "kinked_bowl",
    "own_quadratics",
    "quadratic",
    "ripples",
    "smooth",
    "valley",
    "waves",
]
