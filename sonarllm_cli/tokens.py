"""Sentences to token ids and back, by NLLB's rules over a sentencepiece model.

Ids: 0 `<pad>` (inserted), 1 `<unk>`, 2 `<s>`, 3 `</s>`; sentencepiece piece j is j + 1; then the languages in their
listed order; then the data tags. Source: `__lang__ … </s>`; target: `</s> __lang__ … </s>`.
Source: NLLB tokenizer as in sonar-space (`NllbTokenizer`); Costa-jussà et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .errors import UserError

PAD, UNK, BOS, EOS = range(4)
TAGS = ("<MINED_DATA>", "<MMT_BT_DATA>", "<SMT_BT_DATA>")


class Tokenizer:
    """sentencepiece model (a path, or its bytes) and languages → ids.

    >>> ids = tokenizer.source("A text.", "eng_Latn")      # doctest: +SKIP
    """

    def __init__(self, model: str | Path | bytes, langs: Sequence[str]) -> None:
        import sentencepiece

        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        self.pieces = sentencepiece.SentencePieceProcessor()
        try:
            self.pieces.LoadFromSerializedProto(data)
        except RuntimeError as error:
            name = "the tokenizer model" if isinstance(model, bytes) else f"the tokenizer model {model}"
            raise UserError(f"{name} can't be read", "fetch or import the model again") from error
        self.model_bytes = data
        self.langs = list(langs)
        if not self.langs or len(set(self.langs)) != len(self.langs):
            raise UserError("a tokenizer needs a list of distinct languages", "give --langs, comma-separated")
        self._first_lang = self.pieces.GetPieceSize() + 1
        self._lang_id = {lang: self._first_lang + i for i, lang in enumerate(self.langs)}

    @property
    def vocab_size(self) -> int:
        """Pieces, `<pad>`, languages and data tags."""
        return self._first_lang + len(self.langs) + len(TAGS)

    def lang_id(self, lang: str) -> int:
        """The id of a language this model has; UserError, with what it has, for another."""
        if lang not in self._lang_id:
            from .languages import resolve

            return self._lang_id[resolve(lang, self.langs)]
        return self._lang_id[lang]

    def content(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of the words alone, of many texts at once (by threads, which one text is not worth)."""
        if len(texts) == 1:
            return [[piece + 1 for piece in self.pieces.EncodeAsIds(texts[0])]]
        return [[piece + 1 for piece in ids] for ids in self.pieces.EncodeAsIds(list(texts))] if texts else []

    def source(self, text: str, lang: str) -> list[int]:
        """`__lang__ w₁ … w_n </s>`: what the encoder reads."""
        return [self.lang_id(lang), *self.content([text])[0], EOS]

    def target(self, text: str, lang: str) -> list[int]:
        """`</s> __lang__ w₁ … w_n </s>`: what the decoder reads and writes."""
        return [EOS, *self.source(text, lang)]

    def prompt(self, lang: str) -> list[int]:
        """What the decoder is given to begin with: `</s> __lang__`."""
        return [EOS, self.lang_id(lang)]

    def text(self, ids: Iterable[int]) -> str:
        """Ids → text; control tokens, languages and tags vanish, and bytes that make no whole character."""
        text = self.pieces.DecodeIds([i - 1 for i in ids if EOS < i < self._first_lang or i == UNK])
        return text.replace("\ufffd", "")


def fitting(tokenizer: Tokenizer, limit: int) -> Callable[[str], bool]:
    """Whether a text is at most `limit` source tokens long. Only the tokens tell: one character may stand for eighteen
    ("ﷺ") when the tokenizer has normalised it, and a blank is put before the first word."""
    room = limit - 2  # the language token and </s>
    return lambda text: len(tokenizer.pieces.EncodeAsIds(text)) <= room  # of one text: a list starts threads
