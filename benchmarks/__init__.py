"""Benchmarks: each file measures one thing. Start with `benchmarks.throughput`."""
