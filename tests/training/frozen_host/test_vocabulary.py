"""The embedded host warns when it is asked about words that it does not know."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from framefold.data.synthetic.questions import VOCABULARY
from framefold.data.synthetic.recipe import Recipe
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.vocabulary import unknown_words
from framefold.warning_types import UnknownWordsWarning
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host(ROOT / "checkpoints/tinyhost")


def test_unknown_words_are_those_outside_the_vocabulary(host: Host) -> None:
    assert unknown_words(host.tokenizer, " ".join(VOCABULARY)) == []
    assert unknown_words(host.tokenizer, "which color was the dog, the dog?") == ["dog", ","]
    assert unknown_words(host.tokenizer, "Which shape?") == ["Which"]  # it knows no capitals


def test_a_sample_with_unknown_words_is_encoded_with_one_warning(host: Host) -> None:
    recipe = Recipe((16, 16))
    sample = recipe.to_sample(recipe.video(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        host.encode_sample(sample)
    question = sample.questions[0]
    for other in (replace(question, text="is it a dog ?"), replace(question, answer="dog")):
        with pytest.warns(UnknownWordsWarning, match=f"{sample.key} has others \\(.*'dog'\\)"):
            load_host(ROOT / "checkpoints/tinyhost").encode_sample(replace(sample, questions=(question, other)))
    fresh = load_host(ROOT / "checkpoints/tinyhost")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            fresh.encode_sample(replace(sample, questions=(other,)))
    assert len([one for one in caught if issubclass(one.category, UnknownWordsWarning)]) == 1
