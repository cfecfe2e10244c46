"""Tokens to text and text to files: tokenizer, languages, subtitle writers."""
