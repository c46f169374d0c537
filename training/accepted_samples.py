"""The samples of a batch that a host accepts; one that it refuses counts as damaged and does not end the training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

from framefold.data.loading.loader import Batch, ResumableLoader
from framefold.data.shards.encoded import EncodedSample
from framefold.data.shards.sample import Sample
from framefold.errors import DataError, FramefoldError, HostError, InputError, PromptError
from framefold.training.frozen_host.batch import EncodedBatch, collate_encoded, encode_batch
from framefold.training.frozen_host.host import Host

MOST_CANDIDATES = 64  # samples tried in place of a batch that the host refuses completely


def encode_accepted(host: Host, batch: Batch, loader: Any, attention: bool) -> tuple[EncodedBatch, list[Sample]]:
    """Encode the samples of a batch that the host accepts.

    The others are reported to the loader as damaged. If the host refuses all of them, the first sample of the data that
    it accepts takes their place, so that every rank takes part in the step; it does not depend on the position in the
    epoch, so that a resumed run takes the same one.

    Args:
        host: the host to encode with.
        batch: samples from a loader.
        loader: the loader. If it cannot count damage, or its videos are generated, the first refusal is raised.
        attention: also collect the attention that each token received in the vision encoder.

    Returns:
        The encoded batch, and its samples.

    Raises:
        DataError, InputError, PromptError, HostError: More samples are refused than ``max_damaged`` allows, or all that
            were tried.
    """
    if not isinstance(loader, ResumableLoader) or math.isinf(loader.stream.max_damaged_samples):
        return encode_batch(host, batch.samples, attention), list(batch.samples)
    accepted, refusals = _try(host, batch.samples, attention)
    if not accepted:
        accepted, _ = _try(host, islice(loader.stream.samples(), MOST_CANDIDATES), attention, most=1)
        if not accepted:
            raise refusals[0]
    loader.report_damage([str(refusal) for refusal in refusals])
    return collate_encoded(host, [encoded for _, encoded in accepted]), [sample for sample, _ in accepted]


def _try(
    host: Host, samples: Iterable[Sample], attention: bool, most: int | None = None
) -> tuple[list[tuple[Sample, EncodedSample]], list[FramefoldError]]:
    """Encode samples until enough are accepted; return these, and why others are refused."""
    accepted, refusals = list[tuple[Sample, EncodedSample]](), list[FramefoldError]()
    for sample in samples:
        try:
            accepted.append((sample, host.encode_sample(sample, attention)))
        except (DataError, InputError, PromptError) as error:
            refusals.append(error)
        except HostError as error:  # about a host that nothing can be encoded with, or the host of stored features
            if not isinstance(sample, EncodedSample):
                raise
            refusals.append(error)
        if len(accepted) == most:
            break
    return accepted, refusals
