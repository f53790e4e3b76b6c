"""The sentences that are said to a model and never by it: the ending, the marker before a summary, the beginning.

    special = Special(writer, "ita_Latn")
    special.ending("Fine della sequenza."), special.cosine(embedding_1D)

A model may say the ending in its own words, in another language than it was taught, half, twice, or garbled. So it is
known by its vector, that of the ending and that of what the space's decoder makes of it in the language written; and by
its words, where they are nearly those, or begin as those do ("End of"; "End" in another language), or hold them.

Legend: K ways to say the ending, D embedding.
"""

from __future__ import annotations

import unicodedata
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.loaded import Writer
from .decode import Search, decode_batch
from .embed_text import embed_sentences

ALIKE = 0.75  # share of characters in common from which on words are the ending's, garbled
LEAST = 3  # letters that a beginning of the ending has


class Special:
    """A model's special sentences, where it writes `lang`."""

    def __init__(self, writer: Writer, lang: str) -> None:
        endings = [writer.ending]
        vectors = [embed_sentences([writer.ending], writer.lang, writer.space)]
        if lang != writer.lang:
            endings.append(decode_batch(vectors[0], lang, writer.space, Search())[0][0].text)
            vectors.append(embed_sentences(endings[-1:], lang, writer.space))
        self.ending_KD = torch.cat(vectors)
        self.endings = [plain for plain in map(_plain, endings) if plain]
        words = writer.ending.split()
        self.beginning = [*map(_plain, words[: 2 if lang == writer.lang else 1])] if len(words) > 2 else []
        self.marks = {plain for plain in map(_plain, (writer.marker, writer.begin)) if plain}

    def cosine(self, embedding_1D: Tensor) -> float:
        """With the ending, in the language in which it is nearest."""
        return F.cosine_similarity(embedding_1D.float(), self.ending_KD.float()).max().item()

    def ending(self, text: str) -> bool:
        """Whether words are the ending's: the same but for case, marks and spaces, nearly the same, their beginning, or
        with others before or after them."""
        said, count = _plain(text), len(self.beginning)
        begins = count > 0 and [*map(_plain, text.split()[:count])] == self.beginning
        return begins or any(_is_ending(said, ending) for ending in self.endings)

    def mark(self, text: str) -> bool:
        """Whether a sentence is the marker or the beginning."""
        return _plain(text) in self.marks


def _is_ending(said: str, ending: str) -> bool:
    if len(said) < LEAST:
        return said == ending
    if ending.startswith(said) or _alike(said, ending):
        return True
    several = len(ending) >= 2 * LEAST
    return several and (ending in said or _alike(said[: len(ending)], ending))


def _alike(a: str, b: str) -> bool:
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= ALIKE


def _plain(text: str) -> str:
    """Letters and digits alone, without case and accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum())
