"""Runs captioners and filters on images: device, precision, batches that halve where memory runs out."""
