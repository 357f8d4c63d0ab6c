"""BLIP's CapFilt as a system: the command line, and soon the Python API."""
