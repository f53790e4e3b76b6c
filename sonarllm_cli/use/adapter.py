"""A text encoder that speaks sentence-transformers, for programs that take a `SentenceTransformer`, and MTEB.

    model = SentenceEncoder("mini", lang="eng_Latn")
    model.similarity(model.encode(["A text."]), model.encode(["Another."]))
    mteb.evaluate(model, mteb.get_tasks(tasks=["Tatoeba"]))

Legend: N and M texts, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..flow.embed import load_encoder
from ..flow.embed_text import Line
from ..flow.language import AUTO, TOLD, likeliest_of, lines_told
from ..io.files import TextLine
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
    """The encoder of a model as sentence-transformers would have it. `lang` is the language of the texts, "auto" as
    `embed` has it, or a function that tells each text's; `encode` takes another for its own."""

    similarity_fn_name = "cosine"

    def __init__(self, model: str = DEFAULT, *, lang: Lang = AUTO, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or choose()
        self.name, self.encoder = model, load_encoder(model, self.runtime)
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

    @property
    def mteb_model_meta(self) -> Any:
        """What MTEB notes of the model beside its scores: name, revision, width."""
        from mteb.models.model_meta import ModelMeta

        facts: dict[str, Any] = {
            "name": f"sonarllm/{Path(self.name).name}",
            "revision": self.encoder.fingerprint or "none",
        }
        facts |= {"embed_dim": self.encoder.dim, "similarity_fn_name": self.similarity_fn_name}
        return ModelMeta.create_empty(overwrites=facts)

    def encode(
        self,
        sentences: str | Sequence[str] | Iterable[dict[str, Any]],
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
        task_metadata: Any = None,
        hf_subset: str = "",
        hf_split: str = "",
        prompt_type: Any = None,
    ) -> Any:
        """Texts → embeddings_ND, of one text embedding_D: numpy, or a tensor with `convert_to_tensor`, or with neither
        a list of tensors. UserError for a prompt, which no encoder here was taught, other values than the sentence's,
        and another precision; `show_progress_bar` and `device` are heard and left alone.

        MTEB gives batches, each with its "text", and with `task_metadata` and `hf_subset` says their language. A subset
        of two languages does not say which of them the texts are in: the likelier one.
        """
        given: list[Any] = [sentences] if isinstance(sentences, str) else list(sentences)
        if task_metadata is not None:
            given = [text for batch in given for text in batch["text"]]
            lang = lang or self._task_lang(given, task_metadata, hf_subset)
        for name, value, usual in (
            ("prompt_name", prompt_name, None),
            ("prompt", prompt, None),
            ("output_value", output_value, "sentence_embedding"),
            ("precision", precision, "float32"),
        ):
            if value != usual:
                raise UserError(f"{name} {value!r} means nothing to this encoder", "leave it out")
        said = lang or self.lang
        own, all_in = (said, AUTO) if callable(said) else (lambda text: None, said)
        rows = (TextLine(i + 1, text, own(text)) for i, text in enumerate(given))
        told = lines_told(rows, all_in, self.encoder.langs)
        lines = [Line(row.text, code, f"text {row.number}") for row, code in told]
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

    def _task_lang(self, texts: Sequence[str], task: Any, subset: str) -> str:
        """The language of a task's texts. UserError for one that the model has not."""
        named = task.hf_subsets_to_langscripts
        codes = named.get(subset) or [code for code in task.bcp47_codes if code.replace("-", "_") == subset]
        known = [resolve(code, self.encoder.langs) for code in codes or task.bcp47_codes]
        return likeliest_of("\n".join(texts[:TOLD]), known)


def _unit(vectors: np.ndarray | Tensor) -> Tensor:
    return F.normalize(torch.atleast_2d(torch.as_tensor(vectors)).float(), dim=1)
