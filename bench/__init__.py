"""Reproducible benchmarks: `make bench`. Never part of the tests."""
