"""WordNet, for METEOR's synonyms: the user's nltk data, or Debian's `wordnet-base`, or none.

wordnet().synsets("car")        # what nltk's METEOR asks of it
"""

from __future__ import annotations

import io
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

DEBIAN = "/usr/share/wordnet"
TOPICS = 45  # WordNet's lexicographer files; their names, which METEOR does not ask for, are not in every copy
FILES = [f"{kind}.{part}" for kind in ("index", "data") for part in ("noun", "verb", "adj", "adv")]


class NoSynonyms:
    """Stands where nltk's METEOR wants WordNet, on a machine that has none."""

    @staticmethod
    def synsets(_: str, pos: Any = None) -> list[Any]:
        return []


@lru_cache
def wordnet() -> Any:
    """WordNet from the user's nltk data, from `WNSEARCHDIR` (WordNet's own variable) or Debian's folder; where there
    is none, one without synonyms. Nothing is downloaded."""
    from nltk.corpus import wordnet as own

    try:
        own.ensure_loaded()
        return own
    except LookupError:
        return read_wordnet(Path(os.environ.get("WNSEARCHDIR", DEBIAN))) or NoSynonyms()


def read_wordnet(folder: Path) -> Any:
    """The WordNet database in a folder, by nltk's own reader; None if it is not there."""
    if not all((folder / name).is_file() for name in FILES):
        return None
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    if str(folder) not in nltk.data.path:
        nltk.data.path.append(str(folder))  # nltk reads under these folders alone

    class Reader(WordNetCorpusReader):
        def open(self, file: str) -> Any:
            if (folder / file).is_file():
                return super().open(file)
            if file == "lexnames":
                return io.StringIO("".join(f"{i:02}\tunnamed\t1\n" for i in range(TOPICS)))
            return io.StringIO("")

        def map_wn(self, version: str = "wordnet") -> None:
            """To no other version: for that nltk wants its own copy too."""

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it knows English only
        return Reader(str(folder), None)
