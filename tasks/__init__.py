"""Tasks: how pictures become a problem, one file each."""
