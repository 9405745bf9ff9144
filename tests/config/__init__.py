"""Tests of `farsign_jax.config`."""
