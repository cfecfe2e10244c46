"""Backends: NumPy, kernels for this CPU, and the NPU."""
