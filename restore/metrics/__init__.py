"""Image quality measures and the named protocols that papers report."""
