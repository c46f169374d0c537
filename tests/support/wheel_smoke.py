"""Run by the Python of a clean environment that holds only the wheel: compress, save, load, and clear messages."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import framefold


def main() -> None:
    assert "site-packages" in framefold.__file__, f"not the installed wheel: {framefold.__file__}"
    video = framefold.VideoTokens.from_grid(torch.randn(8, 4, 4, 32))
    with tempfile.TemporaryDirectory() as folder:
        for name in framefold.list_compressors():
            compressor = framefold.build(name, budget=0.25)
            if compressor.query_aware or compressor.needs_attention:
                continue
            before = compressor(video).tokens.features
            compressor.save_pretrained(Path(folder) / name)
            after = framefold.load(Path(folder) / name)(video).tokens.features
            assert torch.equal(before, after), name
    assert callable(framefold.attach) and callable(framefold.detach)
    command = [str(Path(sys.executable).parent / "framefold")]
    assert "verbs:" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run([*command, "fit", "--help"], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'framefold[train]'" in done.stderr, done.stderr
    from framefold.configs import config_names

    assert "trainer/cpu" in config_names(), config_names()
    print("wheel: ok")


if __name__ == "__main__":
    main()
