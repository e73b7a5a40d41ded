"""The console, and numbers and times as text."""

from __future__ import annotations

import math
import sys

from rich.console import Console

STYLES = {"Completed": "green", "Failed": "red", "Stopped": "yellow", "Stopping": "yellow", "InProgress": "cyan"}
"""Job status to its colour."""


def console(stderr: bool = False) -> Console:
    """Returns the console to print on: lines of 120 characters without colours if it is a file or a pipe.

    Markup and emoji codes are off, because paths and failure reasons may contain brackets and colons.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 120
    return Console(width=width, stderr=stderr, highlight=False, markup=False, emoji=False)


def brief(text: str) -> str:
    """Returns a value of the config; a number with four significant digits."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if number.is_integer() and "e" not in text.lower() else f"{number:.4g}"


def decimal(value: float | None) -> str:
    """Returns a metric with four decimals; `-` if there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def duration(seconds: float | None) -> str:
    """Returns `8 s`, `1:23` (minutes) or `2:05:00` (hours); `-` for None."""
    if seconds is None:
        return "-"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    minutes, rest = divmod(rounded, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def cost_bound(hours: float, price: float | None) -> str:
    """Returns an upper bound on instance-hours and cost: `12 instance-hours, 2.76 at 0.23 an hour`."""
    return f"{hours:g} instance-hours" + ("" if price is None else f", {hours * price:.2f} at {price:g} an hour")


def cost_line(hours: float, price: float | None) -> str:
    """Returns the billed instance-hours, and the cost if the price of one hour is known."""
    cost = "" if price is None else f", {hours * price:.2f} at {price:g} an hour"
    return f"billable: {hours:.2f} instance-hours{cost}"
