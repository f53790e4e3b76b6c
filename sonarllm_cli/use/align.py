"""Two documents → their sentences aligned in order, many to many, by embeddings of joined sentences.

    for pair in align(a, b): print(pair.a, pair.b, pair.cost)          # range(0, 2) range(0, 1) 0.31
    a = document(["Eins.", "Zwei."], embed, most=3)                    # vectors of 1, 2, 3 sentences joined

The costs are vecalign's (Thompson & Koehn 2019): the distance of two joined texts over their mean distance from the
other document, times the numbers of sentences; leaving a sentence out costs as much as a pair that is better than four
in five random ones. Ours is that joining must bring the texts nearer. So is the search vecalign's: documents are halved
by averaging neighbours, aligned when they are short, and the path found is what the finer level searches near. It takes
time linear in length; its plain twin is `align` with `radius=None`, which looks everywhere. Means are over the whole
other document, where vecalign samples.

Legend: N and M sentences of the documents, D embedding, J sentences joined, W columns searched in a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..flow.segment import segment
from ..io.files import atomic_write, make_folder, read_errors, read_text
from ..io.texts import read_texts
from .neighbours import unit

MOST = 4  # sentences of both sides in a pair
RADIUS = 12  # columns searched on each side of the coarser path
SHORT = 64  # sentences of a document that is searched everywhere
LEFT_OUT = 0.2  # quantile of strangers' costs that leaving a sentence out costs
_RANDOM_PAIRS = 20_000
_EVEN = 1e-5  # costs so near are even: of equal ways the one in smaller steps is taken


@dataclass(frozen=True)
class Spans:
    """Vectors of length 1 of joined sentences: `joined[j]` is (N, D), row i of `j + 1` sentences that end with the
    i-th (zeros where there are not so many before it)."""

    joined: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.joined[0])


@dataclass(frozen=True)
class Bead:
    """Sentences of A and B that say the same; one range is empty where a sentence has no counterpart."""

    a: range
    b: range
    cost: float


def read_sentences(path: str, lang: str, lines: bool) -> list[str]:
    """The sentences of a text, each on one line; its lines as they are with `lines`, blank ones left out. UserError for
    a folder."""
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder, not a file", "name a file in it")
    [(_, text)] = read_texts([path])
    if lines:
        return [flat for line in text.splitlines() if (flat := " ".join(line.split()))]
    return [sentence.flat for sentence in segment(text, lang=lang)]


def windows(sentences: Sequence[str], most: int) -> list[str]:
    """The distinct texts of 1 to `most` consecutive sentences, joined by spaces: what `document` wants vectors of.

    >>> windows(["A.", "B."], 2)
    ['A.', 'B.', 'A. B.']
    """
    joined = (" ".join(sentences[i : i + j]) for j in range(1, most + 1) for i in range(len(sentences) - j + 1))
    return list(dict.fromkeys(joined))


def document(
    sentences: Sequence[str], embed: Callable[[list[str]], np.ndarray], *, most: int = MOST, name: str = "the document"
) -> Spans:
    """A document's vectors; `embed` is asked once, for the distinct joined texts. A pair of `most` sentences has one of
    them at least on the other side, so that `most` − 1 are joined. UserError for one without sentences."""
    if not sentences:
        raise UserError(f"{name} has no sentence", "give it some text")
    if most < 2:
        raise UserError(f"pairs of {most} sentences have no two sides", "use --max 2 or more")
    texts = windows(sentences, most - 1)
    row = {text: i for i, text in enumerate(texts)}
    vector_TD = unit(embed(texts), name).numpy()
    joined = []
    for j in range(1, most):
        part_ND = np.zeros((len(sentences), vector_TD.shape[1]), np.float32)
        for i in range(j - 1, len(sentences)):
            part_ND[i] = vector_TD[row[" ".join(sentences[i - j + 1 : i + 1])]]
        joined.append(part_ND)
    return Spans(joined)


def heard_document(vectors_ND: np.ndarray, *, most: int = MOST, name: str = "the recording") -> Spans:
    """A document whose sentences are not joined to be embedded, as a recording's utterances: those joined have the
    direction of the mean of their vectors, which aligns as well as vectors of the sound joined."""
    unit_ND = unit(vectors_ND, name).numpy()
    sum_ND, joined = unit_ND, [unit_ND]
    for j in range(1, most - 1):
        before_ND, sum_ND = sum_ND, np.zeros_like(unit_ND)
        sum_ND[j:] = before_ND[j - 1 : -1] + unit_ND[j:]
        joined.append(sum_ND / np.maximum(np.linalg.norm(sum_ND, axis=1, keepdims=True), 1e-9))
    return Spans(joined)


def align(a: Spans, b: Spans, *, most: int = MOST, radius: int | None = RADIUS) -> list[Bead]:
    """The cheapest way through both documents, in order; every sentence of both is in one pair. `most` bounds the
    sentences of a pair, `radius` the search (None: it looks everywhere). UserError for documents of two spaces."""
    if a.joined[0].shape[1] != b.joined[0].shape[1]:
        widths = f"{a.joined[0].shape[1]} and {b.joined[0].shape[1]} numbers"
        raise UserError(f"the documents' vectors have {widths}", "embed both with one model")
    levels = [(a, b)]
    while radius is not None and min(len(levels[-1][0]), len(levels[-1][1])) > SHORT:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    path: list[tuple[int, int]] = []
    for level in range(len(levels) - 1, -1, -1):
        fine_a, fine_b = levels[level]
        low, high = _window(path, len(fine_a), len(fine_b), radius or 0)
        path, costs = _cheapest(fine_a, fine_b, low, high, most if level == 0 else 2)
    return [Bead(range(i, k), range(j, m), cost) for ((i, j), (k, m)), cost in zip(pairwise(path), costs)]


def _halved(whole: Spans) -> Spans:
    """A document of the mean vectors of two neighbours each."""
    vectors_ND = whole.joined[0]
    if len(vectors_ND) % 2:
        vectors_ND = np.concatenate([vectors_ND, vectors_ND[-1:]])
    half_ND = vectors_ND[0::2] + vectors_ND[1::2]
    return Spans([half_ND / np.maximum(np.linalg.norm(half_ND, axis=1, keepdims=True), 1e-9)])


def _window(path: list[tuple[int, int]], n: int, m: int, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """For 0 … n sentences of A, the least and the most of B to look at: near the path of documents half as long, or
    everywhere without one."""
    if not path:
        return np.zeros(n + 1, int), np.full(n + 1, m)
    low, high = np.full(n + 3, m), np.zeros(n + 3, int)
    for (i, j), (k, l) in pairwise(path):
        rows = slice(2 * i, min(2 * k + 1, n + 1))
        low[rows] = np.minimum(low[rows], 2 * j - radius)
        high[rows] = np.maximum(high[rows], 2 * l + radius)
    low, high = low[: n + 1], high[: n + 1]
    low[0], high[n] = 0, m  # the way begins before both and ends after both
    low = np.minimum.accumulate(low[::-1])[::-1].clip(0, m)
    high = np.maximum.accumulate(high).clip(0, m)
    return low, high


def _cheapest(
    a: Spans, b: Spans, low: np.ndarray, high: np.ndarray, most: int
) -> tuple[list[tuple[int, int]], list[float]]:
    """The cheapest path of (sentences of A, sentences of B) from (0, 0) to the end within the window, and the cost of
    each step. Row by row; leaving out sentences of B, the step within a row, is a running minimum."""
    n, m = len(a), len(b)
    sides = [(i, j) for i in range(1, most) for j in range(1, most) if i + j <= most]
    far_a = [1 - joined_ND @ b.joined[0].mean(0) for joined_ND in a.joined]  # mean distance from the other document
    far_b = [1 - joined_MD @ a.joined[0].mean(0) for joined_MD in b.joined]
    skip = _left_out(a, b, far_a[0], far_b[0])
    steps = [(1, 0), *sides, (0, 1)]
    rows: list[np.ndarray] = []  # least costs of the last `most` rows
    taken: list[np.ndarray] = []
    nears: list[dict[tuple[int, int], np.ndarray]] = [{}]  # cosines of the last two rows by sentences joined
    for i in range(n + 1):
        first, last = int(low[i]), int(high[i]) + 1
        best_W = np.full(last - first, np.inf)
        step_W = np.zeros(last - first, np.uint8)
        if i == 0:
            best_W[0] = 0.0
        else:
            best_W = _shifted(rows[-1], int(low[i - 1]), first, last) + skip
            nears = [nears[-1], _near(a, b, sides, i, first, last)]
            for k, j in nears[1]:
                near_W = nears[1][k, j]
                cost_W = 2 * k * j * (1 - near_W) / (1e-6 + far_a[k - 1][i - 1] + _at(far_b[j - 1], first, last))
                new_W = _shifted(rows[-k], int(low[i - k]), first - j, last - j) + cost_W
                better_W = (new_W < best_W - _EVEN) & (near_W >= _parts(nears, int(low[i - 1]), first, last, k, j))
                best_W[better_W] = new_W[better_W]
                step_W[better_W] = steps.index((k, j))
        ramp_W = np.arange(len(best_W)) * skip
        run_W = np.minimum.accumulate(best_W - ramp_W) + ramp_W
        within_W = run_W < best_W - _EVEN
        best_W = np.where(within_W, run_W, best_W)
        step_W[within_W] = len(steps) - 1
        rows = [*rows[-most:], best_W]
        taken.append(step_W)
    path, costs = [(n, m)], []
    i, j = n, m
    while i or j:
        k, l = steps[taken[i][j - int(low[i])]]
        distance = 1 - float(a.joined[k - 1][i - 1] @ b.joined[l - 1][j - 1]) if k and l else 0.0
        costs.append(2 * k * l * distance / (1e-6 + far_a[k - 1][i - 1] + far_b[l - 1][j - 1]) if k and l else skip)
        i, j = i - k, j - l
        path.append((i, j))
    return path[::-1], [float(cost) for cost in costs[::-1]]


def _near(
    a: Spans, b: Spans, sides: list[tuple[int, int]], i: int, first: int, last: int
) -> dict[tuple[int, int], np.ndarray]:
    """Cosines of the joined sentences of A that end with the i-th and those of B at the columns `first` … `last` − 1:
    (joined of A, joined of B) → near_W, −1 where there are not so many."""
    out: dict[tuple[int, int], np.ndarray] = {}
    for j in sorted({j for _, j in sides}):
        counts = [k for k, other in sides if other == j and k <= i]
        start = max(first, j)  # so many of B must be there to be joined
        near_KW = np.full((len(counts), last - first), -1.0, np.float32)
        if counts and start < last:
            query_KD = np.stack([a.joined[k - 1][i - 1] for k in counts])
            near_KW[:, start - first :] = query_KD @ b.joined[j - 1][start - 1 : last - 1].T
        out |= {(k, j): near_W for k, near_W in zip(counts, near_KW)}
    return dict(sorted(out.items()))


def _parts(
    nears: list[dict[tuple[int, int], np.ndarray]], low: int, first: int, last: int, k: int, j: int
) -> np.ndarray:
    """The greatest cosine that is left when one of the joined sentences at an end is taken away, −1 for single ones:
    → near_W. Whoever joins must come nearer, else a sentence without counterpart would hide beside one that has it."""
    before, now = nears
    best_W = np.full(last - first, -1.0)
    if k > 1:
        best_W = np.maximum(best_W, now[k - 1, j])
        if (k - 1, j) in before:
            best_W = np.maximum(best_W, _shifted(before[k - 1, j], low, first, last, fill=-1.0))
    if j > 1:
        best_W = np.maximum(best_W, now[k, j - 1])
        best_W[1:] = np.maximum(best_W[1:], now[k, j - 1][:-1])
    return best_W


def _at(values_M: np.ndarray, first: int, last: int) -> np.ndarray:
    """Of the sentences that end at columns `first` … `last` − 1 (column 0 has none, and stands for the first)."""
    return values_M[np.maximum(np.arange(first, last) - 1, 0)]


def _shifted(row_W: np.ndarray, low: int, first: int, last: int, fill: float = np.inf) -> np.ndarray:
    """A row whose first column is `low`, at the columns `first` … `last` − 1; `fill` where it has none."""
    out_W = np.full(last - first, fill)
    start, stop = max(first, low), min(last, low + len(row_W))
    if start < stop:
        out_W[start - first : stop - first] = row_W[start - low : stop - low]
    return out_W


def _left_out(a: Spans, b: Spans, far_a: np.ndarray, far_b: np.ndarray) -> float:
    """What leaving a sentence out costs: a quantile of the costs of random strangers, the same at every call."""
    random = np.random.default_rng(0)
    i, j = (random.integers(0, len(side), _RANDOM_PAIRS) for side in (a, b))
    near = np.concatenate(
        [
            np.einsum("nd,nd->n", a.joined[0][i[at : at + 2048]], b.joined[0][j[at : at + 2048]])
            for at in range(0, _RANDOM_PAIRS, 2048)
        ]
    )
    true = 1 / max(len(a), len(b))  # the share of random pairs that belong together: much, of short documents
    return float(np.quantile(2 * (1 - near) / (1e-6 + far_a[i] + far_b[j]), true + (1 - true) * LEFT_OUT))


def strict_f1(found: Iterable[Bead], true: Iterable[tuple[range, range]]) -> tuple[float, float, float]:
    """Precision, recall and F1 in per cent, strict: of pairs with both sides, those that are exactly a true one."""
    have = {(p.a, p.b) for p in found if p.a and p.b}
    want = {(a, b) for a, b in true if a and b}
    right = len(have & want)
    precision, recall = 100 * right / max(1, len(have)), 100 * right / max(1, len(want))
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


# ---------------------------------------------------------------------------------------------- vecalign's own files


def read_vectors(texts: str, raw: str) -> Callable[[list[str]], np.ndarray]:
    """Texts, one a line, and their vectors as raw float32 (vecalign's overlaps, LASER's output) → what looks texts up
    as an `embed` does. UserError for files that don't fit, or a text that is not there."""
    lines = read_text(texts).splitlines()
    with read_errors(raw), open(raw, "rb") as file:
        size = os.fstat(file.fileno()).st_size
    if not size or size % (4 * len(lines)):
        raise UserError(
            f"{raw} holds {size:,} bytes: no float32 vectors of {len(lines):,} texts", f"embed {texts} anew"
        )
    vectors_TD = np.memmap(raw, "<f4", mode="r").reshape(len(lines), -1)
    row = {line: i for i, line in enumerate(lines)}

    def look_up(wanted: list[str]) -> np.ndarray:
        if lost := [text for text in wanted if text not in row]:
            raise UserError(f"{texts} lacks the text {lost[0]!r}", "join as many sentences there, or lower --max")
        return np.stack([vectors_TD[row[text]] for text in wanted])

    return look_up


def writing_vectors(
    embed: Callable[[list[str]], np.ndarray], folder: str, name: str
) -> Callable[[list[str]], np.ndarray]:
    """An `embed` that also writes what it was asked for as `name`.txt and `name`.emb, for `read_vectors`."""
    make_folder(folder)

    def embed_and_write(texts: list[str]) -> np.ndarray:
        vectors_TD = embed(texts)
        atomic_write(Path(folder, f"{name}.txt"), "".join(f"{text}\n" for text in texts))
        atomic_write(Path(folder, f"{name}.emb"), np.ascontiguousarray(vectors_TD, "<f4").tobytes())
        return vectors_TD

    return embed_and_write


def line_of(pair: Bead) -> str:
    """A pair as vecalign writes it: numbers from 0, and its cost.

    >>> line_of(Bead(range(0, 2), range(1, 2), 0.25))
    '[0, 1]:[1]:0.250000'
    """
    return f"{list(pair.a)}:{list(pair.b)}:{pair.cost:.6f}"
