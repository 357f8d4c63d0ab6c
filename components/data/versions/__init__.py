"""What one does with a dataset's versions: check them, compare them."""
