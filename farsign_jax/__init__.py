"""Adversary-robust, fully asynchronous optimisation in JAX."""

from farsign_jax import (
    aggregators,
    arrivals,
    attacks,
    data,
    directions,
    interop,
    keys,
    methods,
    models,
    oracles,
    problems,
    simulation,
    step_sizes,
    sweeps,
    theory,
)
from farsign_jax.base import Attack, Problem, Query, Report, Server, System, View, Worker
from farsign_jax.config.panel_config import PanelConfig
from farsign_jax.config.run_config import RunConfig, RunResult
from farsign_jax.interop.optax_adapter import optax_transform
from farsign_jax.methods import METHODS, OracleConfig, SystemSpec
from farsign_jax.methods.aflguard import aflguard
from farsign_jax.methods.async_sgd import async_sgd
from farsign_jax.methods.brsgd import brsgd
from farsign_jax.methods.buffered import buffered
from farsign_jax.methods.byzantine_sgd import byzantine_sgd
from farsign_jax.methods.cyber0_rounds import cyber0_rounds, with_local_steps
from farsign_jax.methods.draco import assigned_gradient, draco
from farsign_jax.methods.ef_sign_sgd import ef_sign_sgd, error_feedback_sign
from farsign_jax.methods.far_sign import far_sign
from farsign_jax.methods.fedbuff import fedbuff
from farsign_jax.methods.kardam import kardam
from farsign_jax.methods.online_mean import online_mean
from farsign_jax.methods.rsa import own_model, rsa
from farsign_jax.methods.rsg import rsg
from farsign_jax.methods.rsgf import rsgf
from farsign_jax.methods.sgd import sgd
from farsign_jax.methods.sign_sgd_mv import momentum_sign, sign_sgd
from farsign_jax.methods.zeno_pp import zeno_pp
from farsign_jax.methods.zo_sign_sgd import estimate_sign
from farsign_jax.sweeps.lockstep import Lockstep
from farsign_jax.validation import InvalidConfig

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Attack",
    "InvalidConfig",
    "Lockstep",
    "OracleConfig",
    "PanelConfig",
    "Problem",
    "Query",
    "Report",
    "RunConfig",
    "RunResult",
    "Server",
    "System",
    "SystemSpec",
    "View",
    "Worker",
    "aflguard",
    "aggregators",
    "arrivals",
    "assigned_gradient",
    "async_sgd",
    "attacks",
    "brsgd",
    "buffered",
    "byzantine_sgd",
    "cyber0_rounds",
    "data",
    "directions",
    "draco",
    "ef_sign_sgd",
    "error_feedback_sign",
    "estimate_sign",
    "far_sign",
    "fedbuff",
    "interop",
    "kardam",
    "keys",
    "methods",
    "models",
    "momentum_sign",
    "online_mean",
    "optax_transform",
    "oracles",
    "own_model",
    "problems",
    "rsa",
    "rsg",
    "rsgf",
    "sgd",
    "sign_sgd",
    "simulation",
    "step_sizes",
    "sweeps",
    "theory",
    "with_local_steps",
    "zeno_pp",
]
