"""Parts of `restore compare`: reading results of any method, measuring and showing them."""
