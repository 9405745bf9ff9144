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
from farsign_jax.directions.unit_sphere import Sphere, normals, sphere, threefry

__all__ = [
    "DESIGNS",
    "Certificate",
    "Design",
    "Dictionary",
    "Sphere",
    "certify",
    "certify_array",
    "design",
    "identity",
    "matrix",
    "mixed",
    "normals",
    "sample_distinct",
    "seeded",
    "sphere",
    "threefry",
]
