"""The version of the package, for whatever says who made it."""

__version__ = "0.1.0"
