"""The order of the layers: each imports only from those above it (ARCHITECTURE.md)."""

import ast
import sys
from itertools import pairwise
from pathlib import Path

import foveal

ROOT = Path(foveal.__file__).parent
ORDER = [
    "errors", "wording", "schema", "filesystem", "progress", "verbs", "structures", "task", "ops", "losses", "metrics",
    "nn", "system", "weights", "classify", "detect", "segment", "caption", "generate", "catalog", "description",
    "build", "explain", "cost", "memory", "accelerate", "data", "train", "report", "tasks", "cli", "__main__",
]  # fmt: skip
FAMILIES = {"classify", "detect", "segment", "caption", "generate"}


def imports(path: Path) -> set[tuple[str, bool]]:
    """(layer, whether at module level) for each import of foveal in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    top = {id(node) for node in tree.body}
    found = set()
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("foveal."):
                found.add((name.split(".")[1], id(node) in top))
            assert not name.startswith("torchvision"), f"{path}: torchvision is for tests alone"
    return found


def test_each_layer_imports_only_from_above() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer == "__init__":
            continue
        for other, _ in imports(path):
            allowed = ORDER.index(other) <= ORDER.index(layer)
            if layer in FAMILIES and other in FAMILIES - {layer}:
                allowed = other == "classify" or (layer, other) == ("segment", "detect")
            assert allowed, f"{path.relative_to(ROOT)} imports foveal.{other}, which lies below it"


def test_every_file_has_a_place() -> None:
    layers = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert layers - {"__init__"} <= set(ORDER)


def test_import_is_lazy() -> None:
    import subprocess

    code = "import sys, foveal; print('torch' in sys.modules, 'numpy' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_public_names() -> None:
    for name in foveal.__all__:
        assert callable(getattr(foveal, name)), name
    assert set(foveal.__all__) <= set(dir(foveal))


def test_help_of_a_package_that_is_a_verb_tells_of_the_function() -> None:
    import pydoc

    for verb, said in (("train", "Train a system on the train split"), ("explain", "Raises InputError")):
        text = pydoc.plain(pydoc.render_doc(getattr(foveal, verb)))
        assert f"{verb}(system" in text
        assert said in text


def test_no_statement_stands_twice_in_a_row() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for part in ("body", "orelse", "finalbody"):
                statements = getattr(node, part, [])
                if isinstance(statements, list):
                    for one, other in pairwise(statements):
                        assert ast.dump(one) != ast.dump(other), f"{path}:{other.lineno} repeats the line before it"


OF_OS = {"open", "fdopen", "makedirs", "mkdir", "rename", "replace", "remove", "unlink", "link", "symlink", "truncate"}
OF_SHUTIL = {"copy", "copy2", "copyfile", "copytree", "move", "rmtree"}
OF_PATHS = {"open", "write_text", "write_bytes", "touch", "mkdir", "rename", "unlink", "rmdir", "symlink_to", "chmod"}
OF_LIBRARIES = {"save", "savez", "savefig", "tofile", "to_csv", "imwrite", "imsave", "save_file", "SummaryWriter"}
# Calls that write no path of their own choice, and those that remove what foveal wrote. `save_file` fills the file of
# `replacing`, and the folder of SummaryWriter is one of `own_folder`.
ALLOWED = {
    "cli/predict.py": {"output.save"},
    "train/checkpoint.py": {"save_file"},
    "train/directory.py": {"folder.rmdir", "path.unlink"},
    "train/loop.py": {"Run.open"},
    "train/run.py": {"(self.directory / 'start.safetensors').unlink", "(self.directory / LOCK).unlink"}
    | {"self.directory.rmdir"},
    "train/track.py": {"SummaryWriter"},
    "weights/pickled.py": {"archive.open"},
}


def opens_a_path(call: ast.Call) -> bool:
    """Whether it may write a path. A first argument `file` is what `replacing` or BytesIO gave."""
    called = call.func
    if call.args and ast.unparse(call.args[0]) in ("file", "os.devnull"):
        return False
    if isinstance(called, ast.Name):
        return called.id in {"open", *OF_LIBRARIES}
    if not isinstance(called, ast.Attribute):
        return False
    owner = ast.unparse(called.value)
    if owner in ("os", "shutil", "tempfile"):
        return called.attr in (OF_OS if owner == "os" else OF_SHUTIL) or owner == "tempfile"
    return called.attr in OF_PATHS | OF_LIBRARIES


def test_one_module_opens_and_writes_files() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        found = {ast.unparse(call.func) for call in calls if opens_a_path(call)}
        if name == "filesystem.py":
            assert {"open", "os.open", "os.replace"} <= found
        else:
            assert found == ALLOWED.get(name, set()), f"{name}: use foveal/filesystem.py"


def test_a_writer_is_noticed() -> None:
    for text in ("open(path)", "np.save(path, a)", "path.write_text(a)", "os.replace(a, b)", "tempfile.mkdtemp()"):
        assert opens_a_path(ast.parse(text, mode="eval").body)  # type: ignore[arg-type]
    for text in ("np.save(file, a)", "write_text(path, a)", "text.replace(a, b)", "handle.remove()"):
        assert not opens_a_path(ast.parse(text, mode="eval").body)  # type: ignore[arg-type]
