"""What the hard task gives away: nothing without the video, and one frame no more than the evidence it happens to hold.

The readers see annotations, not pixels, so they see perfectly; they are fitted on the train split and judged on the
test split. Twins are not independent: errors are those of means over pairs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from framefold.data.question import Question
from framefold.data.random_stream import RandomStream
from framefold.data.synthetic import generate as synthetic
from framefold.data.synthetic.generate import Video, generate
from framefold.data.synthetic.questions import CHANCE, HEADLINE, QUESTION_TYPES
from framefold.data.synthetic.render import SHAPES

VIDEOS, FRAMES = 4000, 64  # of each split; a type's accuracy is then known to about a point
CONTROLS = 1500  # of them also with a frame out of the evidence
BOUND = 0.02
DISTRACTORS = ("static", "blink", "flare", "decoy")


@dataclass(repr=False)
class Asked:
    """Questions of one type, and what a frame shows of their choices: a random one, or one out of the evidence."""

    texts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    choices: list[tuple[str, ...]] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)  # number of the twins
    seen: list[np.ndarray] = field(default_factory=list)
    shown: list[np.ndarray] = field(default_factory=list)  # of the first of them

    def right(self) -> np.ndarray:
        return np.array([c.index(a) for c, a in zip(self.choices, self.answers, strict=True)])

    def gain(self, hits: Sequence[float] | np.ndarray, kind: str) -> tuple[float, float]:
        """Accuracy less chance, and its standard error over pairs of twins."""
        means: dict[int, list[float]] = defaultdict(list)
        for pair, hit in zip(self.pairs, hits, strict=True):
            means[pair].append(hit)
        of_pairs = np.array([np.mean(some) for some in means.values()])
        return float(np.mean(hits)) - CHANCE[kind], float(of_pairs.std() / len(of_pairs) ** 0.5)


def frame_features(video: Video, frame: int, question: Question) -> np.ndarray:
    """(choices, D): what one frame shows of every choice, times what else it shows and how late it is."""
    shown = [event for event in video.events if event.first <= frame <= event.last]
    kinds = Counter(event.kind for event in shown)
    flash = next((event for event in shown if event.kind == "flash"), None)
    mover = next((event for event in shown if event.kind == "mover"), None)
    scene = next(scene for scene in video.scenes if scene.first <= frame <= scene.last)
    fading = any(s.first - s.fade <= frame < s.first + s.fade for s in video.scenes[1:])
    words = question.text.split()
    names = [word for word in words if word in SHAPES]
    look = (flash.shape, flash.color) if flash else ("", "")
    named = [len(names) > i and look[0] == names[i] for i in range(2)]
    colored = look[1] in words
    what = [bool(flash), *named, colored, colored and named[0], kinds.total() == kinds["static"], fading, bool(mover)]
    y, x = (round(16 * at) for at in mover.box(frame)[1:3]) if mover else (-1, -1)
    lane = [y == 0, y == 11, x == 0, x == 11, (y - 5.5) / 6 * (y >= 0), (x - 5.5) / 6 * (x >= 0)]
    if question.type == "direction":
        lane = [*(y == at for at in range(12)), *(x == at for at in range(12))]
    place = [at - 0.34 for at in flash.path[0]] if flash else [0.0, 0.0]
    t = (frame + 0.5) / FRAMES - 0.5
    when = [t, abs(t), t < -0.4, t > 0.4, *(t * seen for seen in what)]
    when += [bool(flash) * (t < -0.3), bool(flash) * (t > 0.3), what[5] * (abs(t) < 0.25) * np.sign(t)]
    whole = [1, *what, *lane, *place, *(kinds[kind] / 2 for kind in DISTRACTORS), *when]
    others = {word for event in shown if event.kind in DISTRACTORS for word in (event.shape, event.color)}
    of_mover = (mover.shape, mover.color) if mover else ()
    relations = [
        [choice == look[0], choice == look[1], choice == scene.texture, choice in of_mover, choice in others]
        for choice in question.choices
    ]
    base, count = np.array(whole, np.float32), len(relations)
    crossed = np.array(relations, np.float32)[:, :, None] * base
    own = np.eye(count, dtype=np.float32)[:, :, None] * (base if count <= 4 else 1)  # shapes, colours: only a prior
    return np.concatenate([crossed.reshape(count, -1), own.reshape(count, -1)], axis=1)


def questions_of(split: str) -> dict[str, Asked]:
    """The questions about hard videos by type, with what a random frame shows."""
    asked = {kind: Asked() for kind in QUESTION_TYPES}
    for index in range(VIDEOS):
        video = generate(index, split=split, frames=FRAMES, difficulty="hard", size=32)
        draws = RandomStream(11, synthetic.SPLITS[split], index)
        frame = draws.below(FRAMES)
        for question in video.questions:
            of = asked[question.type]
            of.texts.append(question.text)
            of.answers.append(question.answer)
            of.choices.append(question.choices)
            of.pairs.append(index // 2)
            of.seen.append(frame_features(video, frame, question))
            if index < CONTROLS:
                of.shown.append(frame_features(video, draws.pick(question.evidence)[0], question))
    return asked


class Reader:
    """A conditional logit: weights shared by the choices."""

    def __init__(self, features: list[np.ndarray], right: np.ndarray) -> None:
        x, y = torch.from_numpy(np.stack(features)), torch.from_numpy(right)
        w = torch.zeros(x.shape[-1], requires_grad=True)
        optimizer = torch.optim.LBFGS([w], max_iter=60, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(x @ w, y) + 3 / len(y) * w.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        self.weights = w.detach().numpy()

    def hits(self, features: list[np.ndarray], right: np.ndarray) -> np.ndarray:
        """1 where the best choice is the right one; ties share."""
        scores = np.stack(features) @ self.weights
        best = scores >= scores.max(axis=1, keepdims=True) - 1e-6
        return (best / best.sum(axis=1, keepdims=True))[np.arange(len(right)), right]


@pytest.fixture(scope="module")
def splits() -> Iterator[tuple[dict[str, Asked], dict[str, Asked]]]:
    """Questions of the train and of the test split; pixels, which nothing here looks at, are left out."""
    index = 5
    whole = generate(index, difficulty="hard", size=32).annotations()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            synthetic, "_film", lambda scenes, backdrops, events, frames, *_: np.zeros((frames, 1, 1, 3), "u1")
        )
        patch.setattr(synthetic, "_pulse", lambda *_: None)
        patch.setattr(synthetic, "_sensor", lambda *_: None)
        assert generate(index, difficulty="hard", size=32).annotations() == whole
        yield questions_of("train"), questions_of("test")


def test_the_text_alone_tells_nothing(splits):
    """Priors of every text, fitted on the train split."""
    train, test = splits
    for kind in QUESTION_TYPES:
        priors: dict[str, Counter[str]] = defaultdict(Counter)
        for text, answer in zip(train[kind].texts, train[kind].answers, strict=True):
            priors[text][answer] += 1
        guesses = [priors[text].most_common(1)[0][0] if text in priors else "" for text in test[kind].texts]
        assert guesses.count("") < len(guesses) / 20
        hits = np.array([guess == answer for guess, answer in zip(guesses, test[kind].answers, strict=True)])
        gain, error = test[kind].gain(hits, kind)
        assert abs(gain) < max(BOUND, 3 * error) and error < 0.016, (kind, gain, error)


def test_the_type_alone_tells_nothing(splits):
    """The commonest answer of a type, and the commonest place of the right answer among the choices."""
    train, test = splits
    for kind in QUESTION_TYPES:
        answer = Counter(train[kind].answers).most_common(1)[0][0]
        place = Counter(train[kind].right().tolist()).most_common(1)[0][0]
        for hits in (np.array(test[kind].answers) == answer, test[kind].right() == place):
            gain, error = test[kind].gain(hits, kind)
            assert gain < max(BOUND, 3 * error), (kind, gain, error)


def test_answers_are_balanced_over_the_choices_and_their_places(splits):
    """Pearson's statistic over one of each pair of twins, against its 99.9 % quantile."""
    for asked in splits:
        for kind, of in asked.items():
            first = [i for i, pair in enumerate(of.pairs) if i == 0 or of.pairs[i - 1] != pair]
            counts = np.bincount(of.right()[first], minlength=round(1 / CHANCE[kind]))
            expected = len(first) * CHANCE[kind]
            assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(counts) - 1), (kind, counts)


def limit(kind: str, error: float) -> float:
    """Most that one frame may gain: what it gains if it holds a flash that answers for sure, and the bound."""
    return 1.5 / FRAMES * (1 - CHANCE[kind]) + max(BOUND, 2 * error)


def test_one_frame_tells_no_more_than_the_evidence_it_happens_to_hold(splits):
    """A random frame and its time, read without error."""
    train, test = splits
    gains = {}
    for kind in QUESTION_TYPES:
        reader = Reader(train[kind].seen, train[kind].right())
        gains[kind], error = test[kind].gain(reader.hits(test[kind].seen, test[kind].right()), kind)
        assert gains[kind] < limit(kind, error), (kind, gains[kind], error)
    assert np.mean([gains[kind] for kind in HEADLINE]) < BOUND, gains


def test_the_same_reader_is_right_if_its_frame_holds_the_evidence(splits):
    """The first control: features and fit can answer what a frame shows."""
    train, test = splits
    whole = dict.fromkeys(("needle", "exists", "half", "bg_at", "background", "order_first", "order_last"), 0.45)
    for kind, least in (whole | {"order_pair": 0.15, "between": 0.15}).items():
        fit, seen = train[kind].shown, test[kind].shown
        hits = Reader(fit, train[kind].right()[: len(fit)]).hits(seen, test[kind].right()[: len(seen)])
        assert hits.mean() - CHANCE[kind] > least, kind


def test_a_leak_planted_in_one_of_sixteen_frames_is_found(splits):
    """The second control: the bound is not too wide."""
    kind, told = "count_scene", []
    for asked in (split[kind] for split in splits):
        right = asked.right()
        leak = np.eye(4, dtype=np.float32)[right] * (np.arange(len(right)) % 16 == 0)[:, None]
        told.append(([np.c_[seen, row] for seen, row in zip(asked.seen, leak, strict=True)], right))
    gain, error = splits[1][kind].gain(Reader(*told[0]).hits(*told[1]), kind)
    assert gain > limit(kind, error)
