"""Experiments: one file per table or figure, `python -m experiments.NAME --help`."""
