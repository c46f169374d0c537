"""Memory and operations of a vision encoder, which are linear in the number of frames beyond a few.

Some vision encoders run an operation for each window of each frame, so that running all frames would take minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.evaluation.metrics.flops import count_flops
from framefold.evaluation.metrics.tensor_ledger import TensorLedger
from framefold.training.frozen_host.host import Host

from .empty_host import empty_clip, longer_clip
from .no_values import NoValues
from .workload import Workload

TOWER = "tower"

FEW = 4  # frames that are run; and twice as many


@dataclass(frozen=True)
class VisionCost:
    """What the vision encoder needs for one video.

    Attributes:
        peak: bytes, besides the weights, with pixels and features.
        kept: bytes of the features, which stay.
        flops: operations.
        traffic: bytes that are read and written.
    """

    peak: int
    kept: int
    flops: int
    traffic: int


def measure_tower(
    host: Host, work: Workload, values: NoValues, ledger: TensorLedger, attention: bool
) -> tuple[Encoded, VisionCost]:
    """Run the vision encoder on few frames, or on all if there are not more, and extrapolate.

    Args:
        host: without values.
        work: size and number of the frames.
        values: the mode, which is active.
        ledger: active; its part is changed.
        attention: also return the attention that each token received in the vision encoder.
    """
    ledger.part = TOWER
    count = work.vision_chunk or FEW  # with chunks, only the features grow
    if work.frames % count or work.frames <= 2 * count:
        return _run(host, work, work.frames, values, ledger, attention)
    clip, few = _run(host, work, count, values, ledger, attention)
    _, twice = _run(host, work, 2 * count, values, ledger, attention)
    times = work.frames // count
    sizes = [one + (times - 1) * (two - one) for one, two in zip(vars(few).values(), vars(twice).values(), strict=True)]
    return longer_clip(clip, times, values), VisionCost(*sizes)


def _run(
    host: Host, work: Workload, frames: int, values: NoValues, ledger: TensorLedger, attention: bool
) -> tuple[Encoded, VisionCost]:
    ledger.forget_peak()
    others, read = ledger.peak, ledger.traffic
    clips: list[Encoded] = []
    flops = count_flops(lambda: clips.append(empty_clip(host, work, frames, values, attention)))
    (clip,) = clips
    kept = sum(tensor.nbytes for tensor in (clip.features, clip.extra, *clip.deepstack))
    return clip, VisionCost(ledger.peak - others, kept, flops, ledger.traffic - read)
