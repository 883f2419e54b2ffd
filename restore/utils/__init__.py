"""Helpers that know nothing of image restoration."""
