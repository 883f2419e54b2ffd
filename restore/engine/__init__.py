"""Runs: the loop, its processes, what it leaves in its folder, and many of them as a sweep."""
