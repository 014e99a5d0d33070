"""Text of world 2 for the tiny language model: captions of a scene, then questions about it.

Every scene is told in words only, with nothing of how an image is cut into tokens. The questions are
those of the product's dialogues; the answer names the thing meant by all that a caption said of it.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from svp.pipeline.datasets.scenes.rng import Rng
from svp.pipeline.datasets.world2.captions import full_name
from svp.pipeline.datasets.world2.make import make_text
from svp.train.data.prompts import DESCRIBE, GLAMM, SYSTEM
from svp.train.data.tokenizer import Vocabulary

LONGEST = 512  # ids of a document; the rest is cut
QUESTIONS = 8  # about one scene at most
IGNORE = -100


class Story(NamedTuple):
    """captions of a scene; questions and answers as (expression, answer) pairs."""

    captions: tuple[str, ...]
    asked: tuple[tuple[str, str], ...]


def make_story(seed: int, index: int, split: str = "train") -> Story:
    """Scene `index` of a split, every difficulty in turn."""
    scene, phrases, captions = make_text(seed, index, split, difficulty=25 * (index % 5))
    names = [full_name(thing) for thing in scene.things]
    asked = []
    for phrase in phrases:
        told = [names[target] for target in phrase.targets]
        start = "It is" if len(told) == 1 else "They are"
        answer = f"{start} {' and '.join(told)}." if told else "There is none."
        asked.append((phrase.text, answer))
    return Story(captions, tuple(asked))


def document(story: Story, words: Vocabulary, rng: Rng) -> tuple[list[int], list[int]]:
    """(ids, places of the answers' ids): a dialogue in which captions are given, or asked for."""
    assert words.bos is not None
    told = list(story.captions)
    rng.shuffle(told)
    text = " ".join(f"{caption}." for caption in told)
    ids = [words.bos, *words.encode(f"{SYSTEM} USER:")]
    if rng.chance(25):  # a description without questions
        ids += words.encode(f"{rng.pick(DESCRIBE)} ASSISTANT:")
        return [*ids, *words.encode(text), words.eos], []
    ids += words.encode(text)
    asked, answers = list(story.asked), []
    rng.shuffle(asked)
    for number, (phrase, answer) in enumerate(asked[:QUESTIONS]):
        question = rng.pick(GLAMM.questions).format(phrase)
        ids += words.encode(f"{'USER: ' * (number > 0)}{question} ASSISTANT:")
        said = (*words.encode(answer), words.eos)
        answers += range(len(ids), len(ids) + len(said))
        ids += said
    return ids, answers


def batch(
    stories: list[Story], words: Vocabulary, key: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """ids (B,T), labels (B,T) with `IGNORE` on padding, and which of them are of answers (B,T)."""
    made = [document(story, words, Rng(*key, k)) for k, story in enumerate(stories)]
    longest = min(LONGEST, max(len(ids) for ids, _ in made))
    ids = np.full((len(made), longest), words.pad, np.int64)
    labels = np.full((len(made), longest), IGNORE, np.int64)
    of_answers = np.zeros((len(made), longest), bool)
    for row, (text, answers) in enumerate(made):
        kept = text[:longest]
        ids[row, : len(kept)] = labels[row, : len(kept)] = kept
        of_answers[row, [at for at in answers if at < longest]] = True
    return torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(of_answers)
