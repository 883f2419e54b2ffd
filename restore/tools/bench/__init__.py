"""Measurements of speed and memory, one file each, beside plain formulations."""
