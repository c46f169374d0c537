"""The structure of the source: permitted imports, no circles, one definition a name, sizes of files and folders."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator

import framefold
from tests.support import source_tree as source

GROUND = {
    "framefold",
    "framefold.errors",
    "framefold.extras",
    "framefold.files",
    "framefold.import_signals",
    "framefold.messages",
    "framefold.progress",
    "framefold.torchvision_finder",
    "framefold.version",
    "framefold.warning_types",
}  # every folder may import these
FACES = {"framefold", "framefold.adapters", "framefold.adapters.hosts", "framefold.errors"}
HEAVY = {"transformers", "peft", "pytorch_lightning", "lightning", "deepspeed", "webdataset", "torchdata", "matplotlib"}
MOST_LINES, MOST_FILES = 300, 15
# One file a method or family.
FREE_FOLDERS = {"adapters.compressors", "adapters.in_llm", "adapters.reference", "adapters.hosts.families"}

ADAPTERS = "adapters.core adapters.ops adapters.layers adapters.pretrained adapters.base"
HOSTS = "adapters.hosts.base adapters.hosts.prompt adapters.hosts.hooks adapters.hosts.lora"
DATA = "data data.video data.shards data.loading data.synthetic data.spliced data.imported data.drawing"
TRAINING = "training training.frozen_host training.memory training.checkpoint training.strategies"
REPORT = f"evaluation.metrics evaluation.results evaluation.views {DATA} {ADAPTERS} {HOSTS} training.frozen_host"
# Which folders the files of a folder may import, besides the ground and their own folder.
ALLOWED = {
    "configs": "",
    "data": "",
    "data.video": "data",
    "data.shards": "data data.video",
    "data.loading": "data data.shards",
    "data.synthetic": "data data.video data.shards data.loading",
    "data.spliced": "data data.video data.shards",
    "data.imported.dialects": "data data.shards",
    "data.imported": "data data.video data.shards data.imported.dialects",
    "data.drawing": "data data.video data.shards data.synthetic",
    "adapters.core": "",
    "adapters.ops": "adapters.core",
    "adapters.layers": "adapters.core",
    "adapters.pretrained": "adapters.core",
    "adapters.base": "adapters.core adapters.ops adapters.pretrained",
    "adapters.reference": "adapters.core adapters.ops adapters.layers",
    "adapters.compressors": "adapters.core adapters.ops adapters.layers adapters.base adapters.reference",
    "adapters.in_llm": "adapters.core adapters.ops adapters.layers adapters.base adapters.reference",
    "adapters": ADAPTERS,
    "adapters.hosts.base": "adapters.core",
    "adapters.hosts.families": "adapters.hosts.base",
    "adapters.hosts.prompt": "adapters.core adapters.base adapters.hosts.base",
    "adapters.hosts.hooks": f"{ADAPTERS} adapters.hosts.base adapters.hosts.prompt",
    "adapters.hosts.lora": f"{ADAPTERS} adapters.hosts.base adapters.hosts.prompt adapters.hosts.hooks",
    "adapters.hosts": "adapters.hosts.base adapters.hosts.prompt adapters.hosts.hooks",
    "adapters.serving": "",
    "adapters.serving.vllm": f"{ADAPTERS} adapters.hosts.base adapters.hosts.prompt",
    "adapters.serving.vllm.hosts": "adapters.hosts.base adapters.serving.vllm",
    "training.checkpoint": "",
    "training.frozen_host": f"{DATA} {ADAPTERS} {HOSTS} training.memory",
    "training.memory": HOSTS,
    "training.strategies": "training.checkpoint adapters.hosts.prompt",
    "training": f"{TRAINING} {DATA} {ADAPTERS} {HOSTS}",
    "training.fit": f"configs {TRAINING} {DATA} {ADAPTERS} {HOSTS}",
    "training.export": f"{TRAINING} {DATA} {ADAPTERS} {HOSTS}",
    "training.tinyhost": f"{DATA} training.frozen_host training.checkpoint training.fit",
    "evaluation.metrics": "adapters.core",
    "evaluation.rows": "adapters.core adapters.ops adapters.base",
    "evaluation.views": "evaluation.metrics evaluation.results",
    "evaluation.committed": f"{REPORT} evaluation.report",
    "evaluation.results": f"evaluation.metrics {DATA} {ADAPTERS}",
    "evaluation.report": REPORT,
    "evaluation.ablation": f"{REPORT} evaluation.report evaluation.rows {TRAINING}",
    "evaluation.bench": f"{REPORT} evaluation.report evaluation.committed {TRAINING}",
    "evaluation.plan": f"evaluation.metrics {TRAINING} training.memory {DATA} {ADAPTERS} {HOSTS}",
    "evaluation.gpu_check": f"evaluation.metrics evaluation.plan evaluation.bench {TRAINING} training.memory {ADAPTERS}"
    f" {HOSTS}",
    "evaluation.inspection": f"evaluation.metrics {DATA} {ADAPTERS} {HOSTS} training.frozen_host",
    "evaluation.lmms": f"{REPORT} evaluation.report evaluation.inspection",
}
ENTRIES = {"", "cli", "cli.doctor"}  # framefold itself and its commands combine everything


def edges() -> dict[str, set[str]]:
    return {
        module: {target for target, _ in source.imports(module)} & (set(source.modules()) - {module})
        for module in source.modules()
    }


def complain(rule: str, offenders: list[str]) -> None:
    assert not offenders, f"{rule}:\n  " + "\n  ".join(sorted(offenders))


def test_a_folder_imports_only_what_the_table_permits() -> None:
    offenders = []
    for module, targets in edges().items():
        here = source.folder_of(module)
        allowed = {*ALLOWED.get(here, "").split(), here}
        offenders += [f"{module} imports the bare folder name {name}" for name in source.bare_imports(module)]
        if here in ENTRIES:
            continue
        offenders += (
            [f"{module}: the table has no row for {here}"]
            if here not in ALLOWED and source.tree(module).body[1:]
            else []
        )
        wrong = [target for target in targets - GROUND if source.folder_of(target) not in allowed]
        offenders += [f"{module} ({here}) imports {target} ({source.folder_of(target)})" for target in wrong]
    complain("imports against the table", offenders)


def test_no_file_and_no_folder_imports_itself_over_others() -> None:
    files = edges()
    folders: dict[str, set[str]] = defaultdict(set)
    for module, targets in files.items():
        folders[source.folder_of(module)] |= {source.folder_of(target) for target in targets - GROUND}
    folders = {name: targets - {name} for name, targets in folders.items() if name}
    groups = source.circles(files) + source.circles(folders)
    complain("circles", [" <-> ".join(group) for group in groups])


def test_names_are_imported_from_the_file_that_defines_them() -> None:
    offenders = []
    for module in source.modules():
        for target, name in source.imports(module):
            known = target in source.modules() and (target not in FACES or target == "framefold.errors")
            if known and name and name not in source.definitions(target):
                offenders.append(f"{module} takes {name} from {target}, which does not define it")
            inside = module.startswith(f"{target}.") and target in ("framefold.adapters", "framefold.adapters.hosts")
            if inside and name:
                offenders.append(f"{module} takes {name} from the face of its own package, {target}")
    complain("re-exports and faces", offenders)


def test_a_public_class_or_function_is_defined_once() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module in source.modules():
        for name, node in source.definitions(module).items():
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not name.startswith("_") and name != "main":
                places[name].append(module)
    complain("names with several definitions", [f"{name}: {', '.join(p)}" for name, p in places.items() if len(p) > 1])


def test_private_names_stay_in_their_file() -> None:
    offenders = [
        f"{module} takes {name} from {target}"
        for module in source.modules()
        for target, name in source.imports(module)
        if name.startswith("_") and not name.startswith("__")
    ]
    complain("imports of private names", offenders)


def test_files_and_folders_stay_small() -> None:
    files = Counter(source.folder_of(module) for module in source.modules() if not source.is_face(module))
    offenders = [f"{name}: {n} files" for name, n in files.items() if n > MOST_FILES and name not in FREE_FOLDERS]
    for module, file in source.modules().items():
        lines = len(file.read_text(encoding="utf-8").splitlines())
        offenders += [f"{module}: {lines} lines"] if lines > MOST_LINES else []
    complain(f"over {MOST_LINES} lines a file or {MOST_FILES} files a folder", offenders)


def test_compressors_import_no_host_library() -> None:
    outside = {
        f"{module} imports {name}"
        for module in source.modules()
        if source.folder_of(module).startswith("adapters") and not source.folder_of(module).startswith("adapters.hosts")
        for name in source.outside_imports(module) & HEAVY
    }
    complain("libraries of hosts and training in adapters", sorted(outside))
    assert loaded("import framefold; framefold.list_compressors()", HEAVY) == set()


def test_videos_are_made_without_the_product_and_torch() -> None:
    assert loaded("import framefold.data.synthetic.generate", {"torch", "framefold.adapters"}) == set()


def test_hosts_name_no_compressor() -> None:
    names = set(framefold.list_compressors())
    offenders = [
        f"{module} names {word!r}"
        for module in source.modules()
        if source.folder_of(module).startswith("adapters.hosts")
        for word in _texts(module)
        if word in names
    ]
    complain("compressors named in hosts", offenders)


def _texts(module: str) -> Iterator[str]:
    for node in ast.walk(source.tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def loaded(code: str, names: set[str]) -> set[str]:
    """Those of the modules that a fresh Python has loaded after some code."""
    script = f"import sys\n{code}\nprint(*({sorted(names)!r} & sys.modules.keys()))".replace("([", "({").replace(
        "] &", "} &"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
