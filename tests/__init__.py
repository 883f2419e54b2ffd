"""Tests, in the folders of what they test."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
# Pictures and weights beside a checkout, where somebody has put them; nothing depends on them.
SHARED = ROOT.parent / "shared"
