"""A dialogue in the words of a model's own chat template, cut into the segments of a dialogue.

The template is rendered once for each number of turns, with marks in place of the image, the
questions and the answers; texts take the marks' places afterwards. So the ids are those of
`apply_chat_template`, and the supervised ones are known without a second tokenisation. Text is cut
next to special tokens and before answers only, where every template has a line break or a special
token: nowhere else would its pieces have the ids of the whole.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cache
from typing import Any

from ...model.language.adapter import Language
from ...pipeline.display import quote, show
from ...pipeline.errors import ConfigError
from .prompts import EOS, IM_END, IM_START, IMAGE, Segment, Turn, Wording, answer_segments

# Some templates state the day (Llama 3.2, SmolLM3, Granite): a prompt must not change overnight. In the
# template this comes before the function that transformers offers; it is the day that Llama 3.1's
# falls back to.
TODAY = date(2024, 7, 26)
_CLOCK = (
    "{%- macro strftime_now(form) -%}{{ form"
    + "".join(f" | replace('{code}', '{TODAY:{code}}')" for code in ("%d", "%b", "%B", "%m", "%Y"))
    + " }}{%- endmacro %}"
)
_MARK = re.compile("svp:(image|question|answer):([0-9]+):")
_SYSTEM = "svp:system:0:"


class ChatTemplate:
    """The template of `tokenizer`, with the options of its `language` for it.

    system  text of a system message before the dialogue; "": none, not even one that the template
            writes by itself; None: as the template does
    end     the token that ends an answer

    Raises ConfigError for a template that does not repeat what is said word for word, that ends
    an answer otherwise than by a token of its own, or that has no system message.
    """

    def __init__(self, tokenizer: Any, language: Language, system: str | None = None) -> None:
        self._tokenizer, self._language = tokenizer, language
        self._system = [{"role": "system", "content": system}] if system else []
        self._parts = cache(self._rendered)
        added = tokenizer.get_added_vocab()
        if system:
            self._require_system()
        after = self._parts(1, False)[-1]
        self.end = _token_before(after, added)
        if not self.end:
            raise ConfigError(f"its chat template ends an answer with {quote(after)}: need a token")
        # Phi's tokens take the blanks that follow.
        self._takes = tokenizer.added_tokens_decoder[added[self.end]].rstrip
        if self._parts(1, True) != self._parts(1, False)[:-1]:
            raise ConfigError("its chat template opens an answer otherwise than it shows it later")
        self._start = self._without_default(added) if system == "" else None

    def with_system(self, text: str) -> "ChatTemplate":
        """The same with another system message. Raises ConfigError where it has none."""
        return ChatTemplate(self._tokenizer, self._language, text)

    def segments(self, turns: Sequence[Turn], wording: Wording) -> Iterator[Segment]:
        """The dialogue in pieces (at least one turn; only the last may be open)."""
        start, *parts = self._parts(len(turns), turns[-1].answer is None)
        yield Segment((start if self._start is None else self._start) + wording.before)
        for token in (IM_START, IMAGE, IM_END):
            yield Segment(token, special=True)
        opening = wording.after + parts.pop(0)
        for turn in turns:
            yield Segment(opening + turn.question + parts.pop(0))
            if turn.answer is not None:
                yield from answer_segments(turn.answer)
                yield Segment(EOS, special=True, supervised=True)
                opening = parts.pop(0).removeprefix(self.end)
                opening = opening.lstrip() if self._takes else opening
        if turns[-1].answer is not None and opening:
            yield Segment(opening)

    def text(self, messages: Sequence[Mapping[str, str]], *, generate: bool) -> str:
        """`apply_chat_template` with the family's options. Raises ConfigError if it fails."""
        from jinja2 import TemplateError

        try:
            found: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generate,
                chat_template=_CLOCK + self._tokenizer.chat_template, **self._language.template,
            )  # fmt: skip
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise ConfigError(f"its chat template fails: {show(str(error), 200)}") from None
        return found

    def _rendered(self, turns: int, is_open: bool) -> list[str]:
        """Text before the image, before each question, after it, and after each answer."""
        messages, wanted = list(self._system), [("image", "0")]
        for n in range(turns):
            image = "svp:image:0:" if n == 0 else ""
            messages.append({"role": "user", "content": f"{image}svp:question:{n}:"})
            messages.append({"role": "assistant", "content": f"svp:answer:{n}:"})
            wanted += [("question", str(n)), ("answer", str(n))]
        said = messages[:-1] if is_open else messages
        text = self.text(said, generate=is_open)
        if _MARK.findall(text) != (wanted[:-1] if is_open else wanted):
            raise ConfigError("its chat template leaves out, or repeats, a part of the dialogue")
        return _MARK.split(text)[::3]

    def _require_system(self) -> None:
        """Raises ConfigError unless the template repeats a system message, wherever it does."""
        try:
            why = "" if _SYSTEM in self._marked() else "leaves its text out"
        except ConfigError as error:
            why = str(error).removeprefix("its chat template ")
        if why:
            raise ConfigError(
                f"model.system_text: the chat template of {self._language.title} takes no system "
                f"message: it {why}: leave model.system_text out, or take a model whose template has one"
            )

    def _marked(self) -> str:
        """The start of a dialogue with a system message, up to the image."""
        said = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": "svp:image:0:"},
        ]
        return _MARK.split(self.text(said, generate=True))[0]

    def _without_default(self, added: Mapping[str, int]) -> str:
        """The text before the image without the system message that the template writes where none is
        given; what it writes beside any message, such as the day, stays.
        """
        start = self._parts(1, False)[0]
        try:
            before, found, after = self._marked().partition(_SYSTEM)
        except ConfigError:
            return start
        own = len(before) + len(after) < len(start)
        if not (found and own and start.startswith(before) and start.endswith(after)):
            return start
        # A later question is opened as the first would be without it.
        opening = self._parts(2, False)[3].removeprefix(self.end).lstrip()
        role = _token_before(opening, added)
        if not role or role not in before:
            raise ConfigError(
                f"model.system_text: the system message that the chat template of {self._language.title} "
                "writes by itself cannot be left out: give a text"
            )
        return before[: before.rindex(role)] + opening


def _token_before(text: str, added: Mapping[str, int]) -> str:
    """The longest added token that a text starts with, else ""."""
    return max((token for token in added if text.startswith(token)), key=len, default="")
