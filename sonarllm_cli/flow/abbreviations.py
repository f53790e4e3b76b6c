"""Abbreviations that Punkt's models and their package's lists lack, by language, without the last stop."""

# A sentence may end with them: where the word after them tells.
ABBREVIATIONS = {
    "deu_Latn": "abb abk abt allg anm aufl bes beisp bspw betr bez bzw ca co d.h d.i dez dipl dt ebd eigtl einschl "
    "engl erg evtl exkl fax feb ff fig frz gebr geb gegr gem gest ggf ggfs griech hrsg i.d.r inkl insb insbes jan jg "
    "jh jhd jhdt kap kath lat lt mind mio mrd nachf nov nr o.g okt röm s.o s.u sept sog spez std str tel tsd u.a u.u "
    "ugs univ urspr verh verst vgl vorm z.b z.t zzgl zit zul",
    "fra_Latn": "adj anc apr av bd boul cf chap coll dép env éd ex fasc fig hab hist ibid janv févr juil oct nov "
    "déc loc max min not p.ex réf sq suiv supp tél trad univ vol",
    "spa_Latn": "admón aprox apdo art as av avda bs cap cía coord dcha depto dpto ed edit ee ej fdo fig gob hnos "
    "ibíd izq máx mín nro núm obs p.ej pág págs pdte s.a s.l tel tfno trad univ vol",
    "ita_Latn": "all art artt ca cap cfr cit ed fasc fig fraz ibid lett loc max min nr pag pagg par prov racc sec "
    "segg s.p.a s.r.l tav tel trad univ v.le vol p.zza c.so",
    "por_Latn": "aprox art av cap cf cia coord depto ed edit ex fig hab ltda máx mín obs pág págs p.ex pç séc "
    "tel trad univ vol",
    "nld_Latn": "a.u.b afb afd art bijv blz bv ca d.w.z dec div e.d e.v evt excl feb fig gebr gld hfst incl "
    "jan jl m.a.w m.b.t max mil min mld mln ned nl nov nr o.a okt o.l.v par resp sept t.a.v t/m tel vb "
    "vert vgl v.chr zgn",
    "pol_Latn": "ang cd cz daw dosł dot fr gm godz gr im jw jęz kl łac m.in maks mies min mld mln nb niem "
    "nr np ok oprac os osł pkt pl płd płn pn pol pop por poz pow pt r red rkp rozdz rys str tab tj tłum "
    "tow tyg tys tzn tzw ub ul ur w wg wł woj wsch wyd zach zob zm",
    "tur_Latn": "ank apt bkz bsk böl bul cad çev doğ ed fak fig haz hz ing ist krş kg mah max md min mm m.ö m.s nr no "
    "öğr ör örn ölm sf s ş şb t.c tel telg ts univ üniv vb vd vs yy yay yak yüzb",
    "rus_Cyrl": "г гг в вв др пр т.д т.п т.е т.к т.н напр см ср стр рис табл гл изд ред илл акад проф доц им ул пл "
    "пер просп обл р-н тыс млн млрд руб коп н.э до.н.э ок",
    "swe_Latn": "bl.a ca dvs e.d exkl f.d f.k f.ö fr.o.m forts inkl jfr kl m.fl m.m nr o.d o.s.v pga resp s.k "
    "st t.ex t.o.m tel tfn tr vol",
    "ces_Latn": "apod atd cca čes čís hod jr kap kč mj mld mil min např nař obr odst popř pozn př resp roč str sv tab "
    "tel tj tis tzn tzv ul vyd zvl",
    "dan_Latn": "bl.a ca dvs evt f.eks f.kr fx hhv ifm inkl jf kl m.fl m.m mht mio mia nr o.l pga s sml tlf vedr",
    "fin_Latn": "eaa ent esim ym jne kpl ks ml mm mrd milj n nk nro oy par pj puh s s.o so tms ts v vrt yms yo",
}

# Titles, which a name follows: before a capital they end no sentence. "" is for every language without a model.
TITLES = {
    "": "dr prof mr mrs ms st др проф им ім ул вул डॉ प्रो ডা ড",
    "eng_Latn": "mr mrs ms messrs mx dr drs prof mt rev hon gov lt sgt maj col capt cmdr cpl pvt adm gen sen rep pres "
    "supt fr e.g i.e cf vs viz",
    "deu_Latn": "hr hrn fr frl dr prof st fa dipl.-ing ing mag co z.b d.h",
    "fra_Latn": "m mm mme mmes mlle mlles dr pr prof mgr st ste me",
    "spa_Latn": "ilmo ilma excmo excma sr sra sres sras srta dr dra dres prof profa d dña dª lic ing arq gral cnel "
    "tte sto sta mons fr hno",
    "ita_Latn": "sig sigg sig.ra sig.na sig.re dott dott.ssa dr dr.ssa prof prof.ssa ing avv arch geom rag on sen "
    "mons don gen col cap ten magg spett egr gent s ss rev",
    "por_Latn": "sr sra srs sras srta dr dra drs dras prof profa profª drª srª eng exmo exma ilmo ilma d mons pe gen "
    "cel cap ten sgt sto sta",
    "nld_Latn": "dhr mevr mej mw dr drs ir ing mr prof ds st jhr",
    "pol_Latn": "dr prof mgr inż hab płk ppłk gen por kpt ks bp abp św śp ul al pl os lek doc dyr red hr o",
    "tur_Latn": "dr doç prof yrd öğr gör av sn müh mim alb tuğg korg org yzb ütğm hz st bn",
    "rus_Cyrl": "акад проф доц им ул пл пер просп гр г-н г-жа св тов",
    "swe_Latn": "dr prof st hr fr",
    "ces_Latn": "dr prof doc mudr judr phdr ing mgr bc sv p",
    "dan_Latn": "dr prof hr fr sct skt",
    "fin_Latn": "tri prof toht hra rva",
    "hrv_Latn": "dr prof sc mr ing dipl gđa gđica gosp sv fra vlč",
    "hun_Latn": "dr prof ifj id özv ill szt",
    "ron_Latn": "dl dna dra d-na dr prof ing sf str bd jud av gen",
    "est_Latn": "dr prof hr pr prl",
    "vie_Latn": "tp ts ths pgs gs bs ks tx tt q p",
    "ind_Latn": "dr drs dra prof ir hj h bpk jl jln gg kab kec tn ny sdr no rp st kh",
    "swh_Latn": "bw bi dk prof mh dr",
}

# They end a list, and with it most often a sentence, but not before a lower-case word.
OPEN_LISTS = frozenset(
    "al apod atd dll ecc enz etc itd itp jne m.m osv stb usf usw κ.λπ κλπ т.д т.п".split()  # noqa: SIM905
)

# How abbreviations end that are made with any name: Schillerstr.
ENDINGS = {"deu_Latn": ("str",), "nld_Latn": ("str",)}

# Words that begin a sentence when they have a capital, whatever stands before them: nobody is called so.
STARTERS = {
    "eng_Latn": "i he she it they we this these there then but however",
    "deu_Latn": "er es wir ich du dies diese dieser dieses dann danach aber",
    "fra_Latn": "il elle ils elles nous on je tu cela c'est c’est puis mais",
    "spa_Latn": "él ella ellos ellas esto este esta pero entonces luego después",
    "ita_Latn": "lui lei egli loro questo questa poi ma dopo",
    "por_Latn": "ele ela eles elas isto este esta mas depois então",
    "nld_Latn": "hij zij ze wij we het dit dat maar daarna toen",
    "pol_Latn": "on ona ono oni to ale potem",
    "rus_Cyrl": "он она оно они мы это но потом затем",
    "swe_Latn": "han hon den det de vi men sedan",
    "dan_Latn": "han hun det de vi men så",
    "ces_Latn": "ona oni to ale potom pak",
    "fin_Latn": "hän he se ne mutta sitten",
}

# Languages that write ordinals with a full stop: am 15. Mai, II. Dünya Savaşı.
ORDINALS = {
    *("bos_Latn", "ces_Latn", "dan_Latn", "deu_Latn", "est_Latn", "fin_Latn", "hrv_Latn", "hun_Latn", "isl_Latn"),
    *("lvs_Latn", "nno_Latn", "nob_Latn", "pol_Latn", "slk_Latn", "slv_Latn", "tur_Latn"),
}
