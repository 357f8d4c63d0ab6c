"""Model folders and checkpoints: formats in and out, names of parameters, publishing in a store."""
