"""Measurements of dogbreed beside its peers; nothing of it is installed."""
