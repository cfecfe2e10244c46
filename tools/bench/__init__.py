"""Whisper runtimes behind one protocol, and the benchmark that lets them take turns."""
