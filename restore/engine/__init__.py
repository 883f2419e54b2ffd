"""The training engine: the loop, its processes and signals, and what it leaves in a run folder."""
