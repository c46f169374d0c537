"""The map between the columns of a batch and those of its shortened form, on small examples."""

import torch

from framefold.adapters.hosts.prompt.compaction import compact


def flags(*rows: str) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in row] for row in rows])


def test_a_batch_without_dropped_columns_is_unchanged_including_padding() -> None:
    plan = compact(flags("11111", "11111"), flags("00111", "11111"), "left")
    assert plan.trivial and plan.n_after == 5 and plan.removed == 0
    values = torch.arange(10).view(2, 5)
    assert plan.gather(values, -1) is values and plan.expand(values) is values


def test_kept_columns_move_together_and_new_padding_goes_to_the_given_side() -> None:
    keep, real = flags("110011", "100111"), flags("111111", "111111")
    right = compact(flags("110001", "100111"), real, "right")
    assert right.src.tolist() == [[0, 1, 5, 0], [0, 3, 4, 5]] and right.pad.tolist() == [
        [False] * 3 + [True],
        [False] * 4,
    ]
    left = compact(flags("110001", "100111"), real, "left")
    assert left.src.tolist() == [[0, 0, 1, 5], [0, 3, 4, 5]] and left.pad[0].tolist() == [True, False, False, False]
    assert not compact(keep, real).pad.any()


def test_old_padding_is_removed_but_masked_columns_between_are_kept() -> None:
    plan = compact(flags("11110111"), flags("00110101"), "left")
    assert plan.src.tolist() == [[2, 3, 5, 6, 7]]


def test_filler_is_between_padding_and_the_kept_columns() -> None:
    keep, real, filler = flags("11111", "10001"), flags("11111", "11111"), torch.tensor([0, 1])
    left, right = compact(keep, real, "left", filler), compact(keep, real, "right", filler)
    assert left.filler.tolist() == [[False] * 5, [False, False, True, False, False]]
    assert right.filler.tolist() == [[False] * 5, [False, False, True, False, False]]
    assert (left.filler & ~left.pad).sum() == 0 and not left.trivial


def test_filler_alone_lengthens_the_batch() -> None:
    plan = compact(flags("111", "111"), flags("111", "111"), "left", torch.tensor([2, 0]))
    assert plan.n_after == 5 and plan.removed == -2
    assert plan.src[0].tolist() == [0, 0, 0, 1, 2] and plan.filler[0].tolist() == [True, True, False, False, False]
    assert plan.filler[1].tolist() == [False] * 5 and plan.pad[1].tolist() == [True, True, False, False, False]


def test_gather_fills_padding_and_takes_leading_dimensions() -> None:
    plan = compact(flags("1001", "0001"), flags("1111", "1111"), "left")
    values = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert plan.gather(values, -100).tolist() == [[1, 4], [-100, 8]]
    assert plan.gather(values.expand(3, 2, 4), 0).tolist() == [[[1, 4], [0, 8]]] * 3


def test_expand_gives_a_column_the_value_of_its_last_kept_predecessor() -> None:
    left = compact(flags("1001100", "0011111"), flags("1111111", "0011111"), "left")
    values = torch.arange(10.0).view(2, 5)
    assert left.expand(values).tolist() == [[2, 2, 2, 3, 4, 4, 4], [5, 5, 5, 6, 7, 8, 9]]
    padded = compact(flags("1111100", "0000111"), flags("1111111", "0000111"), "left")
    assert padded.expand(values)[1].tolist() == [7, 7, 7, 7, 7, 8, 9]
    right = compact(flags("0110010"), flags("1111111"), "right")
    assert right.expand(torch.tensor([[[7.0], [8.0], [9.0]]]))[0, :, 0].tolist() == [7, 7, 8, 8, 8, 9, 9]


def test_random_batches_agree_with_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    for side in ("left", "right"):
        keep = torch.rand(4, 30, generator=generator) < 0.4
        keep[:, 0] = True
        plan = compact(keep, torch.ones_like(keep), side)
        for row in range(4):
            kept = keep[row].nonzero()[:, 0].tolist()
            assert plan.src[row][~plan.pad[row]].tolist() == kept
            assert plan.pad[row].tolist() == sorted(plan.pad[row].tolist(), reverse=side == "left")
            where = plan.last_kept()[row].tolist()
            assert [plan.src[row, j].item() for j in where] == [max(k for k in kept if k <= i) for i in range(30)]


def test_a_value_for_the_next_column_moves_to_the_last_kept_column_before_it() -> None:
    plan = compact(flags("1100110", "0111111"), flags("1111111", "1111111"), "left")
    moved, lost = plan.gather_shifted(torch.tensor([[1, -1, -1, 4, 5, -1, 7], [-1, 2, 3, 4, 5, 6, -1]]), -1)
    assert moved.tolist() == [[-1, -1, 1, 4, 5, 7], [2, 3, 4, 5, 6, -1]] and lost == 0
    # no column before the second one is kept
    assert plan.gather_shifted(torch.tensor([[-1] * 7, [9, *[-1] * 6]]), -1)[1] == 1
    whole = compact(flags("11"), flags("11"))
    values = torch.tensor([[3, 4]])
    assert whole.gather_shifted(values, -1) == (values, 0)


def test_vectors_move_with_their_columns_and_padding_is_zero() -> None:
    plan = compact(flags("1001", "0001"), flags("1111", "1111"), "left")
    values = torch.arange(1.0, 17).view(2, 4, 2)
    assert plan.gather_vectors(values).tolist() == [[[1, 2], [7, 8]], [[0, 0], [15, 16]]]
