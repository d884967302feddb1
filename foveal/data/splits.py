"""The split of each image where no folder or column names it: the image's content and its classes decide.

Each class gives a fifth of its images to test and a tenth to val, those with the lowest hashes of their content. So
copies of an image are in one split, and the split is the same on every machine. An image added later moves at most the
few images of its classes whose hashes lie next to a boundary.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from foveal.data.dataset import SPLITS, Drawn, ImageFiles, Images
from foveal.errors import InputError

TEST_SHARE, VAL_SHARE = 0.2, 0.1
UNSPLIT = -1
TRAIN = SPLITS.index("train")

Shares = Sequence[tuple[str, float]]
Shown = tuple[np.ndarray, np.ndarray]  # (P,) image and (P,) class: which image shows which class


def content_position(content: bytes) -> float:
    """A number in [0, 1) that depends on the content alone, spread evenly."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) / 2**64


def split_by_content(images: Images, which: Iterable[int], *, test: bool) -> np.ndarray:
    """(len(which),) codes of SPLITS: test (if wanted), val and train by each image's position in [0, 1), classes aside.

    Of few images each split has at least one. Raises InputError for fewer different images than splits.
    """
    shares = _shares(test)
    return _by_content(_positions(images, which, len(shares)), shares)


def draw_splits(images: Images, which: Iterable[int], shown: Shown | None, *, test: bool) -> tuple[np.ndarray, Drawn]:
    """(len(which),) codes of SPLITS, and how they were drawn: stratified by class, or by content alone without classes.

    shown: the classes of each image, by its place in `which`. test: whether a test split is drawn besides val.
    Raises InputError for fewer different images than splits.
    """
    shares = _shares(test)
    positions = _positions(images, which, len(shares))
    older = _by_content(positions, shares)
    digest = hashlib.blake2b(np.unique(positions).tobytes(), digest_size=16).hexdigest()
    names = tuple(name for name, _ in shares) + ("train",) * test
    if shown is None:
        return older, Drawn(names, digest, "content", older)
    return _by_class(positions, shown, shares), Drawn(names, digest, "class", older)


def complete_splits(source: str, images: Images, splits: np.ndarray, shown: Shown) -> tuple[np.ndarray, Drawn | None]:
    """(N,) codes of SPLITS, and how they were drawn where the data does not name them: all of them where some are
    UNSPLIT; val, from the training images, where only that is missing."""
    try:
        if UNSPLIT in splits:
            return draw_splits(images, range(len(images)), shown, test=True)
        if TRAIN in splits and SPLITS.index("val") not in splits:
            place = np.cumsum(splits == TRAIN) - 1
            own = splits[shown[0]] == TRAIN
            inner = place[shown[0][own]], shown[1][own]
            part, drawn = draw_splits(images, np.flatnonzero(splits == TRAIN), inner, test=False)
            whole = [splits.copy(), splits.copy()]
            for codes, values in zip(whole, (part, drawn.older), strict=True):
                codes[splits == TRAIN] = values
            return whole[0], Drawn(drawn.splits, drawn.digest, drawn.rule, whole[1])
    except OSError as error:
        raise InputError(f"{source}: cannot read {error.filename}: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return splits.copy(), None


def absent_notes(counts: dict[str, dict[str, int]], what: str, most: int = 10) -> list[str]:
    """Which classes a split lacks, from split -> class -> count; `what` is counted. Of a class that no split has, only
    its lack of training images is noted."""
    notes = []
    for split, word in (("train", "training"), ("val", "validation"), ("test", "test")):
        own = counts.get(split, {})
        missing = [label for label, count in own.items() if not count]
        if split != "train":
            missing = [label for label in missing if any(other[label] for other in counts.values())]
        notes += [f"class {label} has no {word} {what}" for label in missing[:most]]
        if len(missing) > most:
            notes.append(f"{len(missing) - most} more classes have no {word} {what}")
    return notes


def _shares(test: bool) -> Shares:
    return [("test", TEST_SHARE)] * test + [("val", VAL_SHARE)]


def _positions(images: Images, which: Iterable[int], shares: int) -> np.ndarray:
    """(len(which),) the position of each image; raises InputError where fewer than shares + 1 differ."""
    which = list(which)
    positions = np.fromiter((content_position(images.content(int(index))) for index in which), np.float64)
    if len(np.unique(positions)) <= shares and isinstance(images, ImageFiles):
        # Large files that differ between the samples of their content.
        positions = np.fromiter((content_position(images.digest(int(index))) for index in which), np.float64)
    if (count := len(np.unique(positions))) <= shares:
        first = "test" if shares > 1 else "val"
        raise InputError(f"{count} different images are too few to split into train and {first} parts")
    return positions


def _by_content(positions: np.ndarray, shares: Shares) -> np.ndarray:
    """(N,) codes of SPLITS by position alone, as all splits were drawn before there were strata."""
    distinct = np.unique(positions)
    codes = np.full(len(positions), TRAIN, np.int8)
    start, taken = 0.0, 0
    for number, (split, share) in enumerate(shares):
        left = len(distinct) - (len(shares) - number)  # at least one for each split that follows, train among them
        end = int(np.clip(np.searchsorted(distinct, start + share), taken + 1, left))
        codes[np.isin(positions, distinct[taken:end])] = SPLITS.index(split)
        start, taken = start + share, end
    return codes


def _by_class(positions: np.ndarray, shown: Shown, shares: Shares) -> np.ndarray:
    """(N,) codes of SPLITS. Rare classes choose first, so that they reach each split where they can; an image of
    several classes counts for each of them (after Sechidis et al. 2011, "On the Stratification of Multi-label Data").
    """
    distinct, group = np.unique(positions, return_inverse=True)  # copies are one group, and groups are in order
    pairs = np.unique(np.stack([shown[1], group[shown[0]]], 1), axis=0)  # class, group
    classes, first = np.unique(pairs[:, 0], return_index=True)
    strata = np.split(pairs[:, 1], first[1:]) if len(classes) else []
    codes = np.full(len(distinct), UNSPLIT, np.int8)
    for members in sorted(strata, key=len):
        _take(codes, members, _quotas(members, distinct, shares), shares)
    bare = np.flatnonzero(codes == UNSPLIT)  # images that show no class
    _take(codes, bare, [int(share * len(bare) + 0.5) for _, share in shares], shares)
    for split, _ in shares:
        if SPLITS.index(split) not in codes:
            codes[_spare(codes, pairs)] = SPLITS.index(split)
    return codes[group]


def _quotas(members: np.ndarray, distinct: np.ndarray, shares: Shares) -> list[int]:
    """How many images of a class each share gets: at least one, where one is left for train."""
    count = len(members)
    if count > len(shares):
        return [max(1, int(share * count + 0.5)) for _, share in shares]
    if count == 1:
        return [0] * len(shares)
    # Two images: one for train, and digits of the first one's position draw the split of the other.
    lot = distinct[members[0]] * 2**20 % 1 < TEST_SHARE / (TEST_SHARE + VAL_SHARE)
    return [int(lot), int(not lot)]


def _take(codes: np.ndarray, members: np.ndarray, quotas: Sequence[int], shares: Shares) -> None:
    """Give the free members of a class to splits, in the order of their positions; those that have a split count."""
    free = members[codes[members] == UNSPLIT]
    spare = len(free) - (TRAIN not in codes[members])
    start = 0
    for (split, _), quota in zip(shares, quotas, strict=True):
        have = int((codes[members] == SPLITS.index(split)).sum())
        count = max(0, min(quota - have, spare - start))
        codes[free[start : start + count]] = SPLITS.index(split)
        start += count
    codes[free[start:]] = TRAIN


def _spare(codes: np.ndarray, pairs: np.ndarray) -> int:
    """The group that an empty split gets: the first one of a split with several, if possible none that is the only
    training image of a class."""
    sizes = np.bincount(codes, minlength=len(SPLITS))
    training = pairs[codes[pairs[:, 1]] == TRAIN]
    often = np.bincount(training[:, 0], minlength=1)
    alone = np.zeros(len(codes), bool)
    alone[training[often[training[:, 0]] == 1, 1]] = True
    groups = np.flatnonzero(sizes[codes] > 1)
    return int(groups[np.argsort(alone[groups], kind="stable")[0]])
