"""The HTML report of a run, and exporters of its findings."""
