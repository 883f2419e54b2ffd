"""Between a data set and a batch: degradations, noise, kinds of references, loading.

A degradation makes the low picture, a kind of reference stands in for the data set's own, and the
loader hands out crops and batches that are a function of the seed and their place alone.
"""
