"""What the router exists for: from a request to a fused answer."""
