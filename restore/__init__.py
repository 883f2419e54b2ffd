"""restore: image restoration with and without references."""
