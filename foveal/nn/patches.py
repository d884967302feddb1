"""Images cut into square patches, one beside the other."""

from math import isqrt

from foveal.errors import InputError


def patch_grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches of `patch` x `patch` pixels in an image of `size` (height, width).

    Raises InputError where they do not fill it.
    """
    below = [side // patch * patch for side in size]
    above = [-(-side // patch) * patch for side in size]
    if below != above:
        near = [f"{height} x {width}" for height, width in (below, above) if min(height, width) > 0]
        raise InputError(
            f"images of {size[0]} x {size[1]} pixels cannot be cut into patches of {patch} x {patch}; "
            f"set image_size to {' or '.join(near)}"
        )
    return size[0] // patch, size[1] // patch


def other_side(count: int, grid: tuple[int, int]) -> int | None:
    """The side of a square of so many patches; None where they are no square, or as many as the grid has."""
    side = isqrt(max(0, count))
    return side if side * side == count != grid[0] * grid[1] else None
