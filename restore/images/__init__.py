"""Pictures: their files, pieces of them, holes in them, and sheets of several."""
