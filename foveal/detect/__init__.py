"""Systems that find objects: a box, a class and a confidence for each. One system a file."""
