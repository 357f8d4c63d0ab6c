"""The command line: `capfilt …`."""
