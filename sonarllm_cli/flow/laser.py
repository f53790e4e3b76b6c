"""Texts → vectors of LASER2's space.

Legend: N texts, B texts of a batch, T tokens, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..nets.laser2 import EOS, FIRST_PIECE, PAD, UNK, Laser2
from ..runtime import Runtime, by_length, shrinking
from ..weights import model_dir, tensors
from .embed_text import BATCH_TOKENS, CHUNK, Block, Line, joined_blocks


class LaserEncoder:
    """LASER2 with its pieces. It takes texts of any length, in any language, and is told none."""

    langs = None

    limit = None

    def __init__(self, net: Laser2, folder: Path, config: dict[str, Any], runtime: Runtime) -> None:
        import sentencepiece
        from sacremoses import MosesPunctNormalizer

        self.net, self.runtime = net, runtime
        self.fingerprint: str = config.get("fingerprint", "")
        self.laser = config.get("reads_as") == "laser"
        self._punctuated = MosesPunctNormalizer("en").normalize  # in whatever language, as LASER's own tokenizer
        self.pieces = sentencepiece.SentencePieceProcessor()
        try:
            self.pieces.LoadFromSerializedProto((folder / "tokenizer.model").read_bytes())
        except (OSError, RuntimeError):
            raise UserError(f"{folder / 'tokenizer.model'} can't be read", model_dir.AGAIN) from None

    @classmethod
    def load(cls, name: str, folder: Path, config: dict[str, Any], runtime: Runtime) -> LaserEncoder:
        """UserError for a folder that is not as its config says."""
        net = tensors.load_net(folder, config, runtime.device, runtime.dtype)
        model_dir.check_hash(folder, config, "tokenizer.model")
        return cls(net, folder, config, runtime)

    @property
    def dim(self) -> int:
        return self.net.config.embedding

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts → ids. As LASER reads them their punctuation is Moses' English one, they are lower-cased, and a piece
        that it doesn't know is `<unk>`; as sonar-space does they are as they are, and such a piece is `<s>`."""
        texts = [self._punctuated(text).lower() for text in texts] if self.laser else list(texts)
        unknown = UNK if self.laser else 0
        found = self.pieces.EncodeAsIds(texts) if texts else []
        return [[*(p + FIRST_PIECE if p else unknown for p in pieces), EOS] for pieces in found]

    def embed(self, items: Iterable[Line], *, batch_size: int | None = None, on_long: str = "truncate") -> np.ndarray:
        """Texts → embeddings_ND."""
        return joined_blocks(self.stream(items, batch_size=batch_size, on_long=on_long), self.dim)

    def stream(self, items: Iterable[Line], *, batch_size: int | None, on_long: str) -> Iterator[Block]:
        """Any number of texts, a chunk at a time."""
        iterator = iter(items)
        while chunk := list(islice(iterator, CHUNK)):
            ids = self.ids([line.text for line in chunk])
            out_ND = np.empty((len(chunk), self.dim), np.float32)
            cost = None if batch_size else BATCH_TOKENS.get(self.runtime.device.type, 16384)
            for rows in by_length([len(i) for i in ids], batch_size or 4096, cost):
                out_ND[rows] = shrinking(lambda part, ids=ids: self._encode([ids[i] for i in part]), rows)  # type: ignore[misc]
            yield Block(out_ND, chunk, [])

    @torch.inference_mode()
    def _encode(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        length = [len(i) for i in ids]
        ids_BT = torch.full((len(ids), max(length)), PAD)
        for row, i in enumerate(ids):
            ids_BT[row, : len(i)] = torch.tensor(i)
        return list(self.net(ids_BT.to(self.runtime.device), torch.tensor(length)).float().cpu().numpy())
