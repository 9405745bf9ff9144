"""Attacks: what Byzantine workers send instead of honest messages, and when they send it."""

from farsign_jax.attacks.messages import (
    alie,
    alie_z,
    constant,
    gaussian,
    ipm,
    mimic,
    none,
    nonfinite,
    replay,
    sign_flip,
)
from farsign_jax.attacks.registry import ATTACKS, SPACES, byzantine_mask, make, parse

__all__ = [
    "ATTACKS",
    "SPACES",
    "alie",
    "alie_z",
    "byzantine_mask",
    "constant",
    "gaussian",
    "ipm",
    "make",
    "mimic",
    "none",
    "nonfinite",
    "parse",
    "replay",
    "sign_flip",
]
