"""Adversary-robust, fully asynchronous optimisation in JAX."""

from farsign_jax import (
    aggregators,
    arrivals,
    attacks,
    datasets,
    directions,
    interop,
    keys,
    metrics,
    models,
    oracles,
    partitions,
    preaggregators,
    problems,
    resilience,
    results,
    rows,
    schedules,
    services,
    simulate,
    sweeps,
    theory,
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
from farsign_jax.servers.aflguard import aflguard
from farsign_jax.servers.async_sgd import async_sgd
from farsign_jax.servers.brsgd import brsgd
from farsign_jax.servers.buffered import buffered
from farsign_jax.servers.ef_sign_sgd import ef_sign_sgd, error_feedback_sign
from farsign_jax.servers.far_sign import far_sign
from farsign_jax.servers.fedbuff import fedbuff
from farsign_jax.servers.kardam import kardam
from farsign_jax.servers.online_mean import online_mean
from farsign_jax.servers.rsa import own_model, rsa
from farsign_jax.servers.sgd import sgd
from farsign_jax.servers.sign_sgd import momentum_sign, sign_sgd
from farsign_jax.servers.zeno_pp import zeno_pp
from farsign_jax.transform import optax_transform

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
    "aflguard",
    "aggregators",
    "arrivals",
    "async_sgd",
    "attacks",
    "brsgd",
    "buffered",
    "datasets",
    "directions",
    "ef_sign_sgd",
    "error_feedback_sign",
    "far_sign",
    "fedbuff",
    "interop",
    "kardam",
    "keys",
    "metrics",
    "models",
    "momentum_sign",
    "online_mean",
    "optax_transform",
    "oracles",
    "own_model",
    "partitions",
    "preaggregators",
    "problems",
    "resilience",
    "results",
    "rows",
    "rsa",
    "schedules",
    "services",
    "sgd",
    "sign_sgd",
    "simulate",
    "sweeps",
    "theory",
    "zeno_pp",
]
