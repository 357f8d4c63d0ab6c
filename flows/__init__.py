"""Orchestration: the loop, its stages, and the command line. The only place that imports prefect."""
