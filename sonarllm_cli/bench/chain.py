"""Throughput of embedding, decoding, predicting and generating, against the machine's limits and other libraries.

Work is of random token ids in lengths as sentences have them; what is compared runs in turns (see timing.py). With
`size="published"` the network has the published shape and random weights, else it is a model's own.

Legend: N texts, D embedding, P weights read or used for a token.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..flow.compose import NEVER, Writing, generate_stream
from ..flow.decode import Search, beam_search
from ..flow.embed_text import embed_sentences, encode
from ..flow.predict import Reader, predict
from ..flow.write import PLAIN
from ..nets.layers import onednn_serves
from ..nets.llama import LlamaConfig
from ..nets.sonar import Sonar
from ..nets.sonar_llm import SonarLLM, SonarLLMConfig
from ..runtime import choose, multiplies_bfloat16, name_of
from ..tokens import EOS
from ..weights.loaded import Space, Writer, load_space, load_writer, pack, shortlisted_ids
from . import flops
from .peers import DTYPES, Peer, Weights, published, random_sonar
from .timing import Timing, bandwidth, matrix_rate, side_by_side

BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is run: a model's or the published size, in which dtypes, how much, beside which library."""

    model: str = "mini"
    published: bool = False
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "int8")
    count: int = 32  # texts
    rounds: int = 3
    seed: int = 0
    device: str = "cpu"
    peer: str = ""
    peer_python: str = ""
    beam: int = 5
    max_tokens: int = 24
    layers: int = 0  # of the published size; 0: all
    shortlist: int = 0  # words that may be written, beside the whole vocabulary; 0: no such run


@dataclass
class Row:
    """One line of a table."""

    name: str
    timing: Timing
    operations: float  # floating-point, of the whole work
    units: float  # what a throughput counts
    extra: dict[str, Any] = field(default_factory=dict)


class _Ids:
    """A tokenizer where there are only ids: of the published vocabulary, English."""

    langs = ("eng_Latn",)
    vocab_size = 256206

    def lang_id(self, lang: str) -> int:
        return 256047

    def prompt(self, lang: str) -> list[int]:
        return [EOS, self.lang_id(lang)]

    def text(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def content(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(word) for word in text.split() if int(word) != EOS] for text in texts]


def space_of(wish: Wish, part: str, dtype: str) -> Space:
    """The encoder or decoder to run ("net": both), in a dtype."""
    runtime = choose(wish.device, dtype, seed=wish.seed)
    if not wish.published:
        return load_space(wish.model, runtime)
    with torch.device("meta"):
        net = Sonar(published(wish.layers))
    for name in ("encoder", "decoder") if part == "net" else (part,):
        module = random_sonar(published(wish.layers), name, wish.seed).get_submodule(name)
        pack(module.to(runtime.device, runtime.dtype), runtime)
        setattr(net, name, module)
    return Space("published size", "", _Ids(), net, runtime)  # type: ignore[arg-type]


def sentence_ids(space: Space, count: int, seed: int) -> list[list[int]]:
    """Source ids of random words: lengths log-normal, 23 tokens in the median, 8 to 100, as in news."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (23 * torch.exp(0.5 * torch.randn(count, generator=generator))).round().clamp(8, 100).int().tolist()
    top = space.tokenizer.vocab_size - len(space.tokenizer.langs) - 300 * (space.tokenizer.vocab_size > 1e5) - 4
    lang = space.tokenizer.lang_id(space.tokenizer.langs[0])
    return [[lang, *torch.randint(EOS + 1, top, (n,), generator=generator).tolist(), EOS] for n in lengths]


def rate(dtype: str, device: torch.device) -> float:
    """Operations a second of PyTorch's own product in this dtype; 0 where it has none, or only a slow one."""
    runtime = choose(str(device), dtype)
    slow = runtime.dtype == torch.bfloat16 and not multiplies_bfloat16(device)
    return 0.0 if runtime.int8 or slow else matrix_rate(device, runtime.dtype)


def bench_embed(wish: Wish) -> dict[str, Any]:
    """`count` texts at once, in each dtype, and by the peer in batches of 5 (its own default) and of `count`."""
    peers = _peers(wish, "encoder")
    spaces = {dtype: space_of(wish, "encoder", dtype) for dtype in wish.dtypes}
    first = next(iter(spaces.values()))
    ids = sentence_ids(first, wish.count, wish.seed)
    cost = sum(flops.encoder_flops(first.net.config, len(i) - flops.EDGE) for i in ids)
    found: dict[str, Tensor] = {}
    runs: dict[str, Callable[[], float | None]] = {}

    def ours(name: str, space: Space, size: int) -> Callable[[], None]:
        def run() -> None:
            space.runtime.use()
            found[name] = encode(ids, space, size).float().cpu()

        return run

    def theirs(name: str, peer: Peer, size: int) -> Callable[[], float]:
        def run() -> float:
            seconds, found[name] = peer.embed(ids, size)
            return seconds

        return run

    for dtype, space in spaces.items():
        for size in dict.fromkeys((min(8, wish.count), wish.count)):
            runs[f"{dtype}, {size} at once"] = ours(f"{dtype}, {size} at once", space, size)
    for own, peer in peers.items():
        for size in dict.fromkeys((min(5, wish.count), wish.count)):
            runs[f"{own}, {size} at once"] = theirs(f"{own}, {size} at once", peer, size)
    timings = side_by_side(runs, wish.rounds, first.runtime.device)
    base_ND = found[next(iter(runs))]
    rows = []
    for name, timing in timings.items():
        cosine = torch.cosine_similarity(found[name], base_ND, dim=1).min().item()
        size = flops.encoder_parameters(first.net.config) * BYTES.get(_dtype(name), 4)
        rows.append(Row(name, timing, cost, wish.count, {"cosine": cosine, "weights MB": size / 1e6}))
    for peer in peers.values():
        peer.close()
    return _result("embed", "texts", wish, first, rows, tokens=sum(map(len, ids)))


def bench_decode(wish: Wish) -> dict[str, Any]:
    """Beam search of one sentence, then of `count`: steps of up to `max_tokens`, in each dtype, with its `shortlist` of
    words, and by the peer."""
    peers = _peers(wish, "decoder")
    spaces = {dtype: space_of(wish, "decoder", dtype) for dtype in wish.dtypes}
    first = next(iter(spaces.values()))
    config, prompt = first.net.config, first.tokenizer.prompt(first.tokenizer.langs[0])
    words = range(EOS + 1, min(EOS + 1 + wish.shortlist, config.vocab_size))
    if wish.shortlist:
        spaces |= {f"{dtype}, {len(words)} words": shortlisted_ids(space, words) for dtype, space in spaces.items()}
    vectors_ND = torch.randn(wish.count, config.embedding, generator=torch.Generator().manual_seed(wish.seed))
    limit = min(wish.max_tokens, config.max_target_tokens)
    search = Search(beam=wish.beam, max_tokens=limit)
    for peer in peers.values():
        peer.decode(vectors_ND, prompt, 1, 4)  # what a library makes of these vectors is made before the clock runs
    rows = []
    for many in dict.fromkeys((1, wish.count)):
        found: dict[str, list[tuple[int, ...]]] = {}
        steps: dict[str, int] = {}

        def ours(name: str, space: Space, many: int = many, found: Any = found) -> Callable[[], None]:
            part_SD = vectors_ND[:many].to(space.runtime.device, space.runtime.dtype)

            def run() -> None:
                space.runtime.use()
                with torch.inference_mode():
                    found[name] = [h[0][0] for h in beam_search(space, part_SD, prompt, search)]

            return run

        def theirs(name: str, peer: Peer, many: int = many, found: Any = found) -> Callable[[], float]:
            def run() -> float:
                seconds, ids = peer.decode(vectors_ND[:many], prompt, wish.beam, limit)
                found[name] = [tuple(i) for i in ids]
                return seconds

            return run

        runs: dict[str, Callable[[], float | None]] = {d: ours(d, space) for d, space in spaces.items()}
        runs |= {own: theirs(own, peer) for own, peer in peers.items()}
        timings = side_by_side(runs, wish.rounds, first.runtime.device)
        base = found[next(iter(runs))]
        for name, timing in timings.items():
            steps[name] = max(map(len, found[name]))
            same = sum(a == b for a, b in zip(found[name], base)) / many
            prompted, after = len(prompt) - flops.EDGE, steps[name] - 1 - flops.EDGE  # one beam reads the prompt
            shape = config if "words" not in name else replace(config, vocab_size=len(words))
            cost = flops.decoder_flops(shape, prompted) + flops.decoder_flops(shape, after, wish.beam)
            size = flops.decoder_parameters(shape) * BYTES.get(_dtype(name), 4)
            extra = {
                "same texts": same,
                "ms a step": 1e3 * timing.median / steps[name],
                "weights MB": size / 1e6,
                "bytes read": steps[name] * size,
            }
            rows.append(Row(f"{name}, {many} at once", timing, many * cost, many, extra))
    for peer in peers.values():
        peer.close()
    return _result("decode", "texts", wish, first, rows, steps=limit - len(prompt))


def bench_generate(wish: Wish, sentences: int = 32, read: int = 1000) -> dict[str, Any]:
    """A text of `sentences` written, against the published loop; and the next sentence after `read`, cached or not. One
    dtype after the other, so that memory holds one model."""
    peers = [_peer(wish, part) for part in ("encoder", "decoder")] if wish.peer else []
    rows: list[Row] = []
    writer: Writer | None = None
    for dtype in wish.dtypes:
        writer = None  # memory for the next
        writer = _writer(wish, dtype)
        rows += _next_rows(wish, dtype, writer, read) + _loop_rows(wish, dtype, writer, sentences, peers)
    for peer in peers:
        peer.close()
    assert writer
    return _result("generate", "sentences", wish, writer.space, rows, lang=writer.lang)


def _next_rows(wish: Wish, dtype: str, writer: Writer, read: int) -> list[Row]:
    """The sentence after `read` others, which are in the cache, or are read anew."""
    space = writer.space
    context_SD = _context(wish, space, read)
    reader = Reader(writer)
    reader.read(context_SD[:-1])
    length = reader.caches[0].length

    def cached() -> None:
        for cache in reader.caches:
            cache.length = length  # forget what the round before read
        reader.read(context_SD[-1:])

    runs: dict[str, Callable[[], float | None]] = {
        f"{dtype}, next of {read}, cached": cached,
        f"{dtype}, next of {read}, recomputed": lambda: _nothing(predict(writer, context_SD)),
    }
    timings = side_by_side(runs, wish.rounds, space.runtime.device)
    fast, slow = timings.values()
    rows = [Row(name, timing, 0, 1) for name, timing in timings.items()]
    rows[0].extra["times as fast"] = slow.median / fast.median
    return rows


def _loop_rows(wish: Wish, dtype: str, writer: Writer, sentences: int, peers: Sequence[Peer]) -> list[Row]:
    """A text written, and the same by the published loop."""
    space = writer.space
    context_1D = _context(wish, space, 1)
    search = Search(beam=wish.beam, max_tokens=wish.max_tokens, **PLAIN)
    writing = Writing(max_sentences=sentences, stop_threshold=NEVER, repeat_threshold=NEVER, search=search)
    texts: dict[str, list[str]] = {}
    plain = _plain(wish, dtype, writer)
    loops: dict[str, Callable[[], float | None]] = {
        f"{dtype}, {sentences} sentences": lambda: texts.update(
            ours=[s.text for s in generate_stream(context_1D, writer, writing)]
        ),
        f"the published loop beside {dtype}": lambda: texts.update(
            theirs=published_loop(plain, context_1D, sentences, search, peers)
        ),
    }
    timings = side_by_side(loops, 1 if wish.published else wish.rounds, space.runtime.device, warm=not wish.published)
    fast, slow = timings.values()
    rows = [Row(name, timing, 0, sentences) for name, timing in timings.items()]
    rows[0].extra["same texts"] = sum(a == b for a, b in zip(*texts.values())) / sentences
    rows[0].extra["times as fast"] = slow.median / fast.median
    return rows


@torch.inference_mode()
def published_loop(
    writer: Writer, context_SD: Tensor, sentences: int, search: Search, peers: Sequence[Peer] = ()
) -> list[str]:
    """Generation as in the published script, run on plain layers: the whole prefix is read anew for each sentence, one
    text is decoded at a time, embedded again at a batch of one. `peers` (encoder, decoder) do the last two if given."""
    space, texts = writer.space, []
    prompt = space.tokenizer.prompt(writer.lang)
    for _ in range(sentences):
        next_1D = predict(writer, context_SD)[None]
        if peers:
            ids = tuple(peers[1].decode(next_1D, prompt, search.beam, search.max_tokens)[1][0])
        else:
            ids = beam_search(space, next_1D, prompt, search)[0][0][0]
        texts.append(space.tokenizer.text(ids))
        words = [prompt[1], *space.tokenizer.content([texts[-1]])[0], EOS]
        if peers:
            again_1D = peers[0].embed([words], 1)[1].to(context_SD)
        else:
            ids_1T, length_1 = torch.tensor([words]), torch.tensor([len(words)])
            again_1D = space.net.encoder(ids_1T.to(context_SD.device), length_1.to(context_SD.device))
        context_SD = torch.cat([context_SD, again_1D])
    return texts


def _context(wish: Wish, space: Space, count: int) -> Tensor:
    """Embeddings of random sentences, or in a random space as good: → context_SD"""
    if not wish.published:
        return encode(sentence_ids(space, count, wish.seed), space)
    noise_SD = torch.randn(count, space.dim, generator=torch.Generator().manual_seed(0))
    return noise_SD.to(space.runtime.device, space.runtime.dtype)


def _writer(wish: Wish, dtype: str) -> Writer:
    runtime = choose(wish.device, dtype, seed=wish.seed)
    if not wish.published:
        return load_writer(wish.model, runtime)
    space = space_of(wish, "net", dtype)
    torch.manual_seed(wish.seed)
    net = SonarLLM(SonarLLMConfig(**vars(LlamaConfig())))
    net.body.init_()
    net = net.to(runtime.device, runtime.dtype).eval().requires_grad_(False)
    pack(net, runtime)
    return Writer(
        "600M", net, space, marker="", ending=str(EOS + 1), begin="", lang="eng_Latn", familiar=0.0, kind="sonar-llm"
    )


def _plain(wish: Wish, dtype: str, writer: Writer) -> Writer:
    """The same model in plain layers, for the published loop; at the published size the packed one stands in where a
    peer does the decoding, and on a GPU nothing is packed."""
    if wish.published:
        if not wish.peer and onednn_serves(writer.space.runtime.device, writer.space.runtime.dtype):
            raise UserError("the published loop at the published size needs a library", "give --peer sonar-space")
        return writer
    runtime = choose(wish.device, dtype if dtype != "int8" else "float32", seed=wish.seed)
    return load_writer(wish.model, runtime, trainable=True)


def _peer(wish: Wish, part: str, dtype: str = "float32") -> Peer:
    """With its model, whose making takes twice its memory, before another's or ours is made."""
    weights = Weights(model="" if wish.published else wish.model, seed=wish.seed, layers=wish.layers, dtype=dtype)
    return Peer(wish.peer, part, weights, wish.peer_python, torch.get_num_threads()).wait()


def _peers(wish: Wish, part: str) -> dict[str, Peer]:
    """The library that is asked for, in each dtype that it is compared in, by name."""
    if not wish.peer:
        return {}
    dtypes = DTYPES.get(wish.peer, ("float32",))
    return {f"{wish.peer} {d}" if len(dtypes) > 1 else wish.peer: _peer(wish, part, d) for d in dtypes}


def _dtype(name: str) -> str:
    """A row's dtype, from its name: "int8, 8 at once", "ctranslate2 int8, 1 at once"."""
    return name.split(",")[0].split()[-1]


def _nothing(_: Any) -> None:
    return None


def quality(wish: Wish, texts: Sequence[str], lang: str) -> dict[str, Any]:
    """What a dtype costs: auto-encoding BLEU, chrF to float32's texts, least cosine with float32's embeddings."""
    from ..score import metrics

    base_ND, rows = torch.empty(0), []
    said: list[str] = []
    for dtype in dict.fromkeys(("float32", *wish.dtypes)):
        space = load_space(wish.model, choose(wish.device, dtype, seed=wish.seed))
        out_ND = embed_sentences(texts, lang, space)
        prompt, search = space.tokenizer.prompt(lang), Search(beam=wish.beam)
        with torch.inference_mode():
            found = [
                space.tokenizer.text(hyps[0][0])
                for part_SD in out_ND.split(32)
                for hyps in beam_search(space, part_SD, prompt, search)
            ]
        base_ND, said = (out_ND, found) if not said else (base_ND, said)
        cosine = torch.cosine_similarity(out_ND.float(), base_ND.float()).min().item()
        rows.append(
            {"dtype": dtype, "BLEU": metrics.bleu(found, texts), "chrF": metrics.chrf(found, said), "cosine": cosine}
        )
    return {"work": "quality", "model": wish.model, "lang": lang, "texts": len(texts), "rows": rows}


def _result(work: str, unit: str, wish: Wish, space: Space, rows: list[Row], **facts: Any) -> dict[str, Any]:
    config, device = space.net.config, space.runtime.device
    rates = {dtype: rate(dtype, device) for dtype in dict.fromkeys(("float32", *wish.dtypes))}
    most = bandwidth(device)
    out = []
    for row in rows:
        t, own = row.timing, rates.get(_dtype(row.name))
        found = {"name": row.name, "seconds": t.median, "spread": t.spread, f"{unit}/s": row.units / t.median}
        if row.operations:
            found["GFLOP/s"] = row.operations / t.median / 1e9
            found["of float32 rate"] = row.operations / t.median / rates["float32"]
            if own:
                found["of own rate"] = row.operations / t.median / own
        if "bytes read" in row.extra:
            found["of bandwidth"] = row.extra.pop("bytes read") / t.median / most
        out.append({**found, **row.extra})
    return {
        "work": work,
        "model": space.name,
        "layers": config.encoder_layers if work == "embed" else config.decoder_layers,
        "texts": wish.count,
        **facts,
        "threads": torch.get_num_threads(),
        "device": name_of(device),
        **{f"{dtype} GFLOP/s": found / 1e9 for dtype, found in rates.items() if found},
        "bandwidth GB/s": most / 1e9,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rows": out,
    }
