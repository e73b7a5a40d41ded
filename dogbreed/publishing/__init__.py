"""Publishes image sets: checks, repairs and uploads images. `python -m launch.publish` is its command."""
