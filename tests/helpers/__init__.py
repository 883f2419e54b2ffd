"""What several tests share: made-up pictures and weights, and plain formulations."""
