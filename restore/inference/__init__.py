"""Trained networks at work: restoring one picture of any size, or a split that is measured.

Methods that fill holes without learning are here too, beside the networks they are compared with.
"""
