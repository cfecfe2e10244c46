"""Whisper speech recognition on NumPy and AMD XRT, as one static op graph."""
