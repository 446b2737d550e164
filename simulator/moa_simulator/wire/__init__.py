"""HTTP/1.1, as much of it as a model server speaks."""
