"""What is done once to raw data, so that training only reads: see `restore.commands.prepare`."""
