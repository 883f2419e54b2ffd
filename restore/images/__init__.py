"""Pictures as files and as tensors: reading, writing, resizing, crops, masks, tiles and sheets."""
