"""Encoder outputs and logits of other runtimes."""
