"""Problems, which define the objective, and the metrics of their solutions."""

from farsign_jax.problems.subspace import (
    SubspaceModel,
    in_subspace,
    parse_subspace,
    subspace_model,
)
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
    "SubspaceModel",
    "bowl",
    "classification",
    "cross_entropy",
    "crossed_waves",
    "in_subspace",
    "kinked_bowl",
    "own_quadratics",
    "parse_subspace",
    "quadratic",
    "ripples",
    "smooth",
    "subspace_model",
    "valley",
    "waves",
]
