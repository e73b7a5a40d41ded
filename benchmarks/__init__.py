"""Benchmarks of dogbreed against its peers; not installed."""
