"""What pyproject.toml promises is what is on disk."""

import tomllib

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_on_disk_is_listed_and_mapped() -> None:
    on_disk = {
        ".".join(("framefold", *init.parent.relative_to(ROOT).parts)).replace("framefold.framefold", "framefold")
        for folder in ("adapters", "training", "evaluation", "data", "configs", "framefold/cli")
        for init in (ROOT / folder).rglob("__init__.py")
    } | {"framefold"}
    setuptools = PROJECT["tool"]["setuptools"]
    assert set(setuptools["packages"]) == on_disk
    for package, folder in setuptools["package-dir"].items():
        assert (ROOT / folder / "__init__.py").is_file(), package
        assert package == "framefold" or folder == "/".join(package.split(".")[1:])


def test_every_configuration_and_template_is_in_the_wheel() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["framefold.configs"]
    packed = {file for pattern in patterns for file in (ROOT / "configs").glob(pattern)}
    there = {file for file in (ROOT / "configs").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert packed == there and {"slurm.sbatch", "torchrun.sh", "mpirun.sh"} <= {file.name for file in packed}


def test_the_base_install_stays_light() -> None:
    names = {requirement.split(">")[0] for requirement in PROJECT["project"]["dependencies"]}
    assert names == {"torch", "transformers", "safetensors", "huggingface_hub", "numpy", "scipy", "typing_extensions"}


def test_constraints_pin_every_requirement() -> None:
    def pinned(file: str) -> set[str]:
        lines = (ROOT / file).read_text().splitlines()
        return {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}

    groups = PROJECT["project"]["optional-dependencies"]
    for extra, wanted in {"": PROJECT["project"]["dependencies"], **groups}.items():
        file = "constraints-lmms.txt" if extra == "lmms" else "constraints.txt"  # it goes beside the environment
        for requirement in wanted if extra != "mamba" else []:
            name = requirement.split(">")[0].split("[")[0].lower().replace("_", "-")
            assert name in pinned(file), f"{name} is not pinned in {file}"


def test_every_extra_that_a_message_names_exists() -> None:
    from framefold.__main__ import EXTRA_OF

    assert set(EXTRA_OF.values()) <= set(PROJECT["project"]["optional-dependencies"])
