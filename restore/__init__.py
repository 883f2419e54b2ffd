"""restore: image restoration with and without references."""

from restore.version import __version__ as __version__
