"""Measures the engine: many recordings at once, steps of several windows, one short recording."""
