"""Requests as pure data: no client, no clock, no working directory."""
