"""Critics: networks that tell real pictures N3HW in [0, 1] from restored ones, by logits."""
