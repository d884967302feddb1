"""Class names, splits and key points of YOLO data, from data.yaml, from darknet's obj.data and from files of names.

A scalar of data.yaml is the text that was written, whatever type YAML has for it: classes may be named no, 1.0 or null.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from foveal.data.files import DEEPEST, SPLIT_NAMES, Complaints, files_in, split_folder, subfolders
from foveal.data.layouts import sidecars
from foveal.data.values import MAX_LIST, beginning, read_text
from foveal.errors import InputError

CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")  # in lower case; the first one goes
MAX_YAML = 2**20  # bytes; the names of 20,000 classes have half of it
MAX_DEPTH = 50
LOADER = getattr(
    yaml, "CBaseLoader", yaml.BaseLoader
)  # every scalar is text; that of libyaml is a hundred times as fast
NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Settings:
    """
    file:     where they are from.
    names:    class names; None where the file has none.
    splits:   split -> folders of images or lists of images, as written.
    path:     the folder that these are in, as written.
    points:   key points of each object and numbers of each point, 2 or 3; (0, 0) for none; None where nothing says it.
    mirrored: the index of each key point in the mirror image.
    others:   key -> text of a key without a meaning here whose value may be a list of images.
    """

    file: Path | None = None
    names: list[str] | None = None
    splits: dict[str, list[str]] = field(default_factory=dict)
    path: str = ""
    points: tuple[int, int] | None = None
    mirrored: tuple[int, ...] | None = None
    others: dict[str, str] = field(default_factory=dict)


def settings_file(root: Path) -> Path | None:
    """The one file of a folder that names classes or splits: a YAML file with `names`, else a file like obj.data.

    Raises InputError where there are several, none of which is called data.yaml.
    """
    found = [file for file in files_in(root, ".yaml", ".yml") if _is_yaml_settings(file)]
    named = [file for file in found if file.stem.lower() == "data"]
    if len(found) > 1 and len(named) != 1:
        raise InputError(
            f"{root} has several files with names of classes, {found[0].name} and {found[1].name}: name one"
        )
    darknet = [
        file for file in files_in(root, ".data") if re.search(r"(?m)^[ \t]*(names|train|valid)[ \t]*=", _begin(file))
    ]
    return next(iter(named or found or darknet), None)


def names_splits(file: Path) -> bool:
    """Whether a settings file has the key of a split, by a quick look."""
    text = _begin(file)
    before = r"[{,]\s*" if text.lstrip().startswith("{") else r"(?m)^[ \t]*"
    return bool(re.search(before + rf"""(["']?)({"|".join(SPLIT_NAMES)})\1[ \t]*[:=]""", text))


def read_settings(file: Path, complain: Complaints) -> Settings:
    """The settings of a YAML file, or of one like obj.data. Raises InputError."""
    read = _read_darknet if file.suffix.lower() == ".data" else _read_yaml
    return read(complain.own(file), complain)


def class_names(settings: Settings, source: Path, root: Path, complain: Complaints) -> list[str]:
    """The names in the settings, else those in a file of names; a file that names other classes is noted.

    Raises InputError, also where the folders of two splits name other classes.
    """
    files = class_files(root) or class_files(root, sidecars(root))
    listed = {file: _listed(file, complain) for file in files}
    names = settings.names or next(iter(listed.values()), None)
    taken = settings.file if settings.names else next(iter(files), None)
    if names is None:
        above = next((parent for parent in (root.parent, root.parent.parent) if names_classes(parent)), None)
        where = f": pass {above}, which does" if above else f": write them one a line into {root / CLASS_FILES[0]}"
        raise InputError(f"{source} does not name its classes{where}")
    assert taken is not None
    for file, other in listed.items():
        if other == names:
            continue
        if taken.parent.absolute() != root.absolute() and taken != settings.file:
            raise InputError(f"{taken} and {file} name other classes; only one of them can be right")
        complain.note(f"{file} names other classes than {taken}; those of {taken.name} were taken")
    return checked(taken, names)


def class_files(root: Path, folders: list[Path] | None = None) -> list[Path]:
    """Files of class names in a folder, in its folder labels, in those of splits and their labels; or in `folders`."""
    splits = [folder for folder in subfolders(root) if split_folder(folder.name)]
    inner = [folder for one in (root, *splits) for folder in subfolders(one) if folder.name.lower() == "labels"]
    found = []
    for folder in (root, *inner[:1], *splits, *inner[1:]) if folders is None else folders:
        by_name = {file.name.lower(): file for file in files_in(folder, ".txt", ".names", ".labels")}
        found += [by_name[name] for name in CLASS_FILES if name in by_name and not _has_image(by_name[name])]
    return found


def checked(file: Path, names: list[str]) -> list[str]:
    """Class names. Raises InputError where there are none, one is empty or two are alike."""
    if not names:
        raise InputError(f"{file} names no class")
    numbers: dict[str, int] = {}
    for number, name in enumerate(names):
        if not name.strip():
            raise InputError(f"{file}: class {number} has an empty name")
        if numbers.setdefault(name, number) != number:
            raise InputError(f"{file}: classes {numbers[name]} and {number} have one name, {name!r}")
    return names


def slashes(text: str) -> str:
    """A path with the slashes of this system, in the place of those of Windows."""
    return text.strip().replace("\\", "/")


def _listed(file: Path, complain: Complaints) -> list[str]:
    """The names in a file, one a line. A blank line between two might be a class or not, and is an error."""
    names = [line.strip() for line in read_text(complain.own(file), MAX_LIST)[0].rstrip().splitlines()]
    if "" in names:
        raise InputError(
            f"{file}, line {names.index('') + 1}: a blank line between names, which classes are counted by"
        )
    return names


def _has_image(file: Path) -> bool:
    """Whether a text file is the label file of an image beside it, by its name."""
    return any(file.with_suffix(suffix).exists() for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".PNG"))


def names_classes(folder: Path) -> bool:
    """Whether a folder has a file with class names, or several."""
    try:
        return settings_file(folder) is not None or any(file.parent == folder for file in class_files(folder))
    except InputError:
        return True


def _begin(file: Path) -> str:
    """The first part of a file as text, for a look at what it is."""
    return beginning(file, MAX_YAML)


def _is_yaml_settings(file: Path) -> bool:
    """Whether a YAML file has the key `names` at the beginning of a line, or in braces."""
    text = _begin(file)
    before = r"[{,]\s*" if text.lstrip().startswith("{") else r"(?m)^"
    return bool(re.search(before + r"""(["']?)names\1\s*:""", text))


# --- data.yaml --------------------------------------------------------------------------------------------------------


def _read_yaml(file: Path, complain: Complaints) -> Settings:
    text, _ = read_text(file, MAX_YAML)
    try:
        root = _compose(file, text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        told = ", ".join(filter(None, (error.context, error.problem)))
        raise InputError(f"{file}{line}: it is not YAML that can be read: {told}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: it is not YAML that can be read: {str(error).splitlines()[0]}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{file}: it is not a mapping with the key names")
    found, others = Settings(file), dict[str, str]()
    keys = _mapping(file, root)
    for key, node in keys.items():
        if key == "<<":
            raise InputError(f"{_line(file, node)}: merge keys (<<) are not read here; write the values out")
        if key == "names":
            found = replace(found, names=_names(file, node))
        elif key == "path":
            found = replace(found, path="" if _is_null(node) else slashes(_text(file, node)))
        elif key in SPLIT_NAMES:
            places = [slashes(_text(file, item)) for item in _items(node) if not _is_null(item)]
            if places:
                found.splits.setdefault(SPLIT_NAMES[key], []).extend(places)
        elif key == "kpt_shape":
            found = replace(found, points=_points(file, node))
        elif key == "flip_idx" and not _is_null(node):
            found = replace(found, mirrored=tuple(_whole(file, item) for item in _items(node)))
        elif isinstance(node, yaml.ScalarNode) and node.value.endswith(".txt"):
            others[key] = slashes(node.value)
    count = keys.get("nc")
    stated = None if count is None or _is_null(count) else _whole(file, count)
    if found.names is not None and stated not in (None, len(found.names)):
        raise InputError(f"{file}: nc is {stated}, but there are {len(found.names)} names")
    mirrored = found.mirrored
    if mirrored is not None and (
        sorted(mirrored) != list(range(len(mirrored))) or (found.points and found.points[0] != len(mirrored))
    ):
        raise InputError(f"{file}: flip_idx does not give each key point another one, 0 to one less than their number")
    return replace(found, others=others)


def _compose(file: Path, text: str) -> yaml.Node | None:
    """The one document of a YAML file.

    Nodes rather than values: they keep the text of a scalar, its line, and both of two equal keys; an alias is the node
    of its anchor, so nothing grows.
    """
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:  # libyaml's recursion has no limit of its own
            raise InputError(f"{file}, line {event.start_mark.line + 1}: it is nested more than {MAX_DEPTH} times")
    return yaml.compose(text, Loader=LOADER)


def _mapping(file: Path, node: yaml.MappingNode) -> dict[str, yaml.Node]:
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = _text(file, key)
        if name in found:
            raise InputError(f"{_line(file, key)}: {name} is there twice")
        found[name] = value
    return found


def _names(file: Path, node: yaml.Node) -> list[str]:
    """The classes of a list, or of a mapping with their numbers as keys, in any order."""
    if isinstance(node, yaml.SequenceNode):
        return checked(file, [_text(file, item) for item in node.value])
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{_line(file, node)}: names is not a list of the classes")
    numbered: dict[int, str] = {}
    for key, item in _mapping(file, node).items():
        if not re.fullmatch(r"[0-9]{1,6}", key):
            raise InputError(f"{_line(file, item)}: the key {key!r} under names is not the number of a class")
        if int(key) in numbered:
            raise InputError(f"{_line(file, item)}: class {int(key)} is there twice")
        numbered[int(key)] = _text(file, item)
    if gaps := [number for number in range(len(numbered)) if number not in numbered]:
        raise InputError(f"{file}: the classes under names are not numbered 0, 1, 2 ...: there is no {gaps[0]}")
    return checked(file, [numbered[number] for number in range(len(numbered))])


def _points(file: Path, node: yaml.Node) -> tuple[int, int]:
    shape = () if _is_null(node) else tuple(_whole(file, item) for item in _items(node))
    if shape in ((), (0, 0)):
        return 0, 0
    if len(shape) != 2 or shape[0] < 1 or shape[1] not in (2, 3):
        raise InputError(
            f"{_line(file, node)}: kpt_shape is [number of key points, 2 or 3], or [0, 0] if there are none"
        )
    return shape


def _items(node: yaml.Node) -> list[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else [node]


def _text(file: Path, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{_line(file, node)}: a text is expected here, not a list or a mapping")
    return str(node.value)


def _whole(file: Path, node: yaml.Node) -> int:
    text = _text(file, node)
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise InputError(f"{_line(file, node)}: {text!r} is not a whole number")
    return int(text)


def _is_null(node: yaml.Node) -> bool:
    """Whether YAML takes a scalar for nothing; in quotes it is a text."""
    return isinstance(node, yaml.ScalarNode) and (not node.value or (not node.style and node.value in NULLS))


def _line(file: Path, node: yaml.Node) -> str:
    return f"{file}, line {node.start_mark.line + 1}"


# --- obj.data ---------------------------------------------------------------------------------------------------------


def _read_darknet(file: Path, complain: Complaints) -> Settings:
    """Lines of `key = value`: classes, names (a file), backup, and for each split the list of its images."""
    keys: dict[str, str] = {}
    for where, key, value in _pairs(file):
        if key in keys:
            raise InputError(f"{where}: {key} is there twice")
        keys[key] = slashes(value)
    splits: dict[str, list[str]] = {}
    for key in keys.keys() & SPLIT_NAMES.keys():
        if keys[key]:
            splits.setdefault(SPLIT_NAMES[key], []).append(keys[key])
    names = None
    if keys.get("names"):
        parts = Path(keys["names"]).parts
        # Tools write the path from the folder that holds the data set, or as it was on another machine.
        tails = (file.parent.joinpath(*parts[k:]) for k in range(len(parts))[:DEEPEST])
        place = next((one for one in tails if os.path.isfile(one)), None)
        if place is None:
            raise InputError(f"{file}: names is at {keys['names']}, but there is no {file.parent / parts[-1]}")
        names = checked(place, _listed(place, complain))
        if keys.get("classes", str(len(names))) != str(len(names)):
            raise InputError(f"{file}: classes is {keys['classes']}, but {place} has {len(names)} names")
    others = {key: value for key, value in keys.items() if key not in SPLIT_NAMES and value.endswith(".txt")}
    return Settings(file, names, dict(sorted(splits.items())), others=others)


def _pairs(file: Path) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(read_text(file, MAX_YAML)[0].splitlines(), 1):
        text = line.partition("#")[0].strip()
        if text:
            key, equals, value = text.partition("=")
            if not equals:
                raise InputError(f"{file}, line {number}: it is not in the form key = value")
            yield f"{file}, line {number}", key.strip().lower(), value.strip()
