"""Measuring: callables in, numbers out. Nothing here knows of plans."""
