"""The command line: asks about the documents of a task one by one, and counts exact matches or calls the task."""

import argparse
import json
import math
import re
import subprocess
from types import SimpleNamespace

from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.tasks import TaskManager


def parse_eval_args():
    parser = argparse.ArgumentParser()
    for name in ("model", "model_args", "tasks", "output_path", "include_path", "timezone"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--batch_size", default=1)
    parser.add_argument("--limit", type=float)
    parser.add_argument("--log_samples", action="store_true")
    return parser, parser.parse_args()


def cli_evaluate_single(args):
    options = dict(pair.split("=", 1) for pair in args.model_args.split(","))
    model = MODEL_REGISTRY_V2.get_model_class(args.model)(**options, batch_size=args.batch_size)
    config = TaskManager(include_path=args.include_path).task_index[args.tasks]
    worker = subprocess.Popen(["sleep", "300"])  # a child process, as libraries start them
    split, name = config["test_split"], config["task"]
    with open(config["dataset_kwargs"]["data_files"][split]) as lines:
        documents = [json.loads(line) for line in lines][: int(args.limit) if args.limit else None]
    model.task_dict[name] = {split: documents}
    generation = {"until": ["\n\n"], **config["generation_kwargs"]}
    requests = [
        SimpleNamespace(
            task_name=name,
            args=(_fill(config["doc_to_text"], document), generation, config["doc_to_visual"], number, name, split),
        )
        for number, document in enumerate(documents)
    ]
    answers = getattr(model, config["output_type"])(requests)
    worker.kill()
    worker.wait()
    samples = [_sample(number, document, answers[number], config) for number, document in enumerate(documents)]
    results = _results(name, samples, config)
    folder = args.output_path.partition(",")[0]  # lmms-eval also cuts the path, which it joins with other arguments
    with open(f"{folder}/{name}_results.json", "w") as file:
        json.dump(results, file, default=str)
    return results, {name: samples}


def _sample(number, document, answer, config):
    target = _fill(config["doc_to_target"], document)
    process = config.get("process_results", lambda document, answers: {"exact_match": float(answers[0] == target)})
    metrics = process(document, [answer])
    return {"doc_id": number, "target": target, "filtered_resps": [answer], "doc_hash": "x", **metrics}


def _results(name, samples, config):
    entry = config["metric_list"][0]
    metric, combine = entry["metric"], entry["aggregation"]
    right = [sample[metric] for sample in samples]
    mean = sum(right) / len(right)
    stderr = math.sqrt(mean * (1 - mean) / (len(right) - 1)) if len(right) > 1 else "N/A"
    values = {"alias": name, f"{metric},none": combine(right) if callable(combine) else mean}
    values |= {f"{metric}_stderr,none": stderr, f"{metric}_stderr_clustered,none": "N/A"}
    return {
        "results": {name: values},
        "configs": {name: {key: value for key, value in config.items() if not callable(value)}},
        "n-samples": {name: {"original": len(right), "effective": len(right)}},
        "higher_is_better": {name: {metric: True}},
    }


def _fill(template, document):
    return re.sub(r"\{\{(\w+)\}\}", lambda found: str(document[found[1]]), template)
