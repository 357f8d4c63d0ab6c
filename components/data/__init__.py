"""Image-text pairs: import, shards, manifests, decoding, augmentation and the resumable loader."""
