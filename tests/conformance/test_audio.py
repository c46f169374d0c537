"""Omni hosts: audio that is interleaved with a video by time stays whole, and the complete model is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import framefold
from framefold.adapters.hosts import prepare
from framefold.errors import UnsupportedHostError
from tests.support.hosts.bare_hosts import COMPRESSING, KEEPING, Batch, Host, build, perturb
from tests.support.hosts.oracles import TOLERANCE, max_difference, run_masked, shorten_row
from tests.support.hosts.tiny_families import AUDIO, END, HOSTS, OMNI, START, VIDEO

THINKERS = [name for name in HOSTS if name.endswith("_thinker")]
FRAMES, PER_FRAME = 4, 6


@pytest.fixture(scope="module", params=THINKERS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param)


def heard(host: Host) -> tuple[dict[str, Any], int]:
    """Return the arguments of one audio track, and its number of tokens."""
    features = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(2))
    audio = {"input_features": features, "feature_attention_mask": torch.ones(1, 32, dtype=torch.long)}
    return audio, len(host.model.base_model.get_audio_features(**audio, return_dict=True).last_hidden_state)


def interleaved(host: Host) -> Batch:
    """Return a prompt whose video and audio track alternate, as the processors write them."""
    audio, count = heard(host)
    ids = [5, 6, START, OMNI["audio_start_token_id"]]
    for frame in range(FRAMES):
        tokens = count // FRAMES + (frame < count % FRAMES)
        ids += [VIDEO] * PER_FRAME + [AUDIO] * tokens
    ids += [OMNI["audio_end_token_id"], END, 7, 8, 9]
    inputs = host.batch([5, -FRAMES, 6]).inputs | audio | {"use_audio_in_video": True}
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return Batch(host, [[4, -FRAMES, 5]], "left", inputs)


def test_identity_is_bit_identical_with_audio_in_the_video(host: Host) -> None:
    inputs = interleaved(host).inputs
    logits, tokens = host.model(**inputs).logits, host.model.generate(**inputs, max_new_tokens=3)
    with framefold.attach(host.model, KEEPING()):
        assert torch.equal(host.model(**inputs).logits, logits)
        assert torch.equal(host.model.generate(**inputs, max_new_tokens=3), tokens)
    deaf = inputs | {"input_features": torch.zeros_like(inputs["input_features"])}
    assert max_difference([host.model(**deaf).logits], [logits]) > 10 * TOLERANCE  # so the audio is heard


@pytest.mark.parametrize("kind", COMPRESSING)
def test_the_audio_of_a_shorter_video_stays_whole(host: Host, kind: str) -> None:
    batch, compressor = interleaved(host), COMPRESSING[kind]()
    with framefold.attach(host.model, compressor), torch.no_grad():
        perturb(compressor)
        logits = host.model(**batch.inputs).logits
        tokens = host.model.generate(**batch.inputs, max_new_tokens=1)
    prepared = prepare(host.model, batch.inputs, compressor)
    assert int((prepared.kwargs["input_ids"] == AUDIO).sum()) == heard(host)[1]
    short = shorten_row(batch, compressor)
    assert len(short.columns) < batch.inputs["input_ids"].shape[1]
    if kind == "merging":
        return
    expected = run_masked(batch, [short])
    assert max_difference(list(logits), expected) < TOLERANCE
    assert int(tokens[0, -1]) == int(expected[0][-1].argmax())


def test_the_complete_model_is_refused_and_its_thinker_named() -> None:
    host = build("qwen2_5_omni_thinker")

    class Complete(PreTrainedModel):
        config_class = type(host.model.config)
        _supports_sdpa = True

        def __init__(self) -> None:
            super().__init__(host.model.config)
            self.thinker = host.model

    with pytest.raises(UnsupportedHostError, match=r"attach to its part \.thinker instead"):
        framefold.attach(Complete(), KEEPING())
