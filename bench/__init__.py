"""Benchmarks: what a reader can run to reproduce the figures of the documentation."""
