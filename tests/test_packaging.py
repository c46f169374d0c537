"""pyproject.toml lists what is on disk."""

import fnmatch
import re
import tomllib

from framefold.adapters.hosts.base.family import OLDEST_TRANSFORMERS
from framefold.extras import EXTRA_OF
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = ("adapters", "configs", "data", "evaluation", "training", "framefold/cli")
NOT_PACKAGED = {"data/README.md"}


def test_every_package_on_disk_is_listed_and_mapped() -> None:
    on_disk = {
        ".".join(("framefold", *init.parent.relative_to(ROOT).parts)).replace("framefold.framefold", "framefold")
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    } | {"framefold"}
    assert set(SETUPTOOLS["packages"]) == on_disk
    for package, folder in SETUPTOOLS["package-dir"].items():
        assert (ROOT / folder / "__init__.py").is_file(), package
        assert package == "framefold" or folder == "/".join(package.split(".")[1:])


def test_every_other_file_of_a_package_is_in_the_wheel() -> None:
    packaged = {
        file.relative_to(ROOT).as_posix()
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for file in (ROOT / ("/".join(package.split(".")[1:]) or "framefold")).glob(pattern)
    }
    on_disk = {
        file.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and not fnmatch.fnmatch(file.name, "*.py*")
    }
    assert packaged - {"framefold/py.typed"} == on_disk - NOT_PACKAGED
    assert {"configs/launch/slurm.sbatch", "framefold/py.typed"} <= packaged
    assert any(file.startswith("evaluation/report/assets/") for file in packaged)


def test_the_base_install_has_few_requirements() -> None:
    names = {requirement.split(">")[0] for requirement in PROJECT["project"]["dependencies"]}
    assert names == {"torch", "safetensors", "huggingface_hub", "numpy", "scipy", "typing_extensions"}


def test_extras_that_use_hosts_install_transformers_in_the_same_versions() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (transformers,) = extras["hosts"]
    assert transformers == f"transformers>={OLDEST_TRANSFORMERS}"
    with_it = {name for name, requirements in extras.items() if transformers in requirements}
    assert with_it == {"hosts", "train", "lora", "lmms"}
    assert str(extras).count("transformers") == len(with_it)


def test_constraints_pin_every_requirement() -> None:
    def pinned(file: str) -> set[str]:
        lines = (ROOT / file).read_text().splitlines()
        return {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}

    groups = PROJECT["project"]["optional-dependencies"]
    for extra, requirements in {"": PROJECT["project"]["dependencies"], **groups}.items():
        for requirement in requirements if extra != "mamba" else []:
            name = requirement.split(">")[0].split("[")[0].lower().replace("_", "-")
            # lmms-eval is installed in a folder of its own.
            file = "constraints-lmms.txt" if name == "lmms-eval" else "constraints.txt"
            assert name in pinned(file), f"{extra}: {name} is not pinned in {file}"


def test_every_extra_named_in_messages_exists() -> None:
    assert set(EXTRA_OF.values()) <= set(PROJECT["project"]["optional-dependencies"])


def test_make_quick_ignores_paths_that_exist() -> None:
    words = re.search(r"^QUICK := \$\(addprefix --ignore=tests/,(.*?)\)", (ROOT / "Makefile").read_text(), re.M | re.S)
    assert words is not None
    paths = words[1].replace("\\\n", " ").split()
    assert len(paths) > 10 and [path for path in paths if not (ROOT / "tests" / path).exists()] == []
