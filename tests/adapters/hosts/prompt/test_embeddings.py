"""Token ids that are found from embeddings."""

from __future__ import annotations

import pytest
import torch

from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.prompt.embeddings import with_ids
from tests.support.hosts.tiny_families import FIRST_WORD, HOSTS, IMAGE, VIDEO


@pytest.mark.parametrize("name", [name for name in ("qwen2_vl", "gemma4") if name in HOSTS])  # the second scales them
def test_ids_are_those_of_the_embeddings_and_below_zero_for_other_vectors(name: str) -> None:
    model = HOSTS[name].build()
    family, embedding = family_of(model), model.get_input_embeddings()
    ids = torch.tensor([[5, IMAGE, VIDEO, 5, 0, 63], [VIDEO, 0, 7, 8, IMAGE, 9]])
    embeds = embedding(ids)
    assert torch.equal(with_ids(model, family, {"inputs_embeds": embeds})["input_ids"], ids)
    embeds[0, 0] = embeds[1, 3] = torch.ones(32)
    embeds[1, 5, -1] += 1
    found = with_ids(model, family, {"inputs_embeds": embeds})["input_ids"]
    other = (found != ids).nonzero().tolist()
    assert other == [[0, 0], [1, 3], [1, 5]] and found[0, 0] == found[1, 3] != found[1, 5]
    assert max(found[0, 0], found[1, 5]) < 0


def test_a_vector_that_equals_a_placeholder_is_one_although_a_word_has_it_too() -> None:
    """As in the hosts, which compare only with the placeholder."""
    model = HOSTS["llava_next_video"].build()
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        embedding.weight[FIRST_WORD] = embedding.weight[VIDEO]
        embedding.weight[:, 0] = 0  # so that the first component tells nothing
    ids = torch.tensor([[FIRST_WORD, 9, VIDEO]])
    found = with_ids(model, family_of(model), {"inputs_embeds": embedding(ids)})["input_ids"]
    assert found.tolist() == [[VIDEO, 9, VIDEO]]


def test_ids_of_the_caller_are_not_replaced() -> None:
    model = HOSTS["qwen2_vl"].build()
    inputs = {"input_ids": torch.tensor([[4]]), "inputs_embeds": torch.zeros(1, 1, 32)}
    assert with_ids(model, family_of(model), inputs) is inputs
