"""Settings that hold for every test."""

import os

# Several test processes share the cores (`make test`), and each starts others: one thread for each
# of them. It must be said before the first of them imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
