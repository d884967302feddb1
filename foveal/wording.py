"""Counts and times as words for a person."""


def counted(count: int, noun: str, several: str = "") -> str:
    """1 class, 2 classes: a count with its noun. several: the plural, where it is not the noun and an s."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def duration(seconds: float) -> str:
    """1 h 2 min, 3 min 4 s, 5.6 s, 35 ms or 0.35 ms."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    if seconds >= 59.95:  # else it would be shown as 60.0 s
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60} s" if whole < 3600 else "1 h 0 min"
    if seconds >= 0.9995:
        return f"{seconds:.1f} s"
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f} ms" if milliseconds >= 9.995 else f"{milliseconds:.2g} ms"
