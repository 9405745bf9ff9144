"""Benchmarks: one timing question per file; `throughput` is the front door."""
