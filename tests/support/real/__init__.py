"""Real weights and real speech, and how far transcripts are from each other."""
