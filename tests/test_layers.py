"""Imports point downward only, and nobody imports the bare folder names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Which framefold packages a folder may import; adapters/hosts counts apart from adapters.
ALLOWED = {
    "configs": set(),
    "data": {"configs"},
    "adapters": set(),
    "hosts": {"adapters"},
    "training": {"adapters", "hosts", "data", "configs"},
}
HEAVY = {"transformers", "peft", "pytorch_lightning", "lightning", "deepspeed", "webdataset", "torchdata", "matplotlib"}


def layer(file: Path) -> str:
    parts = file.relative_to(ROOT).parts
    return "hosts" if parts[:2] == ("adapters", "hosts") else parts[0]


def modules_imported(file: Path) -> list[str]:
    """Absolute names of everything a file imports, relative imports resolved."""
    package = ["framefold", *file.relative_to(ROOT).with_suffix("").parts][:-1]
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{stem}.{alias.name}" for alias in node.names]
    return names


def sources() -> list[Path]:
    return [file for folder in ("adapters", "data", "training", "configs") for file in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("file", sources(), ids=lambda f: f.relative_to(ROOT).as_posix())
def test_a_folder_imports_only_what_lies_below_it(file: Path) -> None:
    here = layer(file)
    for name in modules_imported(file):
        parts = name.split(".")
        assert parts[0] not in ALLOWED, f"{file} imports the bare folder name {name}"
        if parts[0] != "framefold" or len(parts) < 2 or parts[1] not in ALLOWED:
            continue
        target = "hosts" if parts[1:3] == ["adapters", "hosts"] else parts[1]
        assert target == here or target in ALLOWED[here], f"{file} ({here}) imports {name} ({target})"
        if here == target == "adapters":
            assert "hosts" not in parts, f"{file} imports {name}: a compressor sees a host"


def test_compressors_import_no_host_library() -> None:
    code = (
        "import sys, framefold; framefold.list_compressors();"
        f"found = {sorted(HEAVY)!r}; print([m for m in found if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_data_needs_neither_the_product_nor_torch_to_make_videos() -> None:
    code = "import sys, framefold.data.synthetic; print('torch' in sys.modules, 'framefold.adapters' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_hosts_name_no_compressor() -> None:
    import framefold

    names = {f"framefold.adapters.{name}" for name in framefold.list_compressors()}
    for file in (ROOT / "adapters" / "hosts").glob("*.py"):
        seen = {".".join(name.split(".")[:3]) for name in modules_imported(file)}
        assert not seen & names, f"{file} imports {seen & names}"
