"""Smoke test of a wheel in an environment with the base install, or with the extra hosts: packages, adapters, messages.

python wheel_smoke.py [hosts]
"""

import importlib
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import framefold
from framefold.errors import MissingExtraError

HOSTS = "framefold.adapters.hosts"


def main(hosts: bool) -> None:
    assert "site-packages" in framefold.__file__, f"not the installed wheel: {framefold.__file__}"
    video = framefold.VideoTokens.from_grid(torch.randn(8, 4, 4, 32))
    with tempfile.TemporaryDirectory() as folder:
        for name in framefold.list_compressors():
            compressor = framefold.build(name, budget=0.25).eval()
            if compressor.query_aware or compressor.needs_attention:
                continue
            before = compressor(video).tokens.features
            compressor.save_pretrained(Path(folder) / name)
            after = framefold.load(Path(folder) / name)(video).tokens.features
            assert torch.equal(before, after), name
    command = [str(Path(sys.executable).parent / "framefold")]
    assert "verbs:" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run([*command, "fit", "--help"], capture_output=True, text=True)
    assert done.returncode == 2 and ".whl[train]'" in done.stderr, done.stderr
    packages = [name for _, name, is_package in pkgutil.walk_packages(framefold.__path__, "framefold.") if is_package]
    refused = []
    for name in packages:
        try:
            importlib.import_module(name)
        except MissingExtraError as error:
            assert ".whl[hosts]'" in str(error), error
            refused.append(name)
    assert refused == ([] if hosts else [HOSTS]), refused
    assert not hosts or callable(framefold.attach) and callable(framefold.detach)
    assert {"framefold.adapters.compressors", "framefold.evaluation.report", "framefold.cli.doctor"} <= {*packages}
    from framefold import configs
    from framefold.evaluation import report

    assert "trainer/cpu" in configs.config_names(), configs.config_names()
    assert (Path(configs.__file__).parent / "launch" / "slurm.sbatch").is_file()
    assets = {file.suffix for file in (Path(report.__file__).parent / "assets").iterdir()}
    assert assets == {".html", ".css", ".js"}, assets
    print(f"wheel{' with the extra hosts' if hosts else ''}: ok")


if __name__ == "__main__":
    main(sys.argv[1:] == ["hosts"])
