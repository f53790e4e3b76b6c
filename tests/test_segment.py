"""Text → sentences: the laws that hold for any text, and exact answers in many languages."""

import re
import subprocess
import sys
import tracemalloc
import unicodedata

import punkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonarllm_cli.errors import UserError
from sonarllm_cli.flow import boundaries, cut
from sonarllm_cli.flow.segment import Sentence, segment, segment_stream
from sonarllm_cli.languages import FLORES, NAMES

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
# What trips a splitter, far denser than chance has it: white space of all kinds, marks, brackets, bullets, graphemes.
PIECES = [*" \n\r\t\v\f\x1c\x1f\x85\xa0\u2028\u2029\u3000", *".!?…。！؟।;,:、，—–-()[]\"'“”«»「」と1aA한あ字"]
PIECES += ["\r\n", "\n\n", "\n- ", "\n1. ", "\na) ", "\n---\n", "Dr. ", "z. B. ", "e.g. ", "No. 5"]
PIECES += ["e\u0301", "\u200d", "🇩🇪", "👨\u200d👩\u200d👧", "क्ष", "각"]
NASTY = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)
TEXTS = st.one_of(ANY, NASTY, st.lists(st.one_of(st.text(max_size=10), NASTY), max_size=8).map(" ".join))
LANGS = st.sampled_from(["eng_Latn", "deu_Latn", "ell_Grek", "zho_Hans", "jpn_Jpan", "hin_Deva", "ukr_Cyrl"])


@pytest.fixture(autouse=True, scope="module")
def no_models_of_the_users_own():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NLTK_DATA", raising=False)
        yield


def flats(text: str, lang: str = "eng_Latn", **limits) -> list[str]:
    return [sentence.flat for sentence in segment(text, lang=lang, **limits)]


# ---- laws ----


@settings(max_examples=400, deadline=None)
@given(TEXTS, LANGS, st.none() | st.integers(1, 30))
def test_nothing_but_white_space_is_lost(text, lang, max_chars):
    at, paragraph, between = 0, 0, []
    for sentence in segment(text, lang=lang, max_chars=max_chars):
        assert sentence.text == text[sentence.start : sentence.end] == sentence.text.strip() != ""
        assert sentence.start >= at and sentence.flat == " ".join(sentence.text.split())
        assert sentence.paragraph - paragraph in (0, 1)
        between.append(text[at : sentence.start])
        at, paragraph = sentence.end, sentence.paragraph
    assert "".join([*between, text[at:]]).strip() == ""


@settings(max_examples=200, deadline=None)
@given(TEXTS, LANGS)
def test_no_sentence_holds_a_paragraph_break(text, lang):
    for sentence in segment(text, lang=lang):
        assert all(line.strip() for line in sentence.text.splitlines())
        assert not re.search("[\f\x1c-\x1e\u2029]", sentence.text)


@settings(max_examples=300, deadline=None)
@given(TEXTS, LANGS, st.none() | st.integers(1, 30), st.data())
def test_a_stream_gives_what_the_whole_text_gives(text, lang, max_chars, data):
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    chunks = [text[a:b] for a, b in zip([0, *places], [*places, len(text)])]
    whole = segment(text, lang=lang, max_chars=max_chars)
    assert list(segment_stream(chunks, lang=lang, max_chars=max_chars)) == whole
    assert list(segment_stream(text.splitlines(keepends=True), lang=lang, max_chars=max_chars)) == whole


@settings(max_examples=300, deadline=None)
@given(TEXTS, LANGS, st.integers(1, 30), st.integers(1, 12))
def test_every_piece_fits_or_is_a_single_grapheme(text, lang, max_chars, max_bytes):
    def fits(piece):
        return len(piece.encode()) <= max_bytes  # as a tokenizer counts: not in characters

    for limits in ({"max_chars": max_chars}, {"fits": fits}, {"max_chars": max_chars, "fits": fits}):
        for s in segment(text, lang=lang, **limits):
            small = len(s.flat) <= limits.get("max_chars", 99) and limits.get("fits", str)(s.flat)
            assert small or all(cut._inside_grapheme(s.text, 0, at) for at in range(1, len(s.text)))
            begins = unicodedata.category(s.text[0])[0] == "M"
            assert not begins or s.start == 0 or text[s.start - 1].isspace()


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(0, 6))
def test_a_limit_that_denies_everything_still_ends(text, salt):
    for fits in (lambda piece: False, lambda piece: (len(piece) + salt) % 3 == 0):
        pieces = segment(text, fits=fits)
        assert "".join("".join(piece.text.split()) for piece in pieces) == "".join(text.split())


# ---- exact answers ----


@pytest.mark.parametrize(
    "lang, sentences",
    [
        ("en", ["Dr. Smith arrived at 5 p.m.", "He left.", "See Fig. 1, e.g. No. 5, by J. R. R. Smith.", "So it is."]),
        ("en", ["She said “Stop.”", "(It was late.)", "Wow!!!", "Really?!", "The answer is no.", "Everyone left."]),
        ("en", ["“Stop!” he said.", "“Why?” she asked.", "Pi is 3.14."]),
        ("de", ["Das ist z. B. ein Satz.", "Und noch einer, z.B. dieser.", "Am 3. Oktober kam Dr. Müller.", "Gut."]),
        ("it", ["Il sig. Rossi è arrivato alle 5.", "Poi è andato via.", "Il prof. Bianchi dorme."]),
        ("fr", ["M. Dupont est arrivé à 17 h.", "Il est parti.", "Voir p. 12 : « C'est fini. »", "Ah !"]),
        ("es", ["El Sr. García llegó a las 5 p.m.", "¿Cómo está Ud. hoy?", "¡Bien!", "La Dra. Ruiz no sabe."]),
        ("el", ["Τι κάνεις;", "Είμαι καλά.", "Εσύ;"]),
        ("uk", ["Проф. Іваненко прийшов о 5 год.", "Він жив на вул. Шевченка.", "Так! – сказав він.", "Ні."]),
        ("ro", ["Dl. Popescu și dr. Ion au venit.", "A plecat la ora 5.", "Bine!"]),
        ("hu", ["A 3. szám máj. 5. napján kelt el.", "Ez volt a máj.", "Jó!"]),
        ("hi", ["यह एक वाक्य है।", "डॉ. शर्मा आए।", "क्या हाल है?", "ठीक है."]),
        ("ar", ["وصل د. أحمد.", "ثم غادر؟", "نعم، ذهب!", "انتهى."]),
        ("ur", ["یہ ایک جملہ ہے۔", "کیا آپ ٹھیک ہیں؟", "جی ہاں۔"]),
        ("am", ["ሰላም ነው።", "እንዴት ነህ፧"]),
        ("ko", ["안녕하세요.", "3.5배 큽니다!", "정말?"]),
        ("bo", ["བཀྲ་ཤིས།", "བདེ་ལེགས། །"]),
        ("th", ["สวัสดีครับ วันนี้อากาศดี"]),
    ],
)
def test_sentences_of_a_language_with_spaces(lang, sentences):
    assert flats(" ".join(sentences), lang) == sentences


@pytest.mark.parametrize(
    "lang, sentences",
    [
        ("zh", ["他说：“你好吗？”", "我很好……真的。", "价格是3.14元！", "好吗?", "「是。」", '"对。"', "她说，走。"]),
        ("ja", ["「えっ！」と言った。", "彼は帰った。", "「はい。」", "倍率は１．５倍です。"]),
        ("zh", ["“走。”，他说。", "走。"]),
        ("en", ["Dr. Who 来了。", "再见！", "And so did Mr. Who."]),  # other scripts' full stops are known everywhere
        ("my", ["မင်္ဂလာပါ။", "နေကောင်းလား။"]),
    ],
)
def test_sentences_of_a_script_without_spaces(lang, sentences):
    assert flats("".join(sentences), lang) == sentences


# Where a bar stands a sentence ends, and nowhere else: closing quotes and brackets, lower-case words, abbreviations.
CASES = [
    ("en", "“Are you sure?”, he said.|She nodded."),
    ("en", '"Are you sure?", he said.|She nodded.'),
    ("en", '"It is late."|She left.'),
    ("en", "'It is late.'|She left."),
    ("en", "“It is late.” she said.|He left."),
    ("en", "(It was late.)|She left."),
    ("en", "He left (see Fig. 3).|She stayed."),
    ("en", "The result holds.|(See Fig. 3.)|It is shown there."),
    ("en", "[It was late.]|**Bold claim.**|_So it is._|<b>Yes.</b>|No."),
    ("en", "It was found.[3]|It was lost.[citation needed]|So it is."),
    ("en", "Smith et al. found it.|Jones et al. (2003) did not."),
    ("en", "He studied at M.I.T. in Boston.|J.R.R. Tolkien wrote.|T.S. Eliot too."),
    ("en", "Wait . . . what is it?|Well... maybe.|Go."),
    ("en", "It costs approx. five pounds.|Ask the Dept. of Health."),
    ("en", "Apples, pears, etc. are fruit.|We sell pens, ink, etc.|For more, ask."),
    ("en", "It is 25 m. deep.|It is 25 m.|Maximum depth is 30 m."),
    ("en", "i went home.|then i slept."),
    ("en", "(Really?) and so on.|Rev. Thomas came.|Lt. Brown left."),
    ("en", "He lives in the U.S. and works.|She left the U.S.|He stayed."),
    ("en", "He left at 5.|3 men came.|No. 5 is alive."),
    ("de", "„Ich komme.“|Er ging."),
    ("de", "»Ich komme.«|Er ging.|‚Ja.‘|Sie blieb."),
    ("de", "„Kommst du?“, fragte er.|Sie nickte."),
    ("de", "„Halt!“ rief er.|Sie blieb."),
    ("de", "Am 15. Mai kam er.|Im 19. Jahrhundert war das anders.|Ludwig XIV. Bourbon starb."),
    ("de", "Das ist ggf. ein Fehler, bzw. keiner.|Hr. Müller und Fr. Schmidt kommen."),
    ("de", "Um 500 v. Chr. begann es.|Es war um 17 h.|Danach schlief er."),
    ("de", "Die Fa. Siemens, d. h. der Konzern, zahlt ca. 500 Euro inkl. Steuer.|Gut."),
    ("de", "Wir kaufen Äpfel, Birnen usw. und gehen.|Sie war 30 Jahre alt."),
    ("fr", "« Je viens. »|Il partit.|«Oui.»|Elle resta."),
    ("fr", "« Tu viens ? » demanda-t-il.|Elle partit."),
    ("fr", "« Tu viens ? », dit-il.|Elle partit."),
    ("fr", "Mme. Dupont et M. Petit arrivent.|Ils dorment."),
    ("fr", "Au VIIIe siècle av. J.-C. apparaissent les cités.|Il est 17 h.|Elle part."),
    ("fr", "Voir env. 30 pages, éd. Gallimard.|C'est fini."),
    ("fr", "Le P.I.B. augmente.|Le prix baisse."),
    ("es", "«Ya voy.»|Se fue."),
    ("es", "«¿Vienes?», preguntó.|Ella calló."),
    ("es", "—¡Fuera! —gritó Juan.|Ella calló."),
    ("es", "El presidente de EE. UU. llegó.|Vive en la Avda. Goya."),
    ("es", "Fue en el 300 a. C. cuando llegaron.|La Srta. López y D. Juan vienen."),
    ("es", "Trabajó con Oliveira et al. en Madrid.|¿Quién?|¡Nadie!"),
    ("it", "«Vengo.»|Se ne andò."),
    ("it", "«Vieni?» chiese.|Lei tacque."),
    ("it", "La dott.ssa Bianchi e l'ing. Verdi arrivano.|Cfr. cap. 3."),
    ("it", "Nell'833 d.C. questo divenne lo stato.|È la Sig.ra Rossi."),
    ("pt", "O Sr. Silva e a Dra. Costa chegaram.|Foi na Av. Paulista."),
    ("pt", "«Venho já.»|Foi-se embora."),
    ("pt", "“Vens?”, perguntou.|Ela calou-se.|Ver pág. 12."),
    ("pt", "Custa aprox. cinco euros.|É barato."),
    ("nl", "Dat is bijv. een fout, m.a.w. slecht.|Zie blz. 12."),
    ("nl", "‘Kom je?’ vroeg hij.|Zij knikte."),
    ("nl", "Hij kocht appels, peren enz. en ging.|Goed."),
    ("pl", "„Idę.”|Wyszedł."),
    ("pl", "W 1990 r. przyszedł dr Nowak.|Było to np. w Krakowie, tzn. tam."),
    ("pl", "Mieszka przy ul. Długiej.|Dnia 15. Maja przyszedł."),
    ("pl", "Ks. Kowalski i św. Jan są tu.|Dobrze."),
    ("tr", "“Geliyorum.”|Gitti."),
    ("tr", "Prof. Yılmaz ve Doç. Kaya geldi.|II. Dünya Savaşı bitti."),
    ("tr", "19. Yüzyılda oldu.|Bkz. Şekil 3.|Bitti."),
    ("tr", "T.C. Anayasası böyle der.|Güzel."),
    ("ru", "«Я иду.»|Он ушёл."),
    ("ru", "«Ты идёшь?» — спросил он.|Она молчала."),
    ("ru", "Он родился в 1990 г.|Она живёт на ул. Ленина."),
    ("ru", "В г. Москве, т. е. здесь, см. рис. 3.|Всё."),
    ("cs", "„Jdu.“|Odešel."),
    ("cs", "Dne 5. května přišel Dr. Novák.|Bylo to např. v Praze."),
    ("sv", "”Jag kommer.”|Han gick."),
    ("sv", "Det är t.ex. ett fel, bl.a. här.|Bra."),
    ("nl", "Dhr. Jansen en mevr. Bakker komen.|Zij blijven."),
    ("ru", "А. С. Пушкин писал стихи.|Хорошо."),
    ("en", "“Mr. Harris is here.”|He had an A.B.C. card.|So it is."),
    ("en", "“One.”|“Two.”|‘Three.’|Four."),
    ("en", "He moved to Washington, D.C.|She stayed.|He lives in Washington, D.C. now."),
    ("en", "It was vitamin C.|It helped.|I like Henry V.|It is a play by J. K. Rowling."),
    ("en", "Read the FAQ (e.g. Section 3.2.1).|It helps.|Cf. Section 2."),
    ("en", "1. First do this.|2. Then do that.|Q. What is it?|A. A dog."),
    ("en", "I love it!! ❤️"),
    ("en", "P.S. I love you."),
    ("en", "Dr. Jones, M.D., Ph.D., arrived.|The case Smith v. Jones was decided."),
    ("en", "“Where are you going?” asked John.|“Home,” I said.|“Go.”|(He went.)|“Stay.”"),
    ("en", "See https://example.com/a.b?c=d.|Use x.y().|Then call z.|What is Node.js?|.NET is another."),
    ("en", "We saw Sammy Davis, Jr. perform.|It rose by .5 per cent.|The No. 1 hit.|No. 2 too."),
    ("de", "Er wohnt in der Schillerstr. 5.|Sie wohnt in der Goethestr. in Köln."),
    ("de", "Wilhelm II. dankte ab.|Ich habe 5.|Du hast wenig.|Das können z. B. Sie tun."),
    ("de", "Die GmbH & Co. KG zahlt.|Am 31.12. ist Ruhe.|Am 24.12. Heiligabend."),
    ("de", "Das war Anfang Jan. 2020.|Im Sept. war es vorbei.|Tel. 030 12345, Fax. 030 5678."),
    ("de", "Vom 1. bis 3. Mai ist zu.|Der 1. FC Köln verlor.|Sie kam 1990.|Er kam 1991."),
    ("de", "„Was?“, rief sie.|„Das geht nicht!“|Er schwieg."),
    ("fr", "Il a dit : « Viens ! »|Puis il est parti.|– Tu viens ?|– Oui."),
    ("fr", "J'ai vu MM. Dupont et Durand.|Il pèse 80 kg.|Il est grand."),
    ("fr", "L'O.N.U. a voté.|Il est né en 50 av. J.-C. à Rome."),
    ("es", "La Ilma. Sra. Ruiz vive en Bs. As. desde 1990.|El art. 5.º dice así."),
    ("es", "—¿Vienes? —preguntó ella.|—Sí.|Dijo: «No».|Y se fue."),
    ("it", "Il prof. G. Rossi e il dr. B. Verdi.|Costa 3.000 euro ca. al mese, ecc.|Basta."),
    ("it", "Ha detto: «Vieni!».|Poi è uscito.|È nato nel sec. XV a.C. in Grecia."),
    ("pt", "A Profª. Ana e o Prof. Rui chegaram.|Os E.U.A. venceram."),
    ("pt", "— Vens? — perguntou ele.|— Sim.|Comprou pão, leite, etc.|Depois saiu."),
    ("nl", "Hij kocht brood, melk, enz.|Daarna ging hij.|Mr. dr. J. de Boer en prof. A. van Dam."),
    ("pl", "Kupiłem m.in. chleb, mleko itp.|To wszystko.|Sp. z o.o. działa."),
    ("tr", '"Geliyorum." dedi.|1. Dünya Savaşı 1914\'te başladı.|Ekmek, süt vb. şeyler aldı.'),
    ("ru", "И т. д. и т. п.|Конец.|В 1812 г. Наполеон напал.|Он жил в XIX в.|Потом умер."),
    ("ru", "Л. Н. Толстой, Ф. М. Достоевский и др. писатели.|— Ты идёшь? — спросил он.|— Да."),
    ("uk", "У 1991 р. Україна стала вільною.|Він купив хліб, молоко і т. д.|Потім пішов."),
    ("cs", "Pan Ing. Novák, CSc., přišel.|Koupil chléb, mléko atd.|Potom odešel."),
    ("hr", "Dr. sc. Ivan Horvat, prof. na fakultetu.|Rođen je 5. svibnja 1990. u Zagrebu."),
    ("hu", "Dr. Kovács Béla, ill. Nagy Éva.|Vett kenyeret, tejet stb.|Aztán elment."),
    ("ro", "Sf. Gheorghe este un oraș.|Dna. Ionescu vine.|Art. 5 alin. 3."),
    ("vi", "TP. Hồ Chí Minh rất đẹp.|GS. Nguyễn Văn A đến."),
    ("id", "Dr. Budi tinggal di Jl. Sudirman No. 5.|Bpk. Budi membeli roti, susu, dll.|Lalu pulang."),
    ("sw", "Bw. Juma na Bi. Asha walikuja.|Waliondoka."),
    ("ko", '그는 3.1절에 갔다.|"네."|"아니요."'),
    ("zh", "小说《你好！》很好看。"),
]


@pytest.mark.parametrize("lang, case", CASES)
def test_a_sentence_ends_where_the_bar_stands(lang, case):
    assert flats(case.replace("|", " "), lang) == case.split("|")


def test_the_cases_are_many_and_of_many_languages():
    assert len(CASES) >= 60 and len({lang for lang, _ in CASES}) >= 10


def test_sentences_that_touch_are_told_by_their_brackets():
    assert flats("It is.(So it is.) “One.”“Two.”") == ["It is.", "(So it is.)", "“One.”", "“Two.”"]


def test_a_users_own_abbreviations_are_added():
    text = "The Zqx. Smith came.\nHe left."
    assert flats(text) == ["The Zqx.", "Smith came.", "He left."]
    assert flats(text, abbreviations=["zqx.", ""]) == ["The Zqx. Smith came.", "He left."]
    assert flats("Пан зкл. Іван прийшов.", "uk", abbreviations=["зкл"]) == ["Пан зкл. Іван прийшов."]


# ---- ends of lines ----

WRAPPED = """\
A text that was wrapped at some width goes on from line to line, so that
Peter is not taken for the beginning of anything though he has a capital
letter, and neither is Berlin."""


@pytest.mark.parametrize(
    "text, sentences",
    [
        (WRAPPED, [" ".join(WRAPPED.split())]),
        ("By hand\nbroken, it goes\non.", ["By hand broken, it goes on."]),
        (f"A heading\n{WRAPPED}", ["A heading", " ".join(WRAPPED.split())]),
        (
            f"# Heading of a page that is as long as a line\n{WRAPPED}",
            ["# Heading of a page that is as long as a line", " ".join(WRAPPED.split())],
        ),
        ("apples\npears\nplums", ["apples", "pears", "plums"]),
        ("- one item\n  that goes on\n- another", ["- one item that goes on", "- another"]),
        ("John Smith\n12 High Street\nLondon", ["John Smith", "12 High Street", "London"]),
        (
            "From: A <a@b.c>\nTo: B\nSubject: A long subject\n  that is folded\nDate: today",
            ["From: A <a@b.c>", "To: B", "Subject: A long subject that is folded", "Date: today"],
        ),
        ("| Name | Mass |\n|---|---|\n| otter | 45 kg |", ["| Name | Mass |", "|---|---|", "| otter | 45 kg |"]),
        ("Name\tMass\notter\t45 kg", ["Name Mass", "otter 45 kg"]),
        ("Name      Mass\notter    45 kg", ["Name Mass", "otter 45 kg"]),
        ("def f(x):\n    y = x + 1\n    return y", ["def f(x):", "y = x + 1", "return y"]),
        (
            "```\nany text\n\nat all\nis code\n```\nHard\nwrapped.",
            ["```", "any text", "at all", "is code", "```", "Hard wrapped."],
        ),
        ("> It was said that\n> it is so.\nI agree.", ["> It was said that > it is so.", "I agree."]),
        ("Title\n=====\nText.", ["Title =====", "Text."]),
    ],
)
def test_what_a_lines_end_means_is_told_by_the_text(text, sentences):
    assert flats(text) == sentences


def test_a_lines_end_is_always_or_never_an_end_if_one_says_so():
    assert flats("Hard\nwrapped.", newline="keep") == ["Hard", "wrapped."]
    assert flats("apples\npears\nplums", newline="join") == ["apples pears plums"]
    with pytest.raises(UserError, match="auto, join, keep"):
        segment("", newline="never")


def test_every_trained_model_is_reached():
    names = {boundaries._PUNKT.get(code, NAMES[code].casefold()) for code in FLORES}
    assert set(punkt.available_languages()) - names == {"english_web"} and len(punkt.available_languages()) == 20


def test_a_word_of_no_language_is_cut_with_a_few_questions_a_piece():
    asked = []

    def fits(piece):
        asked.append(len(piece))
        return len(piece) <= 50 + 20 * ("b" in piece)

    pieces = segment("a" * 30_000 + "b" * 30_000, fits=fits)
    assert "".join(piece.text for piece in pieces) == "a" * 30_000 + "b" * 30_000
    assert len(pieces) < 1200 and len(asked) < 4 * len(pieces)


def test_offsets_and_paragraphs():
    text = "  One. Two\nlines.\r\n \t\r\nThree.\u2029Four\fFive\n\n\n\nSix"
    assert segment(text) == [
        Sentence("One.", 2, 6, 0),
        Sentence("Two\nlines.", 7, 17, 0),
        Sentence("Three.", 23, 29, 1),
        Sentence("Four", 30, 34, 2),
        Sentence("Five", 35, 39, 3),
        Sentence("Six", 43, 46, 4),
    ]
    assert segment(text)[1].flat == "Two lines."
    assert flats("One.\xa0Two.\u3000Three z.\tB. three.", "de") == ["One.", "Two.", "Three z. B. three."]
    assert segment("") == segment(" \n\u2029\n") == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028"])
def test_a_line_end_of_any_kind_is_a_space_and_two_are_a_paragraph(end):
    text = f"Hard{end}wrapped.{end}Next{end} \t{end}Apart"
    assert [(s.flat, s.paragraph) for s in segment(text)] == [("Hard wrapped.", 0), ("Next", 0), ("Apart", 1)]


def test_a_line_end_cut_in_two_is_one_line_end():
    stream = segment_stream(["One\r", "", "\nTwo", "\r", "\rThree\r"], newline="join")
    assert [(s.flat, s.start, s.paragraph) for s in stream] == [("One Two", 0, 0), ("Three", 10, 1)]


def test_list_items_and_underlines_end_a_sentence():
    text = "Title\n=====\nWe need\n- milk\n  and eggs\n* bread. Dark.\n1. Go there\n2) Buy\na) all\n• now\nJ. Smith"
    items = ["Title =====", "We need", "- milk and eggs", "* bread.", "Dark.", "1. Go there", "2) Buy", "a) all"]
    assert flats(text, newline="join") == [*items, "• now J. Smith"]
    assert flats("It costs\n-5 or\n1.5 or so (a)\n(b)\n---\nEnd", newline="join") == [
        "It costs -5 or 1.5 or so (a) (b) ---",
        "End",
    ]


# ---- sentences that are too long ----

CLAUSES = ["The first clause, which is short;", "the second (in brackets) is not:"]
LONG = " ".join([*CLAUSES, "internationalization matters 1,000 times."])
WORDS = ["The first", "clause,", "which is", "short;", "the second", "(in", "brackets)", "is not:"]
WORDS += ["internationa", "lization", "matters", "1,000 times."]


@pytest.mark.parametrize(
    "text, limit, pieces",
    [
        (LONG, 200, [LONG]),
        (LONG, 40, [*CLAUSES, "internationalization matters 1,000", "times."]),  # though more words would fit
        (LONG, 12, WORDS),  # the comma of a number is no clause mark
        ("one two  three\nfour", 9, ["one two", "three", "four"]),
        ("one two  three\nfour", 10, ["one two", "three four"]),  # counted as it is embedded: with single spaces
        ("他来了，我走了，没人知道", 9, ["他来了，我走了，", "没人知道"]),
        ("نعم، ذهب إلى البيت", 10, ["نعم،", "ذهب إلى", "البيت"]),
        ("e\u0301e\u0301e\u0301", 3, ["e\u0301", "e\u0301", "e\u0301"]),
        ("👨\u200d👩\u200d👧👨\u200d👩\u200d👧", 2, ["👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"]),  # too big, but whole
        ("🇩🇪🇫🇷🇮🇹", 5, ["🇩🇪🇫🇷", "🇮🇹"]),
        ("க் க் க்", 5, ["க் க்", "க்"]),  # a word that ends in a virama ends all the same
        ("ab\u200d cdef", 6, ["ab\u200d", "cdef"]),
        ("yes — no", 5, ["yes —", "no"]),
        ("go (now) or", 8, ["go (now)", "or"]),
    ],
)
def test_a_long_sentence_is_cut_at_the_best_place(text, limit, pieces):
    assert flats(text, max_chars=limit) == pieces


def test_a_cut_knows_that_half_a_word_may_count_for_more_than_the_whole():
    words = "alpha beta gamma delta epsilon zeta eta theta iota"

    def fits(piece):  # as a tokenizer: a known word is one token, a part of it two
        return sum(1 if word in words.split() else 2 for word in piece.split()) <= 4

    assert flats(words, fits=fits) == ["alpha beta gamma delta", "epsilon zeta eta theta", "iota"]


@pytest.mark.parametrize("text", ["a" * 300_000, "ab cd, " * 40_000, "字" * 300_000, ("x, " + "y" * 298 + " ") * 900])
@pytest.mark.parametrize("limit", [300, 30_000])
def test_a_cut_asks_little(text, limit):
    asked = []

    def fits(piece):
        asked.append(len(piece))
        return len(piece) <= limit

    pieces = segment(text, fits=fits)
    assert 0.99 * len(text) / limit <= len(pieces) <= 2.1 * len(text) / limit
    assert len(asked) < 25 + 10 * len(pieces)  # where trying every length would ask 300 times a piece
    assert max(asked[1:]) <= 2.2 * limit  # the first asks about the whole


@pytest.mark.parametrize("text", ["some words that never end " * 6_000, "a" * 150_000, "x.y. " * 20_000])
def test_a_text_without_ends_of_lines_takes_little_memory_and_few_questions(text):
    asked = 0

    def fits(piece):
        nonlocal asked
        asked += len(piece)
        return len(piece) <= 500

    tracemalloc.start()
    try:
        assert sum(1 for _ in segment_stream([text], fits=fits)) >= len(text) / 501
        assert tracemalloc.get_traced_memory()[1] < 5 * len(text) + 200_000
    finally:
        tracemalloc.stop()
    assert asked < 20 * len(text)


def test_a_sentence_that_fits_is_asked_once():
    asked = []
    assert len(segment("One. Two, three. Four.", fits=lambda piece: not asked.append(piece))) == len(asked) == 3


def test_a_stream_reads_no_further_than_the_paragraph():
    read = []

    def lines():
        for number in range(1000):
            read.append(number)
            yield f"Line {number}.\n" if number % 3 else "\n"

    stream = segment_stream(lines())
    assert read == [] and next(stream).text == "Line 1." and read == [0, 1, 2, 3]
    assert len([next(stream) for _ in range(3)]) == 3 and read[-1] == 6


# ---- languages and models ----


def test_models_are_loaded_when_needed_and_once(monkeypatch):
    code = """
        import sys, sonarllm_cli.flow.segment as module
        assert not {'punkt', 'nltk', 'torch', 'numpy'} & set(sys.modules)
        module.segment('Eins. Zwei.', lang='de')
        assert 'punkt.data.german' in sys.modules and 'punkt.data.english' not in sys.modules
    """
    subprocess.run([sys.executable, "-c", "\n".join(line.strip() for line in code.splitlines())], check=True)
    loads = []
    monkeypatch.setattr(punkt, "load_model", lambda name, load=punkt.load_model: loads.append(name) or load(name))
    boundaries.boundaries.cache_clear()
    for lang in ("et", "Estonian", "est_Latn", "et_EE"):
        segment("Üks. Kaks.", lang=lang)
    assert loads == ["estonian"]


def test_a_wrong_language_or_limit_is_said_at_once():
    with pytest.raises(UserError, match="did you mean 'deu_Latn'"):
        segment("Hallo.", lang="germn")
    with pytest.raises(UserError, match="max_chars of 1 or more"):
        segment_stream([], max_chars=0)


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    """A user's own model, in which `zqx.` is an abbreviation and `Dr.` is none."""
    place = tmp_path / "tokenizers" / "punkt_tab" / "english"
    place.mkdir(parents=True)
    for name, text in {"abbrev_types.txt": "zqx", "sent_starters.txt": "he", "collocations.tab": "st\tlouis"}.items():
        (place / name).write_text(text + "\n", encoding="utf-8")
    (place / "ortho_context.tab").write_text("he\t46\n", encoding="utf-8")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    return place


def test_nltk_data_of_the_users_own_is_honoured(nltk_data, monkeypatch):
    text = "The zqx. Smith saw Dr. Brown."
    assert flats(text) == ["The zqx. Smith saw Dr.", "Brown."]
    assert flats("Herr Dr. Braun.", "de") == ["Herr Dr. Braun."]  # not there: the one that comes with the program
    monkeypatch.delenv("NLTK_DATA")
    assert flats(text) == ["The zqx.", "Smith saw Dr. Brown."]


def test_a_broken_model_of_the_users_own_is_an_error_with_a_cure(nltk_data):
    (nltk_data / "ortho_context.tab").unlink()
    with pytest.raises(UserError, match="unset NLTK_DATA"):
        segment("One. Two.")


def test_auto_reads_each_text_in_its_own_language(sonarllm, tmp_path):
    (tmp_path / "a.txt").write_text("Wir kommen am 3. Mai mit dem Zug, z. B. aus Wien. Es wird schön.", "utf-8")
    (tmp_path / "b.txt").write_text("We met Dr. Smith at the station. It rained all day.", "utf-8")
    told = sonarllm("segment", "--lang", "auto", tmp_path / "a.txt", tmp_path / "b.txt").out.splitlines()
    assert told == [
        "Wir kommen am 3. Mai mit dem Zug, z. B. aus Wien.",
        "Es wird schön.",
        "We met Dr. Smith at the station.",
        "It rained all day.",
    ]
    assert next(iter(segment("Il gatto dorme. La porta è chiusa.", lang="auto"))).text == "Il gatto dorme."


def test_segment_loads_no_torch(tmp_path):
    (tmp_path / "a.txt").write_text("One. Two.")
    code = "import sys; from sonarllm_cli.cli import sonarllm; sonarllm.main(sys.argv[1:], standalone_mode=False); "
    done = subprocess.run(
        [sys.executable, "-c", code + "assert 'torch' not in sys.modules", "segment", "--lang", "auto", "a.txt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "One.\nTwo.\n"), done.stderr
