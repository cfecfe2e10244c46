"""Kernels, xclbins and instruction streams that tests make."""
