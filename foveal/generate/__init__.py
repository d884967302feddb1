"""Systems that make images, one a file."""
