"""Methods: one file for each, with its rule, state, options and presets."""

from farsign_jax.methods.method import Hyper, Method, OracleConfig
from farsign_jax.methods.registry import (
    METHODS,
    NORMS,
    WEIGHTS,
    defaults_of,
    hyper_of,
    options_of,
)
from farsign_jax.methods.system_spec import SystemSpec

__all__ = [
    "METHODS",
    "NORMS",
    "WEIGHTS",
    "Hyper",
    "Method",
    "OracleConfig",
    "SystemSpec",
    "defaults_of",
    "hyper_of",
    "options_of",
]
