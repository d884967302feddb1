"""Systems that name what an image shows. One system a file."""
