"""Where images come from and how they reach a system."""
