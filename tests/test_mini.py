"""The embedded model: small enough, whole, and it does what its card says on texts like those it was trained on."""

import pytest

from sonarllm_cli.flow.compose import sentences_of, summarize
from sonarllm_cli.flow.decode import decode
from sonarllm_cli.flow.embed import embed, embed_sentences
from sonarllm_cli.flow.model import load_space, load_writer
from sonarllm_cli.flow.reconstruct import reconstruction
from sonarllm_cli.measure.metrics import xsim
from sonarllm_cli.weights import registry

TEXTS = {
    "eng_Latn": ["Ruby library for parsing XML documents", "This package contains the documentation.", "music player"],
    "deu_Latn": ["Ruby-Bibliothek zum Auswerten von XML-Dokumenten", "Dieses Paket enthält die Dokumentation."],
    "ita_Latn": ["Questo pacchetto contiene la documentazione.", "riproduttore musicale"],
    "fra_Latn": ["Ce paquet fournit la documentation."],
    "spa_Latn": ["Este paquete contiene la documentación."],
}


@pytest.fixture(scope="module")
def space():
    return load_space("mini")


@pytest.fixture(scope="module")
def writer():
    return load_writer("mini")


def test_it_is_at_most_32_mib_and_unaltered():
    files = [p for p in registry.EMBEDDED.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 32 << 20
    for name in ("mini", "mini-sonar"):
        registry.verify(name)


@pytest.mark.parametrize("lang", TEXTS)
def test_short_sentences_come_back_word_for_word(space, lang):
    found = decode(embed(TEXTS[lang], lang=lang, model=space), lang=lang, model=space)
    assert [h[0].text for h in found] == TEXTS[lang]


def test_the_same_sentence_is_the_nearest_in_every_language(space):
    english = [
        "This package contains the documentation.",
        "music player",
        "web server",
        "image viewer",
        "game for kids",
    ]
    italian = [
        "Questo pacchetto contiene la documentazione.",
        "riproduttore musicale",
        "server web",
        "visualizzatore di immagini",
        "gioco per bambini",
    ]
    a, b = (embed(t, lang=lang, model=space) for t, lang in ((english, "eng_Latn"), (italian, "ita_Latn")))
    import torch

    assert xsim(torch.from_numpy(a), torch.from_numpy(b)) == 0


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("GIMP is an image editor. It lets you draw, paint and edit images.", True),
        ("This package contains a Python library. It reads XML documents and checks them.", True),
        ("The finance minister resigned on Tuesday after weeks of protests. The president named a successor.", False),
        ("He sat down at the kitchen table and opened the letter. Outside, the rain had stopped.", False),
        ("The home team scored twice in the first half and held on to win. The striker was injured.", False),
    ],
)
def test_it_knows_which_texts_are_of_its_field(writer, text, familiar):
    texts = sentences_of(text, "eng_Latn", writer)
    bits = reconstruction(texts, embed_sentences(texts, "eng_Latn", writer.space), "eng_Latn", writer.space)
    assert (bits < writer.familiar) == familiar


def test_different_texts_get_different_summaries(writer):
    texts = [
        "This package provides a music player for GNOME. It plays MP3 and Ogg files and shows covers.",
        "This package contains a Python library. It reads XML documents and checks them.",
    ]
    first, second = (summarize(t, sentences=1, model=writer)[0].text for t in texts)
    assert first != second and len(first) > 5 < len(second)
