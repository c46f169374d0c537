"""The registry of models."""

import importlib


class Registry:
    def __init__(self):
        self.manifests = {}

    def register_manifest(self, manifest, *, overwrite=False):
        assert overwrite or manifest.model_id not in self.manifests
        self.manifests[manifest.model_id] = manifest

    def get_model_class(self, name):
        module, _, found = self.manifests[name].simple_class_path.rpartition(".")
        return getattr(importlib.import_module(module), found)


MODEL_REGISTRY_V2 = Registry()
