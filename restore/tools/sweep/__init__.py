"""Many runs from one command line: their folders, their states, and the devices they are dealt."""
