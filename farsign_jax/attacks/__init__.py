"""Attacks: what Byzantine workers send instead of honest messages, and when they send it."""

from farsign_jax.attacks.messages import (
    constant,
    gaussian,
    none,
    nonfinite,
    random_disturbance,
    sign_flip,
)
from farsign_jax.attacks.omniscient import alie, alie_z, ipm, mimic, replay
from farsign_jax.attacks.poisoning import backdoor, label_flip
from farsign_jax.attacks.registry import ATTACKS, SPACES, byzantine_mask, make, parse

__all__ = [
    "ATTACKS",
    "SPACES",
    "alie",
    "alie_z",
    "backdoor",
    "byzantine_mask",
    "constant",
    "gaussian",
    "ipm",
    "label_flip",
    "make",
    "mimic",
    "none",
    "nonfinite",
    "parse",
    "random_disturbance",
    "replay",
    "sign_flip",
]
