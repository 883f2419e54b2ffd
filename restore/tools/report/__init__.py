"""`restore report`: what runs and evaluations left behind, on one page."""
