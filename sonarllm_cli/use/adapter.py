"""A text encoder that speaks sentence-transformers, for programs that take a `SentenceTransformer`.

    model = SentenceEncoder("mini", lang="eng_Latn")
    model.similarity(model.encode(["A text."]), model.encode(["Another."]))

Legend: N and M texts, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..flow.embed import Line
from ..flow.encoders import load_encoder
from ..languages import resolve
from ..runtime import Runtime, choose
from ..weights.loaded import DEFAULT

Lang = str | Callable[[str], str]


class Figures:
    """Where sentence-transformers' evaluators note what they found: by evaluator, the last."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, float], epoch: int = 0, step: int = 0) -> None:
        self.found[type(evaluator).__name__] = metrics


class SentenceEncoder:
    """The encoder of a model as sentence-transformers would have it. `lang` is the language of the texts, or a function
    that tells each text's; `encode` takes another for its own."""

    similarity_fn_name = "cosine"

    def __init__(self, model: str = DEFAULT, *, lang: Lang = "eng_Latn", runtime: Runtime | None = None) -> None:
        self.runtime = runtime or choose()
        self.encoder = load_encoder(model, self.runtime)
        self.lang = lang
        self.model_card_data = Figures()

    @property
    def device(self) -> torch.device:
        """Where vectors are that are asked for as tensors."""
        return self.runtime.device

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.encoder.dim

    get_sentence_embedding_dimension = get_embedding_dimension  # its older name there

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        lang: Lang | None = None,
    ) -> Any:
        """Texts → embeddings_ND, of one text embedding_D: numpy, or a tensor with `convert_to_tensor`, or with neither
        a list of tensors. UserError for a prompt, which no encoder here was taught, other values than the sentence's,
        and another precision; `show_progress_bar` and `device` are heard and left alone.
        """
        for name, value, usual in (
            ("prompt_name", prompt_name, None),
            ("prompt", prompt, None),
            ("output_value", output_value, "sentence_embedding"),
            ("precision", precision, "float32"),
        ):
            if value != usual:
                raise UserError(f"{name} {value!r} means nothing to this encoder", "leave it out")
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        lines = [Line(text, self._lang(text, lang or self.lang), f"text {i + 1}") for i, text in enumerate(texts)]
        vectors_ND = torch.from_numpy(self.encoder.embed(lines, batch_size=batch_size))[:, :truncate_dim]
        if normalize_embeddings:
            vectors_ND = F.normalize(vectors_ND, dim=1)
        if convert_to_tensor:
            vectors_ND = vectors_ND.to(self.device)
            return vectors_ND[0] if isinstance(sentences, str) else vectors_ND
        found: Any = vectors_ND.numpy() if convert_to_numpy else list(vectors_ND)
        return found[0] if isinstance(sentences, str) else found

    def encode_query(self, sentences: str | Sequence[str], **options: Any) -> Any:
        """As `encode`: questions and documents are embedded alike."""
        return self.encode(sentences, **options)

    def encode_document(self, sentences: str | Sequence[str], **options: Any) -> Any:
        """As `encode`: questions and documents are embedded alike."""
        return self.encode(sentences, **options)

    def similarity(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> Tensor:
        """Cosines of each with each: a_ND, b_MD → cosine_NM."""
        return _unit(a) @ _unit(b).T

    def similarity_pairwise(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> Tensor:
        """Cosines of each with its own: a_ND, b_ND → cosine_N."""
        return (_unit(a) * _unit(b)).sum(1)

    def _lang(self, text: str, lang: Lang) -> str:
        return resolve(lang if isinstance(lang, str) else lang(text), self.encoder.langs)


def _unit(vectors: np.ndarray | Tensor) -> Tensor:
    return F.normalize(torch.atleast_2d(torch.as_tensor(vectors)).float(), dim=1)
