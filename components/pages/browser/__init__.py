"""The dataset browser: a page on loopback over the candidate tables of a dataset version, or of two. The web's home."""
