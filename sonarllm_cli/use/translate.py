"""Documents in one language → in another, sentence by sentence through a space, their layout and marks kept.

    translate("Ich habe *keine* Zeit.", to="en").text                   # as the command does
    for part in translated(text, "", run, lang="deu_Latn", space=space): ...       # a document, part by part

What is no prose passes as it stands (pieces.py), and so does what is no words (markup.py), or in letters of no language
of the space. The prose of a block of lines is segmented, embedded and decoded. A sentence around an address or code is
translated in parts. With `--lang auto` a line among others in another language is read in its own, and stands if that
is the one to be written. Of a recording each utterance is a line, or a cue of subtitles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

from ..errors import UserError
from ..flow.back import Distances
from ..flow.clauses import fitted
from ..flow.cut import Fits
from ..flow.decode import Search
from ..flow.embed_speech import SpeechModel
from ..flow.embed_text import fits
from ..flow.hear import Ears, Listened, read_recording
from ..flow.language import AUTO, lacking, language_among, reading
from ..flow.marks import flat
from ..flow.say import Said, nearest_of, say
from ..flow.segment import segment
from ..flow.utterances import Utterance
from ..io.audio import Recording
from ..io.markup import Bare, Mark, breaks, cue, escaped, prose, put_back
from ..io.pieces import SUBTITLES, Piece, pieces
from ..languages import NAMES, foreign_letters, resolve
from ..runtime import Runtime, log
from ..weights.loaded import DEFAULT, Space, load_space

SENTENCES = 256  # translated at once
LENGTH = 100  # characters of a sentence, about
Translate = Callable[[Sequence[str], str], list[Said]]  # sentences on one line each, of one language → theirs
OwnLanguage = Callable[[str, str], str]  # a text, the language of what is around it → its own


class Already(UserError):
    """A text is in the language that is to be written."""


@dataclass(frozen=True)
class Translated:
    """A sentence of a document, whose characters `start` to `end` it is, from the line `line` (from 1) on; and what it
    is in the other language, both without marks. None of one in foreign letters, or `already` in the other language,
    which stands as it is. Of a sentence that was translated in parts the score is their mean, the cosine the least. Or
    an utterance: its words, if they were asked for, seconds, and number."""

    source: str
    start: float
    end: float
    line: int
    said: Said | None
    already: bool = False


@dataclass(frozen=True)
class Part:
    """Part of a document as it is in the other language, layout and all; and the sentences in it."""

    text: str
    sentences: list[Translated]


@dataclass(frozen=True, kw_only=True)
class Translator:
    """What translates documents into the language `to` of a space. They are in `lang`, "auto" in what each looks like;
    `kind` is ".srt" or ".vtt" of subtitles (of a recording what is written), ".md" of Markdown, else plain text. With
    `bilingual` each block, or cue, is followed by its translation on a line of its own; with `clauses` a long sentence
    that came out far is tried clause by clause. `speech` is the encoder of recordings (see `flow.hear`)."""

    space: Space
    to: str
    lang: str = AUTO
    bilingual: bool = False
    clauses: bool = True
    search: Search = field(default_factory=Search)
    batch_size: int | None = None
    speech: str | SpeechModel = ""

    @functools.cached_property
    def _ears(self) -> Ears:
        return Ears(self.space, self.speech)

    def parts(self, document: str | Recording, kind: str = "", name: str = "", tell: str = "") -> Iterator[Part]:
        """A document's parts, in order: joined their texts are it. How many sentences came out far from what they say,
        and where, is logged, after what is to `tell`. Messages call the document by its `name`.

        UserError for a language that the space has not; `Already` for a text in the language to be written."""
        langs = self.space.tokenizer.langs
        space, to = self.space, resolve(self.to, langs)
        if isinstance(document, Recording):
            ears = self._ears.of(document.name)
            heard = read_recording(document, space, self.lang, speech=ears, batch_size=self.batch_size)
            parts = translate_speech(heard, to, kind=kind, search=self.search, bilingual=self.bilingual)
            return _told(parts, tell, "utterance", to)
        name = name or "the text"
        own: OwnLanguage | None = None
        if self.lang == AUTO and len(langs) > 1:
            own = functools.partial(language_among, known=langs)
        lang, note = reading(document, self.lang, langs, name)
        if own:
            _check_work(document, kind, lang, to, langs, own, name)
        if note:
            log.info("%s", note)
        if lang == to and not own:
            cure = "--lang says what it is in, --to what to write"
            raise UserError(f"{name} would go from {NAMES.get(lang, lang)} into {NAMES.get(to, to)}", cure)
        options: dict[str, Any] = {"batch_size": self.batch_size, "by_clauses": self.clauses}

        def run(sentences: Sequence[str], lang: str) -> list[Said]:
            return say(sentences, lang, to, space, self.search, **options)

        parts = translated(document, kind, run, lang=lang, own=own, to=to, space=space, bilingual=self.bilingual)
        return _told(parts, tell, "line", to)


def _check_work(text: str, kind: str, lang: str, to: str, langs: Sequence[str], own: OwnLanguage, name: str) -> None:
    """UserError for a text with nothing to be translated: in a language that the space lacks, or in `to`."""
    lines = [line for line in text.splitlines() if any(map(str.isalpha, line))]
    if not lines:
        return
    foreign = all(foreign_letters(line, langs) for line in lines)
    others = lang != to or any(language != to for piece in pieces(text, kind) for _, language in _own(piece, lang, own))
    if others and not foreign:
        return
    if lacks := lacking(text, langs):
        raise UserError(f"{name} is in {NAMES[lacks]}, which the model does not have", "-m names one that has it")
    if foreign:
        raise UserError(f"{name} is in letters of no language that the model has", "-m names one that has them")
    cure = "--to says what to write, --lang what it is in if it only looks so"
    raise Already(f"{name} is in {NAMES.get(to, to)} already", cure)


def _own(piece: Piece, usual: str, own: OwnLanguage, *, lines: bool = True) -> Iterator[tuple[Piece, str]]:
    """A piece, cut at the ends of `lines` where the text goes over into another language; each with its language."""
    usual = own(piece.prose, usual)
    stretches: list[tuple[str, str]] = []
    for line in piece.prose.splitlines(keepends=True) if lines else []:
        lang = own(line, usual)
        if stretches:
            before, last = stretches[-1]
            goes_on = line.lstrip()[:1].islower() and before.rstrip()[-1:] not in ".!?…"  # a sentence
            if lang == last or goes_on:
                stretches[-1] = before + line, last
                continue
        stretches.append((line, lang))
    if len(stretches) < 2:
        yield piece, stretches[0][1] if stretches else usual
        return
    for i, (text, lang) in enumerate(stretches):
        prose = text.rstrip()
        after = text[len(prose) :] + piece.after * (i == len(stretches) - 1)
        yield Piece(piece.before * (i == 0), prose, after), lang


def _told(parts: Iterator[Part], tell: str, place: str, to: str) -> Iterator[Part]:
    distances = Distances()
    for part in parts:
        for one in part.sentences:
            if one.said:
                distances.see(
                    one.line, one.said.cosine, same=place == "line" and flat(one.said.text) == flat(one.source)
                )
            elif one.already:
                distances.stand(one.line)
            else:
                distances.leave(one.line)
        yield part
    if told := distances.told("sentences", place, NAMES.get(to, to)):
        log.info("%s%s", tell, told)


def translate(
    text: str | Recording,
    to: str = "eng_Latn",
    *,
    lang: str = AUTO,
    model: str | Space = DEFAULT,
    runtime: Runtime | None = None,
    kind: str = "",
    bilingual: bool = False,
    clauses: bool = True,
    speech: str | SpeechModel = "",
    batch_size: int | None = None,
    **options: Any,
) -> Part:
    """A text, or a recording, in the language `to`, with its layout: → its text and sentences. `options` are fields of
    `Search`, the others those of a `Translator`.

    >>> translate("Ich habe keine Zeit.", to="en").text      # doctest: +SKIP

    Raises UserError for a language that the model has not, a text in the language `to`, and broken subtitles.
    """
    space = model if isinstance(model, Space) else load_space(model, runtime)
    own: dict[str, Any] = {"lang": lang, "bilingual": bilingual, "clauses": clauses, "batch_size": batch_size}
    translator = Translator(space=space, to=to, speech=speech, search=Search(**options), **own)
    parts = [*translator.parts(text, kind)]
    return Part("".join(part.text for part in parts), [one for part in parts for one in part.sentences])


class _Bit(NamedTuple):
    """A stretch of a sentence, whether it stands as it is, and whether white space is before it."""

    text: str
    stands: bool
    apart: bool


@dataclass(frozen=True)
class _Sentence:
    """A sentence without its marks: its place in the words of its piece, its bits, the marks within it each with its
    words, and the signs before and after it of marks around several."""

    start: int
    end: int
    bits: list[_Bit]
    marks: list[tuple[Mark, str]]
    before: str
    after: str

    @property
    def source(self) -> str:
        return self._whole([bit.text for bit in self.bits])

    @property
    def wanted(self) -> list[str]:
        """What is to be said for it: the bits that don't stand, and the words of marks that are not around all of it;
        nothing of a sentence without words."""
        bits = [bit.text for bit in self.bits if not bit.stands]
        return [*bits, *(words for mark, words in self.marks if self._alone(mark, words))] if bits else []

    def said(self, found: Iterator[Said], to: str) -> tuple[Said, str]:
        """Of what was said of all that is wanted its own: the sentence, and the same with marks."""
        parts = {i: next(found) for i, bit in enumerate(self.bits) if not bit.stands}
        last = len(self.bits) - 1
        texts = [
            fitted(parts[i].text, bit.text, to, i > 0, i < last) if i in parts else bit.text
            for i, bit in enumerate(self.bits)
        ]
        own = [next(found).text if self._alone(mark, words) else words for mark, words in self.marks]
        text = self._whole(texts)
        score, cosine = fmean(part.score for part in parts.values()), min(part.cosine for part in parts.values())
        return Said(text, score, cosine), self.marked(text, own)

    def marked(self, text: str, own: Sequence[str] | None = None) -> str:
        """A text, the sentence or what was said of it, with its marks."""
        own = [words for _, words in self.marks] if own is None else own
        length = self.end - self.start
        return f"{self.before}{put_back(text, [m for m, _ in self.marks], own, length)}{self.after}"

    def _alone(self, mark: Mark, words: str) -> bool:
        return mark.end - mark.start < self.end - self.start and any(map(str.isalpha, words))

    def _whole(self, texts: Sequence[str]) -> str:
        return "".join(f"{' ' * (bit.apart and i > 0)}{text}" for i, (bit, text) in enumerate(zip(self.bits, texts)))


def _sentences(text: Bare, lang: str, fit: Fits | None) -> list[_Sentence]:
    """The sentences of a piece. None ends within a link, or within what stands."""
    spans = [(s.start, s.end) for s in segment(text.words, lang=lang, fits=fit)]
    begins, ends = {start for start, _ in spans}, {end for _, end in spans}
    around = [m for m in text.marks if m.start in begins and m.end in ends]
    whole = [*text.stands, *((m.start, m.end) for m in text.marks if m.kept and m not in around)]
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and any(a < joined[-1][1] and b > start for a, b in whole):
            start = joined.pop()[0]
        joined.append((start, end))
    out = []
    for i, (start, end) in enumerate(joined):
        next_start = joined[i + 1][0] if i + 1 < len(joined) else len(text.words) + 1
        inner = [
            (m, flat(text.words[m.start : m.end]))
            for m in text.marks
            if (start <= m.start < m.end <= end)
            or (m.start == m.end and (start <= m.start or i == 0) and m.start < next_start)
        ]
        several = [m for m in around if m.end - m.start > end - start]
        before = "".join(m.opening for m in several if m.start == start)
        after = "".join(m.closing for m in several if m.end == end)
        out.append(_Sentence(start, end, _bits(text, start, end), inner, before, after))
    return out


def _bits(text: Bare, start: int, end: int) -> list[_Bit]:
    """A sentence cut around what stands; a stretch without letters stands too."""
    stands = [(max(a, start), min(b, end)) for a, b in text.stands if a < end and b > start]
    edges = [start, *(edge for span in stands for edge in span), end]
    out = []
    for i, (a, b) in enumerate(pairwise(edges)):
        words = text.words[a:b]
        if own := flat(words):
            apart = words[0].isspace() or (a > 0 and text.words[a - 1].isspace())
            out.append(_Bit(own, i % 2 == 1 or not any(map(str.isalpha, own)), apart))
    return out


def translated(
    text: str,
    kind: str,
    run: Translate,
    *,
    lang: str,
    own: OwnLanguage | None = None,
    to: str = "",
    space: Space | None = None,
    bilingual: bool = False,
    most: int = SENTENCES,
) -> Iterator[Part]:
    """The parts of a document, whose `kind` is one of `pieces`, as `run` translates its sentences. Those over the limit
    of `space` are cut first, and those in letters that none of its languages has stand as they are. The text is in the
    language `lang`, but for what `own` tells to be in another; what is in `to` stands as well."""
    cut = functools.partial(_own, usual=lang, own=own, lines=kind not in SUBTITLES) if own else lambda p: [(p, lang)]
    parts = ((piece, language) for whole in pieces(text, kind) for piece, language in cut(whole))
    fit = fits(space) if space else None
    langs = space.tokenizer.langs if space else []
    newline = "\r\n" if "\r\n" in text else "\n"
    offset, line = 0, 1  # of the piece
    for group in _groups(parts, most):
        read = [cue(piece.prose) if kind in SUBTITLES else prose(piece.prose) for piece, _ in group]
        sentences = [_sentences(words, language, fit) for words, (_, language) in zip(read, group)]
        foreign = {
            s.source for every in sentences for s in every if langs and s.wanted and foreign_letters(s.source, langs)
        }
        wanted: dict[str, list[str]] = {}
        for every, (_, language) in zip(sentences, group):
            if language != to:
                wanted.setdefault(language, []).extend(w for s in every if s.source not in foreign for w in s.wanted)
        found = {language: iter(run(words, language)) for language, words in wanted.items() if words}
        for (piece, language), words, every in zip(group, read, sentences):
            at = offset + len(piece.before)
            above = line + piece.before.count("\n")
            out: list[Translated] = []
            text, ended = "", 0
            for s in every:
                said, marked = None, s.marked(s.source)
                translatable = bool(s.wanted) and s.source not in foreign
                if translatable and language != to:
                    said, marked = s.said(found[language], to)
                place, end = words.places[s.start], words.places[s.end]
                row = above + piece.prose.count("\n", 0, place)
                out.append(Translated(s.source, at + place, at + end, row, said, translatable and said is None))
                text += words.words[ended : s.start] + marked
                ended = s.end
            yield Part(
                piece.before + _shown(piece, out, text, kind, newline, bilingual) + piece.after,
                [one for one in out if one.said or one.already or one.source in foreign],
            )
            whole = piece.before + piece.prose + piece.after
            offset, line = offset + len(whole), line + whole.count("\n")


def _groups(parts: Iterable[tuple[Piece, str]], most: int) -> Iterator[list[tuple[Piece, str]]]:
    """Pieces together, of about `most` sentences."""
    group, count = list[tuple[Piece, str]](), 0
    for piece, language in parts:
        group.append((piece, language))
        count += 1 + max(piece.prose.count("\n"), len(piece.prose) // LENGTH)
        if count >= most:
            yield group
            group, count = [], 0
    if group:
        yield group


def _shown(piece: Piece, sentences: list[Translated], text: str, kind: str, newline: str, bilingual: bool) -> str:
    """The prose of a piece as it is in the other language."""
    if not any(one.said for one in sentences):
        return piece.prose
    if kind in SUBTITLES:
        text = escaped(_wrapped(text, *breaks(piece.prose, newline)), piece.prose, kind)
    return f"{piece.prose}{' / ' if piece.cell else newline}{text}" if bilingual else text


def translate_speech(
    heard: Listened, to: str, *, kind: str = "", search: Search | None = None, bilingual: bool = False
) -> Iterator[Part]:
    """What is said in a recording, in the language `to`, an utterance a line, or with `kind` ".srt" or ".vtt" a cue of
    subtitles. With `bilingual` the words in the language spoken stand on a line before each."""
    if kind == ".vtt":
        yield Part("WEBVTT\n\n", [])
    for first in range(0, len(heard.times), SENTENCES):
        rows = range(first, min(first + SENTENCES, len(heard.times)))
        own = heard.words(rows, search=search) if bilingual else [""] * len(rows)
        said = nearest_of(heard.text_SD[list(rows)], to, heard.space, search or Search())
        for row, source, one in zip(rows, own, said):
            time = heard.times[row]
            text = f"{source}\n{one.text}\n" if bilingual else f"{one.text}\n"
            sentence = Translated(source, time.start, time.end, row + 1, one)
            yield Part(f"{_cue_head(row + 1, time, kind)}{text}\n" if kind else text, [sentence])


def _cue_head(number: int, time: Utterance, kind: str) -> str:
    stop = "," if kind == ".srt" else "."
    start, end = (
        f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{stop}{ms % 1000:03}"
        for ms in (round(1000 * seconds) for seconds in time)
    )
    return f"{number}\n{start} --> {end}\n"


def _wrapped(text: str, lines: int, newline: str) -> str:
    """A text on so many lines of like length, or fewer."""
    words = text.split()
    out = [""]
    for word in words:
        if len(out) < lines and len(out[-1]) + len(word) / 2 > len(text) / lines:
            out.append("")
        out[-1] = f"{out[-1]} {word}".strip()
    return newline.join(out)
