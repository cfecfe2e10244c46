"""Readers of xclbins and instruction streams, and a writer of streams."""
