"""Documents → their sentences with embeddings, a batch of columns at a time: what engines for large data call.

    embedder = DocumentEmbedder(model="mini", lang="en")
    data_set.map(embedder, batched=True, remove_columns=data_set.column_names)      # datasets
    ray.data.read_json("docs.jsonl").map_batches(DocumentEmbedder, fn_constructor_kwargs={"lang": "en"}, concurrency=2)
    spark_frame.mapInPandas(embedder.frames, schema=SPARK_SCHEMA)                   # Spark

It is small and pickles: the model is loaded in the process that embeds, once, whoever asks for it there.

Legend: N sentences, D embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..languages import resolve
from ..runtime import choose
from ..weights.loaded import DEFAULT, Space, load_space
from .store import Rows, embedded, entry_of, make_shard, options_of, sentences_of

if TYPE_CHECKING:
    import pandas

SPARK_SCHEMA = "text string, lang string, document string, position int, tokens int, embedding array<float>"


@dataclass(frozen=True, kw_only=True)
class DocumentEmbedder:
    """The options of `sonarllm embed --store`, which mean the same here; but `lang` is one language. With a
    `fingerprint` it refuses a model of another space: machines may have different ones under one name."""

    model: str = DEFAULT
    device: str = "auto"
    dtype: str = "auto"
    lang: str = "eng_Latn"
    text_field: str = "text"
    max_tokens: int = 256
    on_long: str = "split"
    fingerprint: str = ""

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Columns of documents (a text or "paragraphs"; "title", "id" where there are) → columns of their sentences, in
        order: text, lang, document, position (−1: a title), tokens, embedding (embeddings_ND, float16).

        A document without an id is called by its place in the batch; an empty one has no sentence. UserError for one
        without a text, or an unknown language.
        """
        options, names = self._options(), list(batch)
        rows = [
            (f"document {i + 1}", {name: value for name, value in zip(names, values) if value is not None})
            for i, values in enumerate(zip(*(_plain(batch[name]) for name in names)))
        ]
        sentences, _ = sentences_of(rows, self.space.tokenizer, options)
        embeddings_ND, words = embedded([s.text for s in sentences], options["lang"], self.space)
        return {
            "text": np.array([s.text for s in sentences], dtype=object),
            "lang": np.array([options["lang"]] * len(sentences), dtype=object),
            "document": np.array([s.document for s in sentences], dtype=object),
            "position": np.array([s.position for s in sentences], dtype=np.int32),
            "tokens": np.array([len(w) for w in words], dtype=np.int32),
            "embedding": embeddings_ND.numpy(),
        }

    def frames(self, frames: Iterable[pandas.DataFrame]) -> Iterator[pandas.DataFrame]:
        """The same for Spark's `mapInPandas`: frames of documents → frames of sentences, as `SPARK_SCHEMA` says."""
        import pandas

        for frame in frames:
            columns = self(frame.to_dict("list"))
            columns["embedding"] = list(columns["embedding"].astype(np.float32))
            yield pandas.DataFrame(columns)

    def make_shard(self, folder: Path, number: int, rows: Rows) -> dict[str, Any]:
        """A shard of a store, as `embed_documents` makes it; → what the manifest says of it."""
        return entry_of(make_shard(folder, number, rows, self.space, self._options()))

    @property
    def space(self) -> Space:
        """The space, loaded when first asked for in this process."""
        space = _space(self.model, self.device, self.dtype)
        if self.fingerprint and space.fingerprint != self.fingerprint:
            what = f"{self.model} is {space.fingerprint} here, and {self.fingerprint} where the work began"
            raise UserError(what, "install the same model on all machines")
        return space

    def _options(self) -> dict[str, Any]:
        lang = resolve(self.lang, self.space.tokenizer.langs)
        return options_of(self.space, lang, self.text_field, self.max_tokens, self.on_long)


@functools.lru_cache(maxsize=1)
def _space(model: str, device: str, dtype: str) -> Space:
    return load_space(model, choose(device, dtype))


def _plain(value: Any) -> Any:
    """NumPy's values, lists in lists too, as Python's own; missing ones, which pandas spells as no number, as None."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and value != value else value
