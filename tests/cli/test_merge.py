"""framefold export --merge writes one folder that answers as the host with the adapter."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import framefold
from framefold.__main__ import main
from framefold.cli.export import export
from framefold.cli.merge import ADAPTER
from framefold.cli.serve import serve
from framefold.errors import ConfigError, HostError, ServingError, WrongHostError
from framefold.files import weights_digest
from framefold.training.frozen_host.load import load_tinyhost
from framefold.training.frozen_host.locate import find_host

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")


def inputs(host: Path) -> dict[str, Any]:
    """Return a prompt with a video of 6 frames of noise."""
    frames = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3)).astype(np.uint8)
    tiny = load_tinyhost(host)
    pixels = tiny.pixel_values(frames)
    config = tiny.model.config
    side = -(-(config.vision_config.image_size // config.vision_config.patch_size) // 2)
    ids = [[15, 16, *[config.video_token_index] * (6 * side * side + 1), 17, 18, 19]]
    return {"input_ids": torch.tensor(ids), "pixel_values_videos": pixels.reshape(1, 6, *pixels.shape[-3:])}


def logits(model: Any, host: Path) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(host)).logits


def opened(host: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(host).eval()


@pytest.fixture
def with_lora(random_host: Path, tmp_path: Path) -> Path:
    """Folder of an adapter with LoRA that changes the answers of the host."""
    model = opened(random_host)
    framefold.attach(model, framefold.build("fila", 0.25))
    logits(model, random_host)
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*[qv]_proj", modules_to_save=["compressor"])
    trained = peft.get_peft_model(model, config)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    framefold.save_peft(trained, tmp_path / "lora")
    return tmp_path / "lora"


def test_lora_is_in_the_weights_of_the_merged_host(random_host: Path, with_lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert main(["export", "--merge", "--host", str(random_host), "--adapter", str(with_lora), "--out", str(out)]) == 0
    wanted = opened(random_host)
    peft_model = framefold.load_peft(wanted, with_lora)
    merged = opened(out)
    with framefold.attach(merged, framefold.load(out / ADAPTER)):
        assert torch.allclose(logits(merged, random_host), logits(peft_model, random_host), atol=1e-5)
    bare = opened(random_host)
    framefold.attach(bare, framefold.load(out / ADAPTER), allow_other_host=True)
    assert not torch.allclose(logits(bare, random_host), logits(peft_model, random_host), atol=1e-3)
    assert not (out / ADAPTER / "lora").exists() and "lora" not in json.loads(
        (out / ADAPTER / "config.json").read_text()
    )


def test_the_folder_names_its_compressor_and_has_the_files_of_the_host(
    random_host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    export(merge=True, host=str(random_host), adapter="sttm", out=str(out), budget=7)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["FramefoldLlavaOnevision"]
    assert config["framefold"] == {
        "adapter": "framefold", "budget": 7, "positions": "preserve", "allow_other_host": False,
    }  # fmt: skip
    assert {file.name for file in random_host.iterdir()} <= {file.name for file in out.iterdir()}
    assert weights_digest(out) == weights_digest(random_host)
    capsys.readouterr()
    serve(str(out), dry_run=True)
    line = capsys.readouterr().out
    assert f'"adapter": "{out / ADAPTER}", "budget": 7' in line
    assert framefold.load(find_host(str(out)).merged_adapter()).budget == 7  # what framefold answer uses
    assert main(["answer", "--host", str(random_host), "--video", "a.mp4", "--question", "what ?"]) == 2
    assert "contains no compressor: name one (--compressor)" in capsys.readouterr().err


def test_files_that_execute_code_are_left_out(random_host: Path, tmp_path: Path) -> None:
    host = tmp_path / "host"
    shutil.copytree(random_host, host)
    (host / "modeling.py").write_text("raise SystemExit")
    (host / "pytorch_model.bin").write_bytes(b"pickle")
    config = json.loads((host / "config.json").read_text())
    (host / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Model"}}))
    export(merge=True, host=str(host), adapter="sttm", out=str(tmp_path / "merged"))
    assert {file.suffix for file in (tmp_path / "merged").rglob("*") if file.is_file()} <= {
        ".json", ".jinja", ".safetensors", ".md", ".txt",
    }  # fmt: skip
    assert "auto_map" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(random_host: Path, tmp_path: Path) -> None:
    host, out = str(random_host), tmp_path / "merged"
    merge = partial(export, merge=True, host=host, adapter="sttm", out=str(out))
    with pytest.raises(ServingError, match="attention of the vision encoder"):
        merge(adapter="visionzip")
    framefold.build("sttm", 0.5).save_pretrained(tmp_path / "other", host="llava_onevision", host_weights="0" * 64)
    with pytest.raises(WrongHostError, match="whose weights are not those of"):
        merge(adapter=str(tmp_path / "other"))
    pickled = tmp_path / "pickled"
    shutil.copytree(random_host, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(HostError, match="no weights in safetensors"):
        merge(host=str(pickled))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="exists and is not empty"):
        merge(out=str(tmp_path / "full"))
    assert not out.exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"adapter": None}, "needs --host, --adapter and --out"),
        ({"host": None}, "needs --host, --adapter and --out"),
        ({"out": None}, "needs --host, --adapter and --out"),
        ({"checkpoint": "runs/fit"}, "takes its adapter as --adapter runs/fit"),
        ({"push": "me/merged"}, "writes only a folder"),
        ({"license": "mit"}, "writes only a folder"),
        ({"merge": False, "adapter": None}, "--host and --adapter need --merge"),
        ({"merge": False, "host": None}, "--host and --adapter need --merge"),
        ({"merge": False, "host": None, "adapter": None}, "export needs a checkpoint"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(words: dict[str, Any], text: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"merge": True, "host": "h", "adapter": "sttm", "out": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=text):
        export(**given | words)
    assert not (tmp_path / "out").exists()
