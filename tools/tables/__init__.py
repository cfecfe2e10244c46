"""The tables of the documents: a module for each, whose ``lines()`` makes it as Markdown."""
