"""Reads recordings of a run back into series."""
