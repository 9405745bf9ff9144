"""Tools for testing the runtime: a cluster on one machine, and an adversarial client."""
