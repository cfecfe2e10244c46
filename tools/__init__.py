"""What developers run again and again, from the root of a checkout: python -m tools.NAME."""
