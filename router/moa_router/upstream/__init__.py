"""What the router speaks to."""
