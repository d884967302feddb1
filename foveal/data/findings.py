"""What can be wrong with images and splits, whatever the task: the part that all checks of data share."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields

import numpy as np

from foveal.data.dataset import SPLITS, Dataset, ImageFiles
from foveal.data.files import Complaints
from foveal.data.image import ImageError, Traits, image_traits
from foveal.data.splits import content_position
from foveal.data.suspects import Suspect
from foveal.data.traits import traits_notes
from foveal.progress import SILENT, Silent
from foveal.system import resize

IMPLAUSIBLE = "implausible label"  # the title of a group of faults
THUMBNAIL = 16  # pixels a side of what images are compared by
NEAR = 3.0  # mean difference of two thumbnails, of 255, up to which one image is a near copy of the other
FLAT = 2.0  # standard deviation of a thumbnail below which it shows nothing to compare
RARE = 20  # times as many images as have a mode make it odd
ODD = 5.0  # times as long as wide, or as the median image is, from which a size is odd


@dataclass(frozen=True)
class Findings:
    """What a check found; all that is empty is well. Each task adds groups of its own.

    A field with a title is a group of faults: lines, or groups of names, or name -> what of it.

    counts:      split -> class -> how many there are of it.
    layout:      what is wrong with folders, files and rows, whose images are in none of the others.
    unreadable:  name -> reason.
    leaks:       groups of names with one content in several splits.
    near_copies: pairs of names that look alike and stand in different splits.
    odd_sizes:   name -> what is odd.
    odd_modes:   name -> what its pixels are, where few are so; no fault, since all become plain colour.
    notes:       what concerns the whole.
    suspects:    the labels that are probably wrong, most probably first; a group of each task lists them as faults.
    """

    counts: dict[str, dict[str, int]]
    layout: list[str] = field(default_factory=list, metadata={"title": "folders, files and rows"})
    unreadable: dict[str, str] = field(default_factory=dict, metadata={"title": "cannot be read"})
    leaks: list[list[str]] = field(default_factory=list, metadata={"title": "one image, several splits"})
    near_copies: list[list[str]] = field(default_factory=list, metadata={"title": "almost one image, several splits"})
    odd_sizes: dict[str, str] = field(default_factory=dict, metadata={"title": "odd size"})
    odd_modes: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)

    def groups(self) -> Iterator[tuple[str, list[str]]]:
        """Title and lines of each group of faults."""
        for one in fields(self):
            if "title" in one.metadata:
                found = getattr(self, one.name)
                if isinstance(found, dict):
                    lines = [what if name in what else f"{name}: {what}" for name, what in found.items()]
                else:
                    lines = [item if isinstance(item, str) else ", ".join(item) for item in found]
                yield one.metadata["title"], lines

    @property
    def faults(self) -> int:
        """How many things need a look; counts and notes are none."""
        return sum(len(lines) for _, lines in self.groups())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of the counts."""
        labels = next(iter(self.counts.values()), {})
        rows = [[label, *(str(counts[label]) for counts in self.counts.values())] for label in labels]
        sums = [str(sum(counts.values())) for counts in self.counts.values()]
        return ["class", *self.counts], [*rows, ["all", *sums]]

    def add(self, complaints: Complaints) -> None:
        """What was wrong with how the data is laid out."""
        self.layout.extend(complaints.collected or ())
        self.notes.extend(complaints.notes)
        self.notes.extend(complaints.files())
        if others := complaints.others:
            most = sorted(others.items(), key=lambda item: -item[1].count)[:5]
            shown = ", ".join(f"{tally.count} {suffix}" for suffix, tally in most)
            self.notes.append(f"files whose names are not of images were passed over: {shown}")


@dataclass(frozen=True)
class Looks:
    """What was seen of the images that can be read, V of all.

    good:       (V) their indices.
    names:      of all images.
    splits:     codes of all images.
    sizes:      (V) height and width.
    thumbnails: (V, 3 * THUMBNAIL ** 2) uint8.
    copies:     groups of indices of images with one content.
    """

    good: list[int]
    names: list[str]
    splits: np.ndarray
    sizes: list[tuple[int, int]]
    thumbnails: np.ndarray
    copies: list[list[int]]


def look(dataset: Dataset, found: Findings, classes: np.ndarray, bar: Silent = SILENT) -> Looks:
    """Read every image once, and add to the findings what needs no targets. classes: (N,) by which copies may differ,
    which is then for another to tell."""
    splits = dataset.splits if dataset.items is None else dataset.splits[dataset.items]
    with ThreadPoolExecutor() as pool:
        looking = pool.map(lambda index: _look(dataset, index), range(len(dataset)))
        looks = list(bar.track(looking, "looking at images", len(dataset)))
    bar.stage("comparing images")
    names = [dataset.name(index) for index in range(len(dataset))]
    found.unreadable.update({name: look for name, look in zip(names, looks, strict=True) if isinstance(look, str)})
    seen = {index: look for index, look in enumerate(looks) if isinstance(look, _Seen)}
    good = list(seen)

    copies = _copies(dataset, {index: seen[index].content for index in good})
    copy_of = {index: group[0] for group in copies for index in group}
    for group in copies:
        if len(set(splits[group])) > 1:
            found.leaks.append([f"{names[i]} ({SPLITS[splits[i]]})" for i in group])
    if harmless := [[names[i] for i in group] for group in copies if _one(classes, splits, group)]:
        count = sum(len(group) - 1 for group in harmless)
        shown = ", ".join(harmless[0][:3])
        found.notes.append(f"{count} {'image is a copy' if count == 1 else 'images are copies'} of others, as {shown}")

    thumbnails = np.stack([seen[index].thumbnail for index in good]) if good else np.zeros((0, 1))
    for one, two in _alike(thumbnails):
        i, j = good[one], good[two]
        if splits[i] != splits[j] and copy_of.get(i, i) != copy_of.get(j, j):
            found.near_copies.append([f"{names[k]} ({SPLITS[splits[k]]})" for k in (i, j)])
    sizes = [seen[index].size for index in good]
    found.odd_sizes.update({names[good[n]]: what for n, what in _odd(sizes).items()})
    found.odd_modes.update(
        {names[index]: mode for index, mode in _rare({i: seen[i].traits.mode for i in good}).items()}
    )
    for mode, count in Counter(found.odd_modes.values()).most_common():
        example = next(name for name, its in found.odd_modes.items() if its == mode)
        found.notes.append(f"odd mode, read as plain colour: {count} of {len(good)} images ({mode}), as {example}")
    found.notes.extend(traits_notes({names[index]: seen[index].traits for index in good}))
    return Looks(good, names, splits, sizes, thumbnails, copies)


def _one(labels: np.ndarray, splits: np.ndarray, group: list[int]) -> bool:
    """Whether the images of a group are of one class and one split."""
    return len(set(labels[group])) == len(set(splits[group])) == 1


@dataclass(frozen=True)
class _Seen:
    """What is kept of an image that was looked at."""

    content: float
    size: tuple[int, int]
    traits: Traits
    thumbnail: np.ndarray


def _look(dataset: Dataset, index: int) -> "_Seen | str":
    try:
        image = dataset.image(index)
        content = content_position(dataset.content(index))
        in_file = isinstance(dataset.images, ImageFiles)
        traits = image_traits(dataset.name(index)) if in_file else Traits("colour", None, "")
    except (ImageError, OSError) as error:
        return str(error)
    small = resize(image.contiguous(), (THUMBNAIL, THUMBNAIL)).numpy()
    return _Seen(content, (image.shape[1], image.shape[2]), traits, small.reshape(-1))


def _copies(dataset: Dataset, contents: dict[int, float]) -> list[list[int]]:
    """Groups of indices of images with one content. contents: index -> position of a sample of the content, which the
    whole has to confirm: uncompressed files of one size may differ in few bytes."""
    same: dict[float, list[int]] = defaultdict(list)
    for index, content in contents.items():
        same[content].append(index)
    groups: dict[tuple[float, bytes], list[int]] = defaultdict(list)
    for content, group in same.items():
        for index in group if len(group) > 1 else ():
            groups[content, dataset.digest(index)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _alike(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows that differ by NEAR or less on average.

    Only rows with one of four keys in common are compared: signs of differences between neighbours, a quarter of them
    in each, which survive another compression or size.
    """
    if not len(thumbnails):
        return []
    grey = thumbnails.reshape(len(thumbnails), 3, THUMBNAIL, THUMBNAIL).mean(1)
    coarse = grey.reshape(len(grey), 8, 2, 8, 2).mean((2, 4))
    signs = (coarse[:, :, 1:] > coarse[:, :, :-1]).reshape(len(grey), -1)
    flat = grey.std((1, 2)) < FLAT
    pairs: set[tuple[int, int]] = set()
    for quarter in np.array_split(np.arange(signs.shape[1]), 4):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row in np.flatnonzero(~flat).tolist():
            buckets[np.packbits(signs[row, quarter]).tobytes()].append(row)
        for rows in buckets.values():
            block = thumbnails[rows].astype(np.float32)
            for n, row in enumerate(rows[:-1]):
                close = np.abs(block[n + 1 :] - block[n]).mean(1) <= NEAR
                pairs.update((row, rows[n + 1 + k]) for k in np.flatnonzero(close).tolist())
    return sorted(pairs)


def _rare(modes: dict[int, str]) -> dict[int, str]:
    """Those of the modes that less than one image in RARE has."""
    counts = Counter(modes.values())
    return {index: mode for index, mode in modes.items() if counts[mode] * RARE < len(modes)}


def _odd(sizes: list[tuple[int, int]]) -> dict[int, str]:
    """Sizes far from the median image's, or far from square unless most are."""
    if not sizes:
        return {}
    array = np.array(sizes, np.float64)
    side, shape = np.sqrt(array.prod(1)), array[:, 0] / array[:, 1]
    odd: dict[int, str] = {}
    for values, what in ((side, "size"), (shape, "shape")):
        ratio = values / np.median(values)
        for n in np.flatnonzero((ratio > ODD) | (ratio < 1 / ODD)).tolist():
            height, width = sizes[n]
            odd.setdefault(n, f"{width} x {height} pixels, an odd {what} beside the others")
    return odd
