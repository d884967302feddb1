"""Which split an image belongs to, where no folder or column says it: its content alone decides.

So copies of an image never stand on both sides, the split is the same on every machine, and new images move no old one.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from foveal.data.dataset import SPLITS, ImageFiles, Images
from foveal.errors import InputError

TEST_SHARE, VAL_SHARE = 0.2, 0.1
UNSPLIT = -1


def content_position(content: bytes) -> float:
    """A number in [0, 1) that depends on the content alone, spread evenly."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) / 2**64


def split_by_content(images: Images, which: Iterable[int], *, test: bool) -> np.ndarray:
    """(len(which),) codes of SPLITS: test (if asked for), val and train by each image's position in [0, 1).

    Sets so small that a split came out empty give it the image nearest to its share.
    """
    which = list(which)
    positions = np.fromiter((content_position(images.content(int(index))) for index in which), np.float64)
    distinct = np.unique(positions)
    shares = [("test", TEST_SHARE)] * test + [("val", VAL_SHARE)]
    if len(distinct) <= len(shares) and isinstance(images, ImageFiles):  # large files that differ between their samples
        positions = np.fromiter((content_position(images.digest(int(index))) for index in which), np.float64)
        distinct = np.unique(positions)
    if len(distinct) <= len(shares):
        raise InputError(f"{len(distinct)} different images are too few to split into train and {shares[0][0]} parts")
    codes = np.full(len(positions), SPLITS.index("train"), np.int8)
    start, taken = 0.0, 0
    for number, (split, share) in enumerate(shares):
        left = len(distinct) - (len(shares) - number)  # at least one for each split that follows, train among them
        end = int(np.clip(np.searchsorted(distinct, start + share), taken + 1, left))
        codes[np.isin(positions, distinct[taken:end])] = SPLITS.index(split)
        start, taken = start + share, end
    return codes


def complete_splits(source: str, images: Images, splits: np.ndarray) -> np.ndarray:
    """(N,) codes of SPLITS: those given, or by content where they are UNSPLIT. Where there are images for training and
    none for validation, the former give some."""
    splits, train = splits.copy(), SPLITS.index("train")
    try:
        if UNSPLIT in splits:
            return split_by_content(images, range(len(images)), test=True)
        if train in splits and SPLITS.index("val") not in splits:
            which = np.flatnonzero(splits == train)
            splits[which] = split_by_content(images, which, test=False)
    except OSError as error:
        raise InputError(f"{source}: cannot read {error.filename}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return splits
