"""What a user types as a language, and which FLORES-200 code it means."""

import doctest
import subprocess
import sys

import pytest

from sonarllm_cli import languages
from sonarllm_cli.errors import UserError
from sonarllm_cli.languages import FLORES, NAMES, resolve


def test_the_order_is_that_of_the_vocabulary():
    assert len(FLORES) == len(set(FLORES)) == 202 and tuple(NAMES) == FLORES
    places = {code: 256001 + at for at, code in enumerate(FLORES)}
    expected = {"ace_Arab": 256001, "eng_Latn": 256047, "fra_Latn": 256057, "zul_Latn": 256202}
    assert {code: places[code] for code in expected} == expected
    assert places["pes_Arab"] == places["fao_Latn"] + 1  # renamed from fas after the order was fixed: not alphabetical
    assert all(len(code) == 8 and code[3] == "_" and NAMES[code] for code in FLORES)


@pytest.mark.parametrize("code", FLORES)
def test_a_code_means_itself_however_it_is_written_and_so_does_its_name(code):
    assert resolve(code) == resolve(code.upper()) == resolve(code.replace("_", "-")) == resolve(NAMES[code]) == code
    assert resolve(code[:3])[:3] == code[:3]  # without its script: the language, in its usual script


@pytest.mark.parametrize(
    "words, code",
    [
        ("en eng English en_US.UTF-8 en_GB@euro EN-gb en-GB-oxendict en-Latn-US", "eng_Latn"),
        ("de deu ger german GERMAN de-DE de_AT.UTF-8 de-1996", "deu_Latn"),
        ("pt pt_BR pt-PT portuguese", "por_Latn"),
        ("es es-419 castilian", "spa_Latn"),
        ("zh zho chi cmn chinese zh-CN zh_SG zh-Hans mandarin zho-hans cmn_Hans", "zho_Hans"),
        ("zh-TW zh_HK.UTF-8 zh-Hant zh-Hant-HK zho_Hant cmn_Hant traditional-chinese", "zho_Hant"),
        ("no nb nor nob norwegian nb_NO bokmål bokmal", "nob_Latn"),
        ("nn nn-NO nynorsk", "nno_Latn"),
        ("ar ara arb ar-EG arabic", "arb_Arab"),
        ("fa fas persian farsi fa-IR", "pes_Arab"),
        ("fa-AF dari", "prs_Arab"),
        ("sr srp serbian sr-Cyrl-RS", "srp_Cyrl"),
        ("ms msa malay zsm", "zsm_Latn"),
        ("sat-Olck santali", "sat_Beng"),  # what NLLB names sat_Beng is written in Ol Chiki
        ("ace acehnese", "ace_Latn"),
        ("kas ks", "kas_Arab"),
        ("lv lav latvian", "lvs_Latn"),
        ("apc_Arab_sout3123", "ajp_Arab"),  # FLORES+ from here on
        ("apc_Arab_nort3139", "apc_Arab"),
        ("twi_Latn_asan1239", "aka_Latn"),
        ("twi_Latn_akua1239", "twi_Latn"),
        ("cat_Latn_vale1252", "cat_Latn"),
        ("ekk_Latn", "est_Latn"),
        ("fil_Latn", "tgl_Latn"),
        ("gug_Latn", "grn_Latn"),
        ("zgh_Tfng", "tzm_Tfng"),
    ],
)
def test_codes_locales_and_names(words, code):
    assert {word: resolve(word) for word in words.split()} == dict.fromkeys(words.split(), code)


def test_every_two_letter_code_of_a_macrolanguage_has_its_member():
    words = ["lv", "sq", "uz", "az", "ne", "or", "om", "ps", "qu", "mg", "et", "yi", "sw", "ku", "mn"]
    codes = ["lvs", "als", "uzn", "azj", "npi", "ory", "gaz", "pbt", "quy", "plt", "est", "ydd", "swh", "kmr", "khk"]
    assert [resolve(word)[:3] for word in words] == codes


@pytest.mark.parametrize(
    "word, cure",
    [
        ("germn", "did you mean 'deu_Latn' (German)?"),
        ("deu_Lant", "did you mean 'deu_Latn' (German)?"),
        ("sr-Latn", "did you mean 'srp_Cyrl' (Serbian)?"),
        ("xx", "use a FLORES-200 code (eng_Latn)"),
        ("", "use a FLORES-200 code (eng_Latn)"),
        ("☃", "use a FLORES-200 code (eng_Latn)"),
    ],
)
def test_an_unknown_word_is_an_error_with_a_cure(word, cure):
    with pytest.raises(UserError) as error:
        resolve(word)
    assert error.value.message == f"unknown language {word!r}"
    assert error.value.cure.startswith(cure) and error.value.cure.endswith("an English name (english)")


def test_a_model_lacks_a_language():
    with pytest.raises(UserError) as error:
        resolve("de", ["eng_Latn", "zho_Hant"])
    assert error.value.message == "this model does not have German (deu_Latn)"
    assert error.value.cure == "it has: English (eng_Latn), Chinese (Traditional) (zho_Hant)"
    with pytest.raises(UserError) as error:
        resolve("zu", FLORES[:100])
    assert error.value.cure.count(",") == 10 and error.value.cure.endswith(", and 90 more")
    with pytest.raises(UserError, match="it has: no language at all"):
        resolve("de", [])


def test_what_a_model_has_decides_between_scripts_but_not_against_the_word():
    assert resolve("zh", ["zho_Hant"]) == "zho_Hant" and resolve("Kashmiri", ["kas_Deva"]) == "kas_Deva"
    assert resolve("norwegian", ["nno_Latn"]) == "nno_Latn"
    with pytest.raises(UserError, match="does not have Chinese"):
        resolve("zh-CN", ["zho_Hant"])


def test_a_code_of_the_models_own_is_taken_as_it_is():
    known = ["eng_Latn", "qya_Teng", "py"]
    assert [resolve(word, known) for word in ("QYA-teng", "py", "en")] == ["qya_Teng", "py", "eng_Latn"]
    with pytest.raises(UserError) as error:
        resolve("germn", known)
    assert "deu_Latn" not in error.value.cure  # only what the model has is worth suggesting
    with pytest.raises(UserError, match="did you mean 'slv_Latn'"):
        resolve("slovenan", ["slv_Latn", "py"])
    with pytest.raises(UserError, match=r"English \(eng_Latn\), qya_Teng, py"):
        resolve("de", known)


def test_the_examples_hold_and_the_import_is_light():
    assert doctest.testmod(languages).failed == 0
    code = "import sys, sonarllm_cli.languages; assert not {'torch', 'numpy', 'nltk'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "word",
    ["tyv_Cyrl", "chv_Cyrl", "nqo_Nkoo", "lld_Latn", "bre", "lat_Latn", "Breton", "Latin", "Klingon", "Corsica"],
)
def test_a_language_it_has_not_is_not_taken_for_a_slip(word):
    with pytest.raises(UserError) as error:
        resolve(word)
    assert "did you mean" not in error.value.cure
