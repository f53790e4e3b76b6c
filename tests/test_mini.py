"""The embedded model: small enough, whole, and it does what its card says on texts like those it was trained on."""

from pathlib import Path

import pytest
import torch

from sonarllm_cli.flow.decode import decode
from sonarllm_cli.flow.embed import embed
from sonarllm_cli.flow.embed_text import embed_sentences
from sonarllm_cli.flow.familiar import reconstruction
from sonarllm_cli.score.metrics import xsim
from sonarllm_cli.weights import registry
from sonarllm_cli.weights.loaded import load_space

TALK = Path(__file__).parents[1] / "examples/talk.flac"
TEXTS = {
    "eng_Latn": ["I don't have time today.", "The children are playing in the garden.", "Where is the station?"],
    "deu_Latn": ["Ich habe heute keine Zeit.", "Wo ist der Bahnhof?"],
    "fra_Latn": ["Je n'ai pas le temps.", "Où est la gare ?"],
    "ita_Latn": ["Non ho tempo.", "Tom è qui."],
    "spa_Latn": ["No tengo tiempo.", "¿Dónde está la estación?"],
}


@pytest.fixture(scope="module")
def space():
    return load_space("mini")


def test_it_is_at_most_36_mib_and_unaltered():
    files = [p for p in registry.EMBEDDED.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 36 << 20
    for name in ("mini", "mini-sonar", "mini-ears"):
        registry.verify(name)


def test_short_sentences_come_back_word_for_word(space):
    """As often as the card says at least: four of five."""
    back = []
    for lang, texts in TEXTS.items():
        found = decode(embed(texts, lang=lang, model=space), lang=lang, model=space)
        back += [h[0].text == text for h, text in zip(found, texts)]
    assert sum(back) >= 0.8 * len(back)


ENGLISH = [
    "I have no time today.",
    "Where is the station?",
    "My brother lives in Berlin.",
    "The water is too cold.",
    "She bought a new car.",
]
OTHERS = {
    "deu_Latn": [
        "Ich habe heute keine Zeit.",
        "Wo ist der Bahnhof?",
        "Mein Bruder wohnt in Berlin.",
        "Das Wasser ist zu kalt.",
        "Sie hat ein neues Auto gekauft.",
    ],
    "ita_Latn": [
        "Oggi non ho tempo.",
        "Dov'è la stazione?",
        "Mio fratello vive a Berlino.",
        "L'acqua è troppo fredda.",
        "Lei ha comprato una macchina nuova.",
    ],
}


@pytest.mark.parametrize("lang", OTHERS)
def test_a_translation_is_the_nearest(space, lang):
    a, b = (embed(texts, lang=code, model=space) for texts, code in ((ENGLISH, "eng_Latn"), (OTHERS[lang], lang)))
    assert xsim(torch.from_numpy(a), torch.from_numpy(b)) == 0


def test_what_is_foreign_to_it_is_reconstructed_worse(space):
    own = ["She opened the door and looked at the rain.", "The city lies on the river and has two railway stations."]
    foreign = ["for (int i = 0; i < n; i++) { sum += a[i][j]; }", "Quisque fermentum velit, atque haec scripta manent."]

    def bits(texts):
        return reconstruction(texts, embed_sentences(texts, "eng_Latn", space), "eng_Latn", space)

    assert bits(own) < bits(foreign) - 0.3


def test_it_hears_clear_speech(space):
    """Each sentence of the example's recording is nearest to its own words."""
    pytest.importorskip("soundfile")
    said = [
        "I can't find my keys.",
        "The train is late again.",
        "Please call me tomorrow morning.",
        "We are going to eat in the garden.",
    ]
    heard = torch.from_numpy(embed(audio=TALK, model="mini"))
    assert xsim(heard, embed_sentences(said, "eng_Latn", space).float()) == 0
