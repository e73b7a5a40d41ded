"""Tuning jobs on this machine: search, pruning, trials."""
