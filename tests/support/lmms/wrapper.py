"""Call the model that lmms-eval gets with the stub of lmms-eval, and write what happens to results.json.

Usage: ``python -m tests.support.lmms.wrapper FOLDER``, in a process of its own, because torchvision must be found
before transformers is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from framefold.training.frozen_host.torchvision import find_torchvision

QUESTION = "which shape flashed first ?"
HOST = "checkpoints/tinyhost"


def request(visual: Any, question: str = QUESTION, doc: int = 0, **options: Any) -> Any:
    """A request as lmms-eval creates them."""
    args = (question, {"max_new_tokens": 4, **options}, lambda document: visual, doc, "toy", "test")
    return SimpleNamespace(task_name="toy", args=args)


def model(**options: Any) -> Any:
    from framefold.evaluation.lmms.model import Framefold

    one = Framefold(**{"host": HOST, "compressor": "st_simdiff", "budget": 0.1, "device": "cpu", **options})
    one.task_dict["toy"] = {"test": [{}, {}, {}]}
    return one


def attempt(do: Callable[[], Any]) -> Any:
    """The result, or the name and the text of the error."""
    from framefold.errors import FramefoldError

    try:
        return do()
    except FramefoldError as error:
        return [type(error).__name__, str(error)]


def answers(file: str, folder: Path) -> dict[str, Any]:
    from framefold.evaluation.inspection.answer import answer_command

    one = model()
    text = one.generate_until(
        [request([file]), request([file], doc=1, do_sample=True), request([file], doc=2, until="i")]
    )
    own = answer_command(HOST, file, QUESTION, "st_simdiff", 0.1, max_new_tokens=4, repeats=1)
    logged = list(one.log.answers.values())
    one.session.longest = 500  # the full prompt is longer, the compressed one is shorter
    one.generate_until([request([file], "how many scenes ?", doc=1)])
    compact = model(positions="compact")
    compact.session.longest = 500
    compact.generate_until([request([file], doc=1)])
    logged += [list(other.log.answers.values())[-1] for other in (one, compact)]
    job = folder / "job.json"
    files = {"rows": str(folder / "rows.jsonl"), "progress": str(folder / "progress.json")}
    job.write_text(json.dumps({"settings": json.loads(one.session.settings.text), **files}))
    first = model_of(job).generate_until([request([file])])
    again = model_of(job)
    again.session.answer = None  # it must not be called
    second = again.generate_until([request([file])])
    del again.session.answer  # models with equal settings share it
    progress = json.loads((folder / "progress.json").read_text())
    full = {"text": own.text, "before": own.visual, "after": own.compressed.visual, "prompt": own.compressed.prompt}
    return {"text": text, "logged": logged, "own": full, "resumed": [first, second], "progress": progress}


def model_of(job: Path) -> Any:
    from framefold.evaluation.lmms.model import Framefold

    one = Framefold(job=str(job))
    one.task_dict["toy"] = {"test": [{}]}
    return one


def refused(file: str) -> dict[str, Any]:
    one = model()
    return {
        "images": attempt(lambda: one.generate_until([request([object(), object()])])),
        "no visual": attempt(lambda: one.generate_until([request([])])),
        "two videos": attempt(lambda: one.generate_until([request([file, file])])),
        "missing video": attempt(lambda: one.generate_until([request(["none.mp4"], doc=2)])),
        "placeholder": attempt(lambda: one.generate_until([request([file], "what is <video> ?")])),
        "likelihood": attempt(lambda: one.loglikelihood([request([file])])),
        "rounds": attempt(lambda: one.generate_until_multi_round([request([file])])),
        "batch": attempt(lambda: model(batch_size=2)),
        "unknown option": attempt(lambda: model(budgt=3)),
        "no host": attempt(lambda: model(host="nowhere")),
        "changed adapter": attempt(lambda: model(compressor="checkpoints/fila", adapter="other")),
        "adapter of another host": attempt(lambda: model(compressor=other_adapter())),
        "other host allowed": attempt(lambda: model(compressor=other_adapter(), allow_other_host=True) and "loaded"),
        "unknown compressor": attempt(lambda: model(compressor="st_simdif")),
    }


def other_adapter() -> str:
    """An adapter that was trained in another host according to its config."""
    folder = Path("other_adapter")
    shutil.copytree("checkpoints/fila", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"host_weights": "0" * 64}))
    return "./other_adapter"


def compressors(file: str, folder: Path) -> dict[str, Any]:
    """Tokens kept of 512 by compressors that drop, merge, keep all and read the question, and by adapters."""
    kept = {}
    names = {name: name for name in ("uniform", "pool", "identity", "qtsplus", "fastv")}
    cache = Path(os.environ["HF_HOME"]) / "hub/models--someone--fila"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/v1").write_text("0" * 40)
    shutil.copytree("checkpoints/fila", cache / "snapshots" / ("0" * 40))
    adapters = {"adapter": "checkpoints/fila", "chain": "storm+st_simdiff", "hub": "someone/fila@v1"}
    for name, compressor in {**names, **adapters}.items():
        one = model(compressor=compressor, budget=300 if name == "fastv" else 20)
        one.generate_until([request([file], max_new_tokens=1)])
        kept[name] = [
            list(one.log.answers.values())[0][field]
            for field in ("visual_before", "visual_after", "visual_mean", "compressor")
        ]
    return kept


def lora(file: str, folder: Path) -> list[str]:
    """The answer of a host with LoRA through the model, of the host alone, and of a host without LoRA."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    import framefold
    from framefold.data.video.frame_reader import sample_frames
    from framefold.training.frozen_host.processor import build_inputs, load_processor

    torch.manual_seed(0)
    host = AutoModelForImageTextToText.from_pretrained(HOST)
    framefold.attach(host, framefold.build("uniform", 50))
    config = LoraConfig(target_modules=r".*language_model.*(q|v)_proj", modules_to_save=["compressor"])
    tuned = get_peft_model(host, config).eval()
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    framefold.save_peft(tuned, folder / "tuned")
    processor = load_processor(HOST)
    inputs = build_inputs(processor, sample_frames(file, 64), QUESTION)
    with torch.no_grad():
        new = tuned.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    direct = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    one = model(compressor=str(folder / "tuned"), budget=50)
    bare = model(compressor="uniform", budget=50)
    return [one.generate_until([request([file])])[0], direct, bare.generate_until([request([file])])[0]]


def families(file: str, folder: Path) -> dict[str, list[int]]:
    """A family with M-RoPE and one that encodes frames as images, each with its real processor."""
    (folder / "num2words.py").write_text("def num2words(number):\n    return str(number)\n")
    sys.path.append(str(folder))  # needed by the processor of SmolVLM
    from tests.support.hosts.tiny_processors import save_host

    kept = {}
    for name in ("qwen2_5_vl", "smolvlm"):
        one = model(host=str(save_host(name, folder / name)), compressor="uniform", budget=5, frames=6)
        one.generate_until([request([file], "what is it ?", max_new_tokens=2)])
        kept[name] = [
            list(one.log.answers.values())[0][field] for field in ("frames", "visual_after", "new_tokens", "pixels")
        ]
    return kept


def main(folder: Path) -> None:
    """Run everything on the videos of the working folder."""
    find_torchvision()
    from framefold.evaluation.lmms.model import cut, manifest

    file, entry = "toy/0.mp4", manifest()
    results = {
        "manifest": [entry.model_id, entry.simple_class_path],
        "cut": [cut("a.b", "."), cut("a\n\nb", ["x", "\n"]), cut("ab", None), cut("ab", [""]), cut("ab", [])],
        "answers": answers(file, folder),
        "refused": refused(file),
        "compressors": compressors(file, folder),
        "lora": lora(file, folder),
        "families": families(file, folder),
    }
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
