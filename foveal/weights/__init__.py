"""Weights of other publishers: one file a publisher, how its names map to ours."""
