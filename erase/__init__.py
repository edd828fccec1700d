"""Erase a concept from a text-to-image model, and show what that did."""

__version__ = "0.1.0"
