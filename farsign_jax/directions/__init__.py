"""Directions along which a server asks for derivatives, and their margin."""

from farsign_jax.directions.designs import DESIGNS, Design, design
from farsign_jax.directions.dictionary import (
    Dictionary,
    identity,
    matrix,
    mixed,
    sample_distinct,
    seeded,
)
from farsign_jax.directions.margin import Certificate, certify, certify_array
from farsign_jax.directions.random_directions import (
    DISTRIBUTIONS,
    RandomDirections,
    normals,
    random_directions,
    sphere,
    threefry,
)

__all__ = [
    "DESIGNS",
    "DISTRIBUTIONS",
    "Certificate",
    "Design",
    "Dictionary",
    "RandomDirections",
    "certify",
    "certify_array",
    "design",
    "identity",
    "matrix",
    "mixed",
    "normals",
    "random_directions",
    "sample_distinct",
    "seeded",
    "sphere",
    "threefry",
]
