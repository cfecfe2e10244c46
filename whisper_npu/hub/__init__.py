"""Models from the Hugging Face hub: their names, their download, and the cache they are kept in."""
