"""From a profile to the manifests of its children: pure functions, no clock, no network."""
