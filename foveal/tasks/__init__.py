"""Kinds of answers, one file a target type; foveal/task.py has what each of them gives."""
