"""`python -m restore`, the same as `restore`."""

import sys

from restore.cli import main

sys.exit(main())
