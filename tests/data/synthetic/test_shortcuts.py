"""What the hard and the crowded task reveal: nothing without the video, and one frame only the evidence in it.

The readers see annotations instead of pixels, so they see perfectly. They are fitted on the train split and evaluated
on the test split. Twins are not independent, so standard errors are those of means over pairs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from framefold.data.question import Question
from framefold.data.random_stream import RandomStream
from framefold.data.splits import SPLITS
from framefold.data.synthetic.difficulty import PRESETS
from framefold.data.synthetic.generate import Video, generate
from framefold.data.synthetic.questions import CHANCE, HEADLINE, asked_types
from framefold.data.synthetic.render import SHAPES
from tests.support.annotated_videos import without_pixels

VIDEOS, FRAMES = 4000, 64  # per split; the standard error of the accuracy of a type is then about a point
CONTROLS = 1500  # of these videos, also a frame with evidence is read
BOUND = 0.02
DURATION = {"hard": 1.5, "crowded": 2.2}  # mean number of frames of a flash
DISTRACTORS = ("static", "blink", "flare", "decoy")


@dataclass(repr=False)
class Asked:
    """Questions of one type, and features of their choices in a random frame and in a frame with evidence."""

    duration: float
    texts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    choices: list[tuple[str, ...]] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)  # number of the pair of twins
    random: list[np.ndarray] = field(default_factory=list)
    evident: list[np.ndarray] = field(default_factory=list)  # of the first CONTROLS videos

    def right(self) -> np.ndarray:
        return np.array([c.index(a) for c, a in zip(self.choices, self.answers, strict=True)])

    def gain(self, hits: Sequence[float] | np.ndarray, kind: str) -> tuple[float, float]:
        """Accuracy minus chance level, and its standard error over pairs of twins."""
        means: dict[int, list[float]] = defaultdict(list)
        for pair, hit in zip(self.pairs, hits, strict=True):
            means[pair].append(hit)
        of_pairs = np.array([np.mean(some) for some in means.values()])
        return float(np.mean(hits)) - CHANCE[kind], float(of_pairs.std() / len(of_pairs) ** 0.5)


class Frame:
    """What one frame shows, apart from the question.

    Attributes:
        flash: shape and colour of its flash, or ("", "").
        relations: words for its texture, mover and distractors, to which choices are compared.
    """

    def __init__(self, video: Video, frame: int) -> None:
        shown = [event for event in video.events if event.first <= frame <= event.last]
        kinds = Counter(event.kind for event in shown)
        flash = next((event for event in shown if event.kind == "flash"), None)
        mover = next((event for event in shown if event.kind == "mover"), None)
        scene = next(scene for scene in video.scenes if scene.first <= frame <= scene.last)
        self.flash = (flash.shape, flash.color) if flash else ("", "")
        self.texture, self.mover = scene.texture, (mover.shape, mover.color) if mover else ()
        self.distractors = {word for event in shown if event.kind in DISTRACTORS for word in (event.shape, event.color)}
        fading = any(s.first - s.fade <= frame < s.first + s.fade for s in video.scenes[1:])
        self.states = [bool(flash), kinds.total() == kinds["static"], fading, bool(mover)]
        y, x = (round(16 * at) for at in mover.box(frame)[1:3]) if mover else (-1, -1)
        self.track = [y == 0, y == 11, x == 0, x == 11, (y - 5.5) / 6 * (y >= 0), (x - 5.5) / 6 * (x >= 0)]
        self.fine_track = [*(y == at for at in range(12)), *(x == at for at in range(12))]
        corner = [at - 0.34 for at in flash.path[0]] if flash else [0.0, 0.0]
        self.counts = [*corner, *(kinds[kind] / 2 for kind in DISTRACTORS)]
        self.time = (frame + 0.5) / FRAMES - 0.5

    def features(self, question: Question) -> np.ndarray:
        """(choices, D): relations of the choices to the frame, times what else it shows and how late it is."""
        words = question.text.split()
        names = [word for word in words if word in SHAPES]
        named = [len(names) > i and self.flash[0] == names[i] for i in range(2)]
        colored = self.flash[1] in words
        flash, still, fading, mover = self.states
        what = [flash, *named, colored, colored and named[0], still, fading, mover]
        t = self.time
        when = [t, abs(t), t < -0.4, t > 0.4, *(t * seen for seen in what)]
        when += [flash * (t < -0.3), flash * (t > 0.3), still * (abs(t) < 0.25) * np.sign(t)]
        track = self.fine_track if question.type == "direction" else self.track
        base = np.array([1, *what, *track, *self.counts, *when], np.float32)
        relations = [
            [c == self.flash[0], c == self.flash[1], c == self.texture, c in self.mover, c in self.distractors]
            for c in question.choices
        ]
        count = len(relations)
        crossed = np.array(relations, np.float32)[:, :, None] * base
        prior = np.eye(count, dtype=np.float32)[:, :, None] * (base if count <= 4 else 1)
        return np.concatenate([crossed.reshape(count, -1), prior.reshape(count, -1)], axis=1)


def questions_of(split: str, difficulty: str) -> dict[str, Asked]:
    """The questions about videos by type, with the features of a random frame."""
    asked = {kind: Asked(DURATION[difficulty]) for kind in asked_types(PRESETS[difficulty])}
    for index in range(VIDEOS):
        video = generate(index, split=split, frames=FRAMES, difficulty=difficulty, size=64)
        stream = RandomStream(11, SPLITS[split], index)
        frame = Frame(video, stream.below(FRAMES))
        for question in video.questions:
            of = asked[question.type]
            of.texts.append(question.text)
            of.answers.append(question.answer)
            of.choices.append(question.choices)
            of.pairs.append(index // 2)
            of.random.append(frame.features(question))
            if index < CONTROLS:
                of.evident.append(Frame(video, stream.pick(question.evidence)[0]).features(question))
    return asked


class Reader:
    """A conditional logit model; the choices share its weights."""

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
        """1 if the best choice is the correct one; ties share."""
        scores = np.stack(features) @ self.weights
        best = scores >= scores.max(axis=1, keepdims=True) - 1e-6
        return (best / best.sum(axis=1, keepdims=True))[np.arange(len(right)), right]


@pytest.fixture(scope="module", params=["hard", "crowded"])
def splits(request) -> tuple[dict[str, Asked], dict[str, Asked]]:
    """Questions of the train and of the test split of one difficulty."""
    with without_pixels():
        return questions_of("train", request.param), questions_of("test", request.param)


def test_text_alone_reveals_nothing(splits):
    """The reader knows the most frequent answer to every text."""
    train, test = splits
    for kind in train:
        priors: dict[str, Counter[str]] = defaultdict(Counter)
        for text, answer in zip(train[kind].texts, train[kind].answers, strict=True):
            priors[text][answer] += 1
        guesses = [priors[text].most_common(1)[0][0] if text in priors else "" for text in test[kind].texts]
        assert guesses.count("") < len(guesses) / 20
        hits = np.array([guess == answer for guess, answer in zip(guesses, test[kind].answers, strict=True)])
        gain, error = test[kind].gain(hits, kind)
        assert abs(gain) < max(BOUND, 3 * error) and error < 0.016, (kind, gain, error)


def test_type_alone_reveals_nothing(splits):
    """The readers know the most frequent answer of a type, and its most frequent position among the choices."""
    train, test = splits
    for kind in train:
        answer = Counter(train[kind].answers).most_common(1)[0][0]
        position = Counter(train[kind].right().tolist()).most_common(1)[0][0]
        for hits in (np.array(test[kind].answers) == answer, test[kind].right() == position):
            gain, error = test[kind].gain(hits, kind)
            assert gain < max(BOUND, 3 * error), (kind, gain, error)


def test_answers_are_balanced_over_the_choices_and_their_positions(splits):
    """Pearson's statistic over one of each pair of twins, against its 99.9 % quantile."""
    for asked in splits:
        for kind, of in asked.items():
            first = [i for i, pair in enumerate(of.pairs) if i == 0 or of.pairs[i - 1] != pair]
            counts = np.bincount(of.right()[first], minlength=round(1 / CHANCE[kind]))
            expected = len(first) * CHANCE[kind]
            assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(counts) - 1), (kind, counts)


def limit(duration: float, kind: str, error: float) -> float:
    """Largest permitted gain of one frame: its chance to contain a flash that gives the answer, and the bound."""
    return duration / FRAMES * (1 - CHANCE[kind]) + max(BOUND, 2 * error)


def test_one_frame_reveals_no_more_than_the_evidence_it_contains(splits):
    """The reader sees a random frame and its time without error."""
    train, test = splits
    gains = {}
    for kind in train:
        reader = Reader(train[kind].random, train[kind].right())
        gains[kind], error = test[kind].gain(reader.hits(test[kind].random, test[kind].right()), kind)
        assert gains[kind] < limit(test[kind].duration, kind, error), (kind, gains[kind], error)
    assert np.mean([gains[kind] for kind in HEADLINE if kind in gains]) < BOUND, gains


def test_reader_is_correct_if_its_frame_contains_the_evidence(splits):
    """First control: features and fit are sufficient to answer from a frame."""
    train, test = splits
    certain = dict.fromkeys(("needle", "exists", "half", "bg_at", "background", "order_first", "order_last"), 0.45)
    for kind, least in (certain | {"order_pair": 0.15, "between": 0.15}).items():
        fit, judged = train[kind].evident, test[kind].evident
        hits = Reader(fit, train[kind].right()[: len(fit)]).hits(judged, test[kind].right()[: len(judged)])
        assert hits.mean() - CHANCE[kind] > least, kind


def test_leak_in_one_of_sixteen_frames_is_detected(splits):
    """Second control: the bound is not too wide."""
    kind, leaked = "count_scene", []
    for asked in (split[kind] for split in splits):
        right = asked.right()
        leak = np.eye(4, dtype=np.float32)[right] * (np.arange(len(right)) % 16 == 0)[:, None]
        leaked.append(([np.c_[seen, row] for seen, row in zip(asked.random, leak, strict=True)], right))
    gain, error = splits[1][kind].gain(Reader(*leaked[0]).hits(*leaked[1]), kind)
    assert gain > limit(splits[1][kind].duration, kind, error)
