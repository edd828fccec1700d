"""The four pages: components and wiring, and no work."""
