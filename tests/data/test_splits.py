"""The split that content alone decides."""

import hashlib

import numpy as np
import pytest

from foveal.data.splits import absent_notes, content_position, draw_splits, split_by_content
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


def by_class(contents: list[bytes], shown: list[tuple[int, int]], *, test: bool = True) -> np.ndarray:
    """The codes of images, of which `shown` are pairs (image, class)."""
    pairs = np.array(shown, np.int64).reshape(-1, 2)
    return draw_splits(Contents(contents), range(len(contents)), (pairs[:, 0], pairs[:, 1]), test=test)[0]


def test_each_class_has_its_shares() -> None:
    classes = np.repeat([0, 1, 2, 3], [600, 100, 30, 3])
    codes = by_class(many(733), list(enumerate(classes)))
    counts = [np.bincount(codes[classes == label], minlength=3).tolist() for label in range(4)]
    assert counts == [[420, 60, 120], [70, 10, 20], [21, 3, 6], [1, 1, 1]]
    # Within a class the order of the hashes decides: test, val, train.
    places = np.array([content_position(content) for content in many(733)])
    for label in range(4):
        ordered = codes[classes == label][np.argsort(places[classes == label])].tolist()
        assert ordered == sorted(ordered, key=[TEST, VAL, TRAIN].index)
    assert np.bincount(by_class(many(100), [(i, i % 2) for i in range(100)], test=False)).tolist() == [90, 10]


def test_strata_do_not_depend_on_the_order_of_the_images() -> None:
    contents, shown = many(200), [(i, i % 7) for i in range(200)]
    codes, order = by_class(contents, shown), np.random.default_rng(0).permutation(200)
    moved = by_class([contents[i] for i in order], [(n, i % 7) for n, i in enumerate(order.tolist())])
    assert (moved == codes[order]).all()


def test_copies_of_two_classes_are_in_one_split() -> None:
    codes = by_class(many(50) * 2, [(i, i // 50) for i in range(100)])
    assert (codes[:50] == codes[50:]).all()
    assert set(codes.tolist()) == {TRAIN, VAL, TEST}


def test_a_class_of_two_images_keeps_one_for_training() -> None:
    classes = np.repeat(np.arange(300), 2)
    codes = by_class(many(600), list(enumerate(classes)))
    assert all((codes[classes == label] == TRAIN).sum() == 1 for label in range(300))
    # Two of three others go to test; the standard deviation is 8.
    assert 170 < (codes == TEST).sum() < 230


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("count", range(3, 12))
def test_few_images_of_any_classes_have_all_splits(count: int, classes: int) -> None:
    for start in range(0, 100, 20):
        shown = [(i, i % classes) for i in range(count)]
        assert set(by_class(many(count, start), shown).tolist()) == {TRAIN, VAL, TEST}
        assert set(by_class(many(count, start), shown, test=False).tolist()) == {TRAIN, VAL}
    assert set(by_class(many(count), []).tolist()) == {TRAIN, VAL, TEST}  # no class in any image


def test_images_of_several_classes_reach_all_splits_with_the_rare_ones() -> None:
    # Every image shows class 0, one of ten class 1, and three class 2.
    shown = [(i, 0) for i in range(300)] + [(i, 1) for i in range(0, 300, 10)] + [(i, 2) for i in (4, 5, 6)]
    codes = by_class(many(300), shown)
    assert np.bincount(codes).tolist() == [210, 30, 60]
    assert np.bincount(codes[::10]).tolist() == [21, 3, 6]
    assert sorted(codes[[4, 5, 6]].tolist()) == [TRAIN, VAL, TEST]


def test_new_images_move_few_others() -> None:
    before = by_class(many(1000), [(i, i % 10) for i in range(1000)])
    after = by_class(many(1200), [(i, i % 10) for i in range(1200)])[:1000]
    assert (before != after).mean() < 0.05


def test_classes_that_a_split_lacks_are_noted() -> None:
    counts = {"train": {"a": 3, "b": 0, "c": 2}, "val": {"a": 1, "b": 0, "c": 0}, "test": {"a": 0, "b": 0, "c": 1}}
    assert absent_notes(counts, "image") == [
        "class b has no training image",
        "class c has no validation image",
        "class a has no test image",
    ]
    many_of_them = {"train": {str(i): 1 for i in range(9)}, "val": {str(i): 0 for i in range(9)}}
    assert absent_notes(many_of_them, "object", 2)[1:] == [
        "class 1 has no validation object",
        "7 more classes have no validation object",
    ]
