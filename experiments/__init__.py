"""Experiments: one command per table or figure; see `python -m experiments.NAME --help`."""
