"""The split that content alone decides."""

import hashlib

import numpy as np
import pytest

from foveal.data.splits import content_position, split_by_content
from foveal.errors import InputError

TRAIN, VAL, TEST = 0, 1, 2


class Contents:
    """Images of which only the content matters."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, index: int):
        raise AssertionError("a split decodes no image")

    def name(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> bytes:
        return self.contents[index]


def split(contents: list[bytes], *, test: bool = True) -> list[int]:
    return split_by_content(Contents(contents), range(len(contents)), test=test).tolist()


def many(count: int, start: int = 0) -> list[bytes]:
    return [f"image {i}".encode() for i in range(start, start + count)]


def test_the_rule() -> None:
    # The first 64 bits of BLAKE2b, as a share of their range: test below 0.2, val below 0.3. Written out a second time,
    # since another rule would silently move images between the splits of every run there is.
    contents = many(500)
    expected = []
    for content in contents:
        position = int(hashlib.blake2b(content, digest_size=8).hexdigest(), 16) / 2**64
        expected.append(TEST if position < 0.2 else VAL if position < 0.3 else TRAIN)
    assert split(contents) == expected
    assert split(contents, test=False) == [VAL if content_position(content) < 0.1 else TRAIN for content in contents]


def test_shares() -> None:
    counts = np.bincount(split(many(20_000)), minlength=3) / 20_000
    # Standard deviations are 0.0032, 0.0021 and 0.0028.
    np.testing.assert_allclose(counts, [0.7, 0.1, 0.2], atol=0.01)


def test_order_does_not_matter() -> None:
    contents = many(300)
    order = np.random.default_rng(0).permutation(300)
    codes = split(contents)
    assert split([contents[i] for i in order]) == [codes[i] for i in order]


def test_copies_stay_together() -> None:
    contents = many(60) * 3
    codes = np.array(split(contents)).reshape(3, 60)
    assert (codes == codes[0]).all()
    assert set(codes[0]) == {TRAIN, VAL, TEST}


@pytest.mark.parametrize("test", [True, False])
def test_new_images_move_no_old_one(test: bool) -> None:
    before = split(many(200), test=test)
    assert split(many(200) + many(500, start=200), test=test)[:200] == before


@pytest.mark.parametrize("count", range(3, 12))
def test_small_sets_have_all_splits(count: int) -> None:
    for start in range(0, 200, 20):
        assert set(split(many(count, start))) == {TRAIN, VAL, TEST}
        assert set(split(many(count, start), test=False)) == {TRAIN, VAL}


def test_a_part_of_the_images() -> None:
    contents = many(100)
    which = [5, 50, 7, 99, 20, 21, 22]
    codes = split_by_content(Contents(contents), which, test=True)
    assert codes.tolist() == split([contents[i] for i in which])
    assert codes.dtype == np.int8


@pytest.mark.parametrize(("count", "test"), [(0, True), (1, True), (2, True), (0, False), (1, False)])
def test_too_few(count: int, test: bool) -> None:
    with pytest.raises(InputError, match=f"{count} different images are too few"):
        split(many(count) * 5, test=test)
