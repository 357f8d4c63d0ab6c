"""Measures models (captioning, retrieval) and datasets (noise), and reports the rounds side by side."""
