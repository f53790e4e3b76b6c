"""WordNet from a folder, as Debian installs it, gives METEOR its synonyms."""

import pytest
from nltk.translate.meteor_score import single_meteor_score

from sonarllm_cli.score.wordnet import NoSynonyms, read_wordnet


@pytest.fixture
def folder(tmp_path):
    """A database of one set of synonyms, car and auto, and otherwise nothing."""
    for part in ("noun", "verb", "adj", "adv"):
        for kind in ("index", "data"):
            (tmp_path / f"{kind}.{part}").write_text("")
        (tmp_path / f"{part}.exc").write_text("")
    header = "  1 This is no entry\n"
    (tmp_path / "data.noun").write_text(header + f"{len(header):08} 06 n 02 car 0 auto 0 000 | a machine on wheels  \n")
    (tmp_path / "index.noun").write_text("".join(f"{w} n 1 0 1 0 {len(header):08}  \n" for w in ("auto", "car")))
    return tmp_path


def test_synonyms_count_where_wordnet_has_them(folder):
    found = read_wordnet(folder)
    assert {lemma.name() for synset in found.synsets("cars") for lemma in synset.lemmas()} == {"car", "auto"}
    texts = ["the", "auto", "stops"], ["the", "car", "stops"]
    with_them, without = (single_meteor_score(*texts, wordnet=w) for w in (found, NoSynonyms()))
    assert with_them == single_meteor_score(texts[0], texts[0], wordnet=NoSynonyms()) > without


def test_a_folder_without_wordnet_is_none(tmp_path):
    assert read_wordnet(tmp_path) is None
