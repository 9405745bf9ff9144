"""Adversary-robust, fully asynchronous optimisation in JAX."""

from farsign_jax import (
    aggregators,
    arrivals,
    attacks,
    datasets,
    directions,
    keys,
    metrics,
    models,
    oracles,
    partitions,
    preaggregators,
    problems,
    results,
    rows,
    schedules,
    simulate,
    sweeps,
)
from farsign_jax.base import (
    Attack,
    InvalidConfig,
    Problem,
    Query,
    Report,
    Server,
    System,
    View,
    Worker,
)
from farsign_jax.lockstep import Lockstep
from farsign_jax.methods import METHODS, Build, Feedback
from farsign_jax.servers.async_sgd import async_sgd
from farsign_jax.servers.buffered import buffered
from farsign_jax.servers.far_sign import far_sign

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Attack",
    "Build",
    "Feedback",
    "InvalidConfig",
    "Lockstep",
    "Problem",
    "Query",
    "Report",
    "Server",
    "System",
    "View",
    "Worker",
    "aggregators",
    "arrivals",
    "async_sgd",
    "attacks",
    "buffered",
    "datasets",
    "directions",
    "far_sign",
    "keys",
    "metrics",
    "models",
    "oracles",
    "partitions",
    "preaggregators",
    "problems",
    "results",
    "rows",
    "schedules",
    "simulate",
    "sweeps",
]
