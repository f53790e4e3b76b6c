"""Files and folders in one language → in another: which are read, where each goes, and what can't be done of them.

    for file, part in translate_files(["letters/"], translator, output="letters.en", folder=True): ...

Each is read, translated and written before the next; the model is loaded when the first was read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

from ..errors import RunError, UserError
from ..io.audio import ENDINGS as SOUND_ENDINGS
from ..io.audio import Recording, check_speech, is_recording
from ..io.files import display_name, make_folder, open_output, text_ending, uncompressed
from ..io.pieces import SUBTITLES, pieces
from ..io.texts import HTML_ENDINGS, expand, read_texts
from ..runtime import log
from .translate import Already, Part, Translator

TAKEN = (".txt", ".text", ".md", ".rst", *SUBTITLES, *SOUND_ENDINGS)  # what is taken of a folder
Tell = Callable[[UserError], None]
Job = tuple[str, Path | None, str | Recording, str]  # a file, where it goes, what it holds, and its kind


def translate_files(
    files: Sequence[str],
    translator: Callable[[], Translator],
    *,
    kind: str = "",
    speech: str = "",
    output: str = "",
    folder: bool = False,
    tell: Tell | None = None,
) -> Iterator[tuple[str, Part]]:
    """Each file's name with its parts, in order; none, or "-", is standard input. With `folder` each translation is
    written to the folder `output`, under the file's own name (see `files_of_documents`); else `output` is where the
    caller writes them. Of several, one that is in the language to be written already is copied. `kind` is that of the
    files where their endings don't tell (see `Translator`). With `tell` a file that can't be read or translated is
    told, and the others are done.

    `translator` is asked once the first file was read. UserError at once for files that are not there, a translation
    that would be written over its source, and a `speech` encoder with nothing to hear; and where no file can be read.
    """
    if folder:
        places: list[tuple[str, Path | None]] = [*files_of_documents(files, output, kind)]
    else:
        places = [(name, None) for name in expand(files, TAKEN)]
        if output not in ("", "-"):
            check_kept([name for name, _ in places], output)
    check_speech(speech, [name for name, _ in places])
    jobs = _read(places, kind, tell)
    return _translated(chain([next(jobs)], jobs), translator, several=len(places) > 1 or folder, tell=tell)


def _read(places: Sequence[tuple[str, Path | None]], kind: str, tell: Tell | None) -> Iterator[Job]:
    found = False
    for name, place in places:
        try:
            document, form = read_translatable(name, kind)
        except UserError as error:
            if tell is None:
                raise
            tell(error)
            continue
        found = True
        yield name, place, document, form
    if not found:
        raise UserError("no file could be read", "they are named above")


def _translated(
    jobs: Iterator[Job], translator: Callable[[], Translator], *, several: bool, tell: Tell | None
) -> Iterator[tuple[str, Part]]:
    run = translator()
    for name, place, document, form in jobs:
        shown = display_name(name)
        try:
            try:
                parts = run.parts(document, form, shown, f"{shown}: " if several else "")
            except Already as error:
                if not several or isinstance(document, Recording):
                    raise
                log.info("%s, and stands as it is", error.message)
                parts = iter([Part(document, [])])
            if place:
                make_folder(place.parent)
            with open_output(str(place)) if place else nullcontext() as out:
                for part in parts:
                    if out:
                        print(part.text, end="", file=out)
                    yield name, part
        except RunError:  # a full disk, which the others would meet too
            raise
        except UserError as error:
            if tell is None:
                raise
            tell(error)


def check_kept(names: Sequence[str], place: str | Path) -> None:
    """UserError where one of the files would be written over by what is written to `place`."""
    for name in names:
        if name != "-" and os.path.realpath(place) == os.path.realpath(name):
            raise UserError(f"{name} would be written over", "choose another -o")


def files_of_documents(paths: Sequence[str], folder: str, kind: str = "") -> list[tuple[str, Path]]:
    """The files that `paths` mean, each with the place of its translation in `folder`: a file's own name, within a
    folder its path there, without .gz and the like; of a recording `kind`, its ending as subtitles, or .txt comes
    after, of HTML .txt. What is in `folder` itself is not taken of a folder around it. UserError where two would have
    one place, or one would be written over."""
    target = Path(os.path.realpath(folder))
    found: dict[Path, str] = {}
    for path in paths:
        if path == "-":
            raise UserError("standard input has no name to be written under", "translate it by itself, with -o FILE")
        around = os.path.isdir(path) and Path(os.path.realpath(path)) in target.parents
        for name in expand([path], TAKEN):
            if around and target in Path(os.path.realpath(name)).parents:
                continue
            own = os.path.relpath(name, path) if os.path.isdir(path) else os.path.basename(name)
            if is_recording(name):
                own += kind if kind in SUBTITLES else ".txt"
            else:
                own = uncompressed(own) + (".txt" if text_ending(own) in HTML_ENDINGS else "")
            place = Path(folder, own)
            if place in found:
                raise UserError(f"two files are named {own}", "choose another -o, or translate them one by one")
            check_kept([name], place)
            found[place] = name
    if not found:
        raise UserError(f"every text there is lies in {folder}, where translations go", "choose another -o")
    return [(name, place) for place, name in found.items()]


def read_translatable(name: str, kind: str = "") -> tuple[str | Recording, str]:
    """A file's text, and its `kind` (see `pieces`), by its ending unless it is given; or a recording, not read yet, and
    the kind of subtitles that is given. UserError for a text that can't be read, is empty, or has broken times."""
    if is_recording(name):
        return Recording(name), kind if kind in SUBTITLES else ""
    [(_, text)] = read_texts([name], marked=True)
    kind = kind or ("" if name == "-" else text_ending(name))
    kind = kind if kind in (*SUBTITLES, ".md") else ""
    try:
        for _ in pieces(text, kind):
            pass
    except UserError as error:
        raise UserError(f"{display_name(name)}, {error.message}", error.cure) from None
    return text, kind
