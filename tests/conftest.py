"""Fixtures of several tests: a host with random weights, a folder of shards, and a server that forks ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import framefold  # noqa: F401 (before transformers, which looks for torchvision only once)
from tests.support.ranks.fork_server import ForkServer

# Tiny models gain nothing from threads, and on a busy machine waiting threads make them ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Restore the environment: Lightning and DeepSpeed leave LOCAL_RANK behind, and a later command waits for ranks."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def random_host(tmp_path_factory) -> Path:
    """Folder of a very small host with random weights; its answers are random."""
    from framefold.training.tinyhost.build import Architecture, build_host, save_host

    small = Architecture(
        vision_width=16, vision_layers=1, vision_heads=2, vision_ff=32, text_width=32, text_layers=1, text_heads=2,
        text_ff=32,
    )  # fmt: skip
    return save_host(build_host(small, seed=3), tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def deep_host(tmp_path_factory) -> Path:
    """Folder of such a host with four layers, in which mistakes change the logits visibly."""
    import torch

    from framefold.training.tinyhost.build import Architecture, build_host, save_host

    small = Architecture(
        vision_width=16, vision_layers=1, vision_heads=2, vision_ff=32, text_width=32, text_layers=4, text_heads=2,
        text_ff=32,
    )  # fmt: skip
    model = build_host(small, seed=3)
    with torch.no_grad():
        for parameter in model.get_decoder().parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return save_host(model, tmp_path_factory.mktemp("deep_host"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """Folder of 22 short videos in three shards; tests must not change it."""
    from framefold.data.synthetic.write_shards import synth

    folder = tmp_path_factory.mktemp("shards") / "train"
    synth(str(folder), videos=22, frames=[16, 20], seed=5, shard_size=8)
    return folder


@pytest.fixture(scope="session")
def ranks() -> Iterator[ForkServer]:
    """Server that forks the ranks of a training from one process with all imports done."""
    server = ForkServer()
    yield server
    server.close()
