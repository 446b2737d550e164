"""The API as code: what a MoAProfile is, what it may say, and the CustomResourceDefinition that follows from it."""
