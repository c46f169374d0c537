"""``framefold bench data``: rates are medians of alternating turns, and a leak in a worker is seen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from framefold.__main__ import main
from framefold.errors import ConfigError, HostError
from framefold.evaluation.bench import loading as module
from framefold.evaluation.bench.loading import bench_data
from framefold.evaluation.metrics import timing


def test_rates_are_medians_of_alternating_turns_without_the_warm_up(monkeypatch):
    clock = {"now": 0.0}
    order: list[str] = []

    def work(name: str, seconds: list[float]):
        def run() -> int:
            order.append(name)
            clock["now"] += seconds.pop(0)
            return 12

        return run

    fake = SimpleNamespace(perf_counter=lambda: clock["now"], process_time=lambda: 0.0)
    monkeypatch.setattr(timing, "time", fake)
    works = [work("a", [100.0, 1.0, 2.0, 3.0]), work("b", [100.0, 4.0, 6.0, 12.0])]
    assert module._rates(works, 3, "test") == [6.0, 2.0]
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]  # none is always first


def test_growing_memory_is_seen_and_constant_memory_is_not(shards, monkeypatch):
    from framefold.data.loading import shard_stream as stream

    monkeypatch.setattr(module, "EVERY", 4)
    flat = module._memory(str(shards), "videos", 120)
    real, leaked = stream.unpack_sample, []

    def leaking(key, files):
        leaked.append(bytearray(b"x" * (1 << 20)))
        return real(key, files)

    monkeypatch.setattr(stream, "unpack_sample", leaking)
    # Freed memory of an earlier task; the last block keeps the heap from shrinking by itself.
    last = [b"x" * (1 << 16) for _ in range(6000)][-1]
    leaky = module._memory(str(shards), "videos", 120)
    assert leaky["videos_growth_mib"] > 60 and flat["videos_growth_mib"] < 15
    assert leaky["videos_worker_mib"] > flat["videos_worker_mib"] + 60
    del last


@pytest.mark.parametrize("host", ["Qwen/Qwen2.5-VL-7B-Instrct", "nowhere"])
def test_a_host_that_is_not_there_is_an_error_before_videos_are_written(host, monkeypatch):
    monkeypatch.setattr(module, "synth", lambda *args, **kwargs: pytest.fail("videos were written"))
    with pytest.raises(HostError, match=host):
        bench_data(host=host)


def test_numbers_that_are_not_positive_are_errors_before_the_work():
    for wrong in (dict(samples=0), dict(repeats=0), dict(videos=0), dict(frames=[0]), dict(samples=50)):
        with pytest.raises(ConfigError):
            bench_data(**wrong)


def test_videos_and_features_are_measured(random_host, monkeypatch, capsys):
    monkeypatch.setattr(module, "EVERY", 2)
    words = ["--host", str(random_host), "--samples", "40", "--repeats", "1", "--videos", "8", "--frames", "16"]
    assert main(["bench", "data", *words]) == 0
    out = capsys.readouterr().out
    assert "times bare PyAV" in out and "times the use in training" in out and "features:" in out
