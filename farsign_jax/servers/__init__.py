"""Servers, one algorithm per file: docstring with the rule, state, factory, nothing else."""
