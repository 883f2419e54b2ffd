"""Networks and their weights: backbones, attention, discriminators, bundled and published files."""
