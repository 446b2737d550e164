"""The router: one OpenAI-compatible endpoint in front of a panel of models."""
