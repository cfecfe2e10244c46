"""Files: their bytes within bounds, files as a whole, and those that come with the package."""
