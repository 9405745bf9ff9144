"""Methods: one file for each, with its rule, state, options and presets."""

from farsign_jax.methods.registry import (
    METHODS,
    NORMS,
    WEIGHTS,
    Hyper,
    Method,
    OracleConfig,
    SystemSpec,
    defaults_of,
    hyper_of,
    options_of,
)

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
