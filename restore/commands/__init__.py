"""What stands behind `restore COMMAND`: a module for each, whose `main` runs one composed job."""
