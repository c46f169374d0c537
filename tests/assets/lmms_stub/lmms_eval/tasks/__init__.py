"""Tasks by name, from YAML files; ``!function file.name`` is a function of a file in the same folder."""

import importlib.util
from pathlib import Path

import yaml

BUILT_IN = ("mlvu_dev", "mlvu_test", "videomme")


class TaskManager:
    def __init__(self, verbosity="INFO", include_path=None, model_name=None):
        self.task_index = {}
        for file in sorted(Path(include_path).rglob("*.yaml")) if include_path else []:
            config = load(file)
            self.task_index[config["task"]] = config
        self.all_tasks = sorted([*self.task_index, *BUILT_IN])


def load(file):
    class Loader(yaml.SafeLoader):
        pass

    def function(_, node):
        module, _, name = node.value.partition(".")
        spec = importlib.util.spec_from_file_location(module, file.with_name(f"{module}.py"))
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    Loader.add_constructor("!function", function)
    return yaml.load(file.read_text(), Loader)
