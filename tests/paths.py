"""Folders that the tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

SHARED = ROOT.parent / "shared"
"""Real images and weights next to the checkout; CI has them, a user does not."""
