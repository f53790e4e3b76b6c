"""A space's tokenizer as Hugging Face's `tokenizers` reads it: tokenizer.json, in fairseq's order of control tokens.

In: a sentencepiece model (unigram or BPE) and the languages. Out: JSON that gives the ids of `Tokenizer.source` for
"deu_Latn" + text: the language is a token that stands before the text, `</s>` is put after it. An id here is ours, but
that `<s>`, `<pad>`, `</s>`, `<unk>` are 0 to 3.

    json.dumps(tokenizer_json(words))
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from ..tokens import TAGS, Tokenizer

CONTROL = ("<s>", "<pad>", "</s>", "<unk>")
UNIGRAM, BPE = 1, 2  # sentencepiece's numbers of its models
BLANK = "▁"


def tokenizer_json(words: Tokenizer) -> dict[str, Any]:
    """The tokenizer as one object. UserError for a kind of sentencepiece model that `tokenizers` has not."""
    trained, normalised = _spec(words.model_bytes, 2), _spec(words.model_bytes, 3)
    kind, bytes_too = trained.get(3, UNIGRAM), bool(trained.get(35, 0))
    pieces = words.pieces
    vocabulary = [(piece, 0.0) for piece in CONTROL]
    vocabulary += [(pieces.IdToPiece(i), pieces.GetScore(i)) for i in range(3, pieces.GetPieceSize())]
    if kind == UNIGRAM:
        model: dict[str, Any] = {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": bytes_too}
    elif kind == BPE:
        model = {"type": "BPE", "unk_token": CONTROL[3], "fuse_unk": True, "byte_fallback": bytes_too, "dropout": None}
        model |= {"vocab": {piece: i for i, (piece, _) in enumerate(vocabulary)}, "merges": _merges(vocabulary)}
    else:
        raise UserError("the tokenizer is a sentencepiece model of words or characters", "unigram and BPE are exported")
    parted = not any(BLANK in piece[1:] for piece, _ in vocabulary)  # no piece goes over a blank
    special = [*CONTROL, *words.langs, *TAGS]
    ids = [*range(4), *range(len(vocabulary), len(vocabulary) + len(special) - 4)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    end = {"SpecialToken": {"id": CONTROL[2], "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": BLANK}, "content": " "}]
    decoders += [{"type": "ByteFallback"}] * bytes_too + [{"type": "Fuse"}]
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in zip(ids, special, strict=True)],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(normalised)},
        "pre_tokenizer": {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "never", "split": parted},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, end],
            "pair": [text, second, end],
            "special_tokens": {CONTROL[2]: {"id": CONTROL[2], "ids": [2], "tokens": [CONTROL[2]]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def tokenizer_config(limit: int) -> dict[str, Any]:
    """tokenizer_config.json beside it: `limit` is the longest text, in tokens."""
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), CONTROL, strict=True))
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "model_max_length": limit,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _normalizers(spec: dict[int, Any]) -> list[dict[str, Any]]:
    """What sentencepiece does to a text before it is cut: its table of characters, blanks at the ends and in a row."""
    steps: list[dict[str, Any]] = []
    if charsmap := spec.get(2, b""):
        table = base64.b64encode(charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if spec.get(4, 1):  # remove_extra_whitespaces
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
        steps.append({"type": "Replace", "pattern": {"Regex": f"^ +|[ {BLANK}]+$"}, "content": ""})
    if spec.get(3, 1):  # add_dummy_prefix
        steps.append({"type": "Prepend", "prepend": BLANK})
    return steps


def _merges(vocabulary: list[tuple[str, float]]) -> list[list[str]]:
    """BPE's rules, best first: every way to make a piece of two; sentencepiece keeps only the pieces' scores."""
    place = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    found = []
    for piece, score in vocabulary[len(CONTROL) :]:
        halves = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        known = [pair for pair in halves if pair[0] in place and pair[1] in place]
        found += [(score, pair) for pair in sorted(known, key=lambda pair: (place[pair[0]], place[pair[1]]))]
    return [list(pair) for _, pair in sorted(found, key=lambda one: -one[0])]


def _spec(model: bytes, number: int) -> dict[int, Any]:
    """One part of sentencepiece's ModelProto (2: how it was trained, 3: how it normalises) by its fields' numbers."""
    return dict(next((_fields(value) for field, value in _fields(model) if field == number), iter(())))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer, which needs no library to be read: numbers and bytes as they lie."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at : at + size]
        at += size
