"""Reference Whisper on our checkpoints, and what it takes to compare with it.

``layers`` and ``transcripts`` compare, and need neither torch nor openai-whisper; the others do.
"""
