"""What stands behind the commands around training: bench, compare, report, prepare, export, sweep.

A folder for each; the settings and the order of work are in `restore.commands`.
"""
