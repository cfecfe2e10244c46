"""Reference Whisper on our checkpoints, and what it takes to compare with it.

Modules that need torch and openai-whisper: ``adapter``, ``capture``, ``sampling``.
"""
