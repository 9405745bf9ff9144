"""Attacks: what Byzantine workers send instead of honest messages, and when they send it."""

from farsign_jax.attacks.alie import alie, alie_z, drift, hybrid_sparse, trapsetter
from farsign_jax.attacks.distances import min_max, min_sum
from farsign_jax.attacks.messages import (
    constant,
    gaussian,
    none,
    nonfinite,
    random_disturbance,
    sign_flip,
)
from farsign_jax.attacks.omniscient import ipm, mimic, oracle_flip, replay
from farsign_jax.attacks.poisoning import backdoor, label_flip, targeted
from farsign_jax.attacks.registry import (
    ATTACKS,
    SPACES,
    byzantine_mask,
    make,
    parameters,
    parse,
    split_roles,
)
from farsign_jax.attacks.searching import fall_of_empires, inner_max

__all__ = [
    "ATTACKS",
    "SPACES",
    "alie",
    "alie_z",
    "backdoor",
    "byzantine_mask",
    "constant",
    "drift",
    "fall_of_empires",
    "gaussian",
    "hybrid_sparse",
    "inner_max",
    "ipm",
    "label_flip",
    "make",
    "mimic",
    "min_max",
    "min_sum",
    "none",
    "nonfinite",
    "oracle_flip",
    "parameters",
    "parse",
    "random_disturbance",
    "replay",
    "sign_flip",
    "split_roles",
    "targeted",
    "trapsetter",
]
