"""Language names: what a user types → the FLORES-200 code that SONAR and NLLB know.

>>> resolve("de"), resolve("German"), resolve("de_AT.UTF-8"), resolve("zh-TW")
('deu_Latn', 'deu_Latn', 'deu_Latn', 'zho_Hant')

`FLORES` keeps the order of the published SONAR cards, which is the order of the language tokens in the vocabulary
(ace_Arab is 256001, eng_Latn 256047, zul_Latn 256202), so it must never be sorted: a few codes were renamed after
the order was fixed (pes_Arab stands where `fas` stood).
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from .errors import UserError, nearest

# One row a language: code | English name | other words for it: ISO 639-1 codes, ISO 639-2 and 639-3 codes unlike
# FLORES', FLORES+ codes (with glottocodes), names, locales. A code without its script, and a name without its bracket,
# are understood without being listed. Of rows with a word in common the upper one is the usual meaning, unless a lower
# one is marked `!`.
_TABLE = """
ace_Arab | Acehnese (Arabic script)
ace_Latn | Acehnese (Latin script) | !
acm_Arab | Mesopotamian Arabic | iraqi arabic
acq_Arab | Ta'izzi-Adeni Arabic | yemeni arabic
aeb_Arab | Tunisian Arabic
afr_Latn | Afrikaans | af
ajp_Arab | South Levantine Arabic | apc_Arab_sout3123
aka_Latn | Akan | ak, twi_Latn_asan1239
amh_Ethi | Amharic | am
apc_Arab | North Levantine Arabic | levantine arabic
arb_Arab | Modern Standard Arabic | ar, ara, arabic, standard arabic
ars_Arab | Najdi Arabic
ary_Arab | Moroccan Arabic
arz_Arab | Egyptian Arabic
asm_Beng | Assamese | as
ast_Latn | Asturian
awa_Deva | Awadhi
ayr_Latn | Central Aymara | ay, aym, aymara
azb_Arab | South Azerbaijani
azj_Latn | North Azerbaijani | az, aze, azerbaijani
bak_Cyrl | Bashkir | ba
bam_Latn | Bambara | bm
ban_Latn | Balinese
bel_Cyrl | Belarusian | be
bem_Latn | Bemba
ben_Beng | Bengali | bn, bangla
bho_Deva | Bhojpuri
bjn_Arab | Banjar (Arabic script)
bjn_Latn | Banjar (Latin script) | ! banjarese
bod_Tibt | Standard Tibetan | bo, tib, tibetan
bos_Latn | Bosnian | bs
bug_Latn | Buginese
bul_Cyrl | Bulgarian | bg
cat_Latn | Catalan | ca, valencian
ceb_Latn | Cebuano
ces_Latn | Czech | cs, cze
cjk_Latn | Chokwe
ckb_Arab | Central Kurdish | sorani
crh_Latn | Crimean Tatar
cym_Latn | Welsh | cy, wel
dan_Latn | Danish | da
deu_Latn | German | de, ger
dik_Latn | Southwestern Dinka | din, dinka
dyu_Latn | Dyula
dzo_Tibt | Dzongkha | dz
ell_Grek | Greek | el, gre
eng_Latn | English | en
epo_Latn | Esperanto | eo
est_Latn | Estonian | et, ekk
eus_Latn | Basque | eu, baq
ewe_Latn | Ewe | ee
fao_Latn | Faroese | fo
pes_Arab | Western Persian | fa, fas, per, persian, farsi, iranian persian
fij_Latn | Fijian | fj
fin_Latn | Finnish | fi
fon_Latn | Fon
fra_Latn | French | fr, fre
fur_Latn | Friulian
fuv_Latn | Nigerian Fulfulde | ff, ful, fulfulde, fula
gla_Latn | Scottish Gaelic | gd
gle_Latn | Irish | ga
glg_Latn | Galician | gl
grn_Latn | Guarani | gn, gug
guj_Gujr | Gujarati | gu
hat_Latn | Haitian Creole | ht, haitian
hau_Latn | Hausa | ha
heb_Hebr | Hebrew | he, iw
hin_Deva | Hindi | hi
hne_Deva | Chhattisgarhi
hrv_Latn | Croatian | hr
hun_Latn | Hungarian | hu
hye_Armn | Armenian | hy, arm
ibo_Latn | Igbo | ig
ilo_Latn | Ilocano
ind_Latn | Indonesian | id
isl_Latn | Icelandic | is, ice
ita_Latn | Italian | it
jav_Latn | Javanese | jv
jpn_Jpan | Japanese | ja
kab_Latn | Kabyle
kac_Latn | Jingpho | kachin
kam_Latn | Kamba
kan_Knda | Kannada | kn
kas_Arab | Kashmiri (Arabic script) | ks
kas_Deva | Kashmiri (Devanagari script) | ks
kat_Geor | Georgian | ka, geo
knc_Arab | Central Kanuri (Arabic script) | kr, kau, kanuri
knc_Latn | Central Kanuri (Latin script) | ! kr, kau, kanuri
kaz_Cyrl | Kazakh | kk
kbp_Latn | Kabiyè
kea_Latn | Kabuverdianu | cape verdean creole
khm_Khmr | Khmer | km, cambodian
kik_Latn | Kikuyu | ki
kin_Latn | Kinyarwanda | rw
kir_Cyrl | Kyrgyz | ky
kmb_Latn | Kimbundu
kon_Latn | Kikongo | kg, kongo
kor_Hang | Korean | ko
kmr_Latn | Northern Kurdish | ku, kur, kurdish, kurmanji
lao_Laoo | Lao | lo
lvs_Latn | Standard Latvian | lv, lav, latvian
lij_Latn | Ligurian
lim_Latn | Limburgish | li
lin_Latn | Lingala | ln
lit_Latn | Lithuanian | lt
lmo_Latn | Lombard
ltg_Latn | Latgalian
ltz_Latn | Luxembourgish | lb
lua_Latn | Luba-Kasai
lug_Latn | Ganda | lg, luganda
luo_Latn | Luo
lus_Latn | Mizo
mag_Deva | Magahi
mai_Deva | Maithili
mal_Mlym | Malayalam | ml
mar_Deva | Marathi | mr
min_Latn | Minangkabau
mkd_Cyrl | Macedonian | mk, mac
plt_Latn | Plateau Malagasy | mg, mlg, malagasy
mlt_Latn | Maltese | mt
mni_Beng | Meitei | manipuri
khk_Cyrl | Halh Mongolian | mn, mon, mongolian
mos_Latn | Mossi
mri_Latn | Maori | mi, mao
zsm_Latn | Standard Malay | ms, msa, may, malay, malaysian
mya_Mymr | Burmese | my, bur
nld_Latn | Dutch | nl, dut, flemish
nno_Latn | Norwegian Nynorsk | nn, nynorsk, no, nor, norwegian
nob_Latn | Norwegian Bokmål | ! nb, no, nor, norwegian, bokmål
npi_Deva | Nepali | ne, nep
nso_Latn | Northern Sotho | sepedi
nus_Latn | Nuer
nya_Latn | Nyanja | ny, chichewa
oci_Latn | Occitan | oc
gaz_Latn | West Central Oromo | om, orm, oromo
ory_Orya | Odia | or, ori, oriya
pag_Latn | Pangasinan
pan_Guru | Eastern Panjabi | pa, punjabi, panjabi
pap_Latn | Papiamento
pol_Latn | Polish | pl
por_Latn | Portuguese | pt
prs_Arab | Dari | fa-AF, afghan persian
pbt_Arab | Southern Pashto | ps, pus, pashto
quy_Latn | Ayacucho Quechua | qu, que, quechua
ron_Latn | Romanian | ro, rum, mo, moldovan
run_Latn | Rundi | rn, kirundi
rus_Cyrl | Russian | ru
sag_Latn | Sango | sg
san_Deva | Sanskrit | sa
sat_Beng | Santali | sat-Olck
scn_Latn | Sicilian
shn_Mymr | Shan
sin_Sinh | Sinhala | si, sinhalese
slk_Latn | Slovak | sk, slo
slv_Latn | Slovenian | sl, slovene
smo_Latn | Samoan | sm
sna_Latn | Shona | sn
snd_Arab | Sindhi | sd
som_Latn | Somali | so
sot_Latn | Southern Sotho | st, sotho
spa_Latn | Spanish | es, castilian
als_Latn | Tosk Albanian | sq, sqi, alb, albanian
srd_Latn | Sardinian | sc
srp_Cyrl | Serbian | sr
ssw_Latn | Swati | ss
sun_Latn | Sundanese | su
swe_Latn | Swedish | sv
swh_Latn | Swahili | sw, swa
szl_Latn | Silesian
tam_Taml | Tamil | ta
tat_Cyrl | Tatar | tt
tel_Telu | Telugu | te
tgk_Cyrl | Tajik | tg
tgl_Latn | Tagalog | tl, fil, filipino
tha_Thai | Thai | th
tir_Ethi | Tigrinya | ti
taq_Latn | Tamasheq (Latin script)
taq_Tfng | Tamasheq (Tifinagh script)
tpi_Latn | Tok Pisin
tsn_Latn | Tswana | tn
tso_Latn | Tsonga | ts
tuk_Latn | Turkmen | tk
tum_Latn | Tumbuka
tur_Latn | Turkish | tr
twi_Latn | Twi | tw
tzm_Tfng | Central Atlas Tamazight | zgh, ber, berber, tamazight
uig_Arab | Uyghur | ug
ukr_Cyrl | Ukrainian | uk
umb_Latn | Umbundu
urd_Arab | Urdu | ur
uzn_Latn | Northern Uzbek | uz, uzb, uzbek
vec_Latn | Venetian
vie_Latn | Vietnamese | vi
war_Latn | Waray
wol_Latn | Wolof | wo
xho_Latn | Xhosa | xh
ydd_Hebr | Eastern Yiddish | yi, yid, yiddish
yor_Latn | Yoruba | yo
yue_Hant | Yue Chinese | cantonese
zho_Hans | Chinese (Simplified) | zh, cmn, chi, mandarin, zh-CN, zh-SG, zho-CN, simplified chinese
zho_Hant | Chinese (Traditional) | zh, cmn, chi, mandarin, zh-TW, zh-HK, zh-MO, zho-TW, zho-HK, traditional chinese
zul_Latn | Zulu | zu
"""

_ROWS = [[cell.strip() for cell in f"{row} |".split("|")[:3]] for row in _TABLE.strip().splitlines()]

NAMES: dict[str, str] = {code: name for code, name, _ in _ROWS}
FLORES: tuple[str, ...] = tuple(NAMES)
_SHOWN = 10  # languages named in an error message
SLIP = 0.85  # how like a language's name a word is at least that was meant for it


# The script of a FLORES code → the first words of its letters' names in Unicode.
_LETTERS = {
    script: names.split()
    for script, names in {
        **{"Arab": "ARABIC", "Armn": "ARMENIAN", "Beng": "BENGALI", "Cyrl": "CYRILLIC", "Deva": "DEVANAGARI"},
        **{"Ethi": "ETHIOPIC", "Geor": "GEORGIAN", "Grek": "GREEK", "Gujr": "GUJARATI", "Guru": "GURMUKHI"},
        **{"Hang": "HANGUL CJK", "Hans": "CJK BOPOMOFO", "Hant": "CJK BOPOMOFO", "Hebr": "HEBREW"},
        **{"Jpan": "HIRAGANA KATAKANA CJK", "Khmr": "KHMER", "Knda": "KANNADA", "Laoo": "LAO", "Latn": "LATIN"},
        **{"Mlym": "MALAYALAM", "Mymr": "MYANMAR", "Olck": "OL", "Orya": "ORIYA", "Sinh": "SINHALA", "Taml": "TAMIL"},
        **{"Telu": "TELUGU", "Tfng": "TIFINAGH", "Thai": "THAI", "Tibt": "TIBETAN"},
    }.items()
}


def foreign_letters(text: str, known: Sequence[str]) -> bool:
    """Whether most letters of a text are of no script that the languages known are written in.

    >>> foreign_letters("Привет, Bob!", ["eng_Latn"]), foreign_letters("Привет, Bob!", ["eng_Latn", "rus_Cyrl"])
    (True, False)
    """
    scripts = {code.partition("_")[2] for code in known}
    if not scripts <= _LETTERS.keys():
        return False
    own = {name for script in scripts for name in _LETTERS[script]}
    letters = [c for c in unicodedata.normalize("NFKC", text) if c.isalpha()]
    return 2 * sum(unicodedata.name(c, "").partition(" ")[0] not in own for c in letters) > len(letters)


def resolve(word: str, known: Sequence[str] | None = None) -> str:
    """`word` (a code, a locale or an English name) → the FLORES-200 code.

    `known` are the languages a model has: a code of theirs is taken as it is even if FLORES lacks it, a word with
    several readings (`zh`, `Kashmiri`) means the one they have, and anything they lack is an error.
    """
    for code in known or ():
        if _key(code) == _key(word):
            return code
    readings = readings_of(word)
    if not readings:
        raise UserError(f"unknown language {word!r}", _suggestion(word, known))
    if known is None:
        return readings[0]
    for code in readings:
        if code in known:
            return code
    raise UserError(f"this model does not have {_named(readings[0])}", f"it has: {_listed(known)}")


def _listed(known: Sequence[str]) -> str:
    shown = [_named(code) for code in known[:_SHOWN]]
    if len(known) > _SHOWN:
        shown.append(f"and {len(known) - _SHOWN} more")
    return ", ".join(shown) or "no language at all"


def _named(code: str) -> str:
    return f"{NAMES[code]} ({code})" if code in NAMES else code


def _key(word: str) -> str:
    """Case, accents, spaces and `_` do not count: 'zh_TW' → 'zh-tw', 'Norwegian Bokmål' → 'norwegian-bokmal'."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    return re.sub(r"[\W_]+", "-", plain.casefold()).strip("-")


@lru_cache(maxsize=1)
def _index() -> dict[str, list[str]]:
    """Every word understood, as its `_key` → the codes it may mean, the usual one first."""
    index: dict[str, list[str]] = {}
    for code, name, also in _ROWS:
        usual, bare = also.startswith("!"), [code.split("_")[0], name.split(" (")[0]]
        for key in dict.fromkeys(map(_key, [code, name, *bare, *also.lstrip("! ").split(",")])):
            if key:
                index.setdefault(key, []).insert(0 if usual else len(index.get(key, [])), code)
    return index


def readings_of(word: str) -> list[str]:
    """The codes that `word` may mean, likeliest first; none for a word that is not understood."""
    index, key = _index(), _key(re.split(r"[.@]", word)[0])  # a locale: de_AT.UTF-8@euro
    if key in index:
        return index[key]
    locale = re.fullmatch(
        r"([a-z]{2,3})(?:-([a-z]{4}))?(?:-(?:[a-z]{2}|\d{3}))?(?:-(?:[a-z\d]{5,8}|\d[a-z\d]{3}))*", key
    )
    if not locale:
        return []
    language, script = locale.groups()
    return [code for code in index.get(language, []) if script in (None, code[4:].casefold())]


def _suggestion(word: str, known: Sequence[str] | None) -> str:
    """The cure for an unknown word: the likeliest language, of those the model has, and what is understood."""
    index = _index()
    words = [key for key, codes in index.items() if known is None or any(code in known for code in codes)]
    key = _key(word)
    near = key.split("-")[0]  # sr-Latn, deu_Lant: the language is clear, the rest is not
    if near not in words:
        # Three letters or fewer are some language's code, and no slip for another's. A name is a slip only for one that
        # differs in a letter or so.
        names = [word for word in words if len(word.split("-")[0]) > 3 and word[0] == key[:1]]
        near = nearest(key, names) if len(near) > 3 else ""
        near = near if difflib.SequenceMatcher(None, key, near).ratio() >= SLIP else ""
    code = next((code for code in index.get(near, []) if known is None or code in known), "")
    if known is not None and len(known) <= _SHOWN:
        form = f"the model has: {_listed(known)}"
    else:
        form = "use a FLORES-200 code (eng_Latn), an ISO 639 code (en, eng) or an English name (english)"
    return f"did you mean '{code}' ({NAMES[code]})? Or {form}" if code else form
