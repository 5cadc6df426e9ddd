"""Invented people and places: names, made-up names, cities."""

from __future__ import annotations

import random
import re

from corpus import news_business, news_scitech, news_sports, news_world
from corpus.countries import COUNTRIES
from corpus.grammar import words

FIRST_NAMES = words("""
Maria; James; Anna; Peter; Sofia; Lucas; Emma; Daniel; Olga; Ivan; Fatima; Ahmed; Chen; Wei; Yuki
Hiroshi; Priya; Raj; Anita; Carlos; Elena; Miguel; Lucia; Pedro; Ines; Joao; Beatriz; Tiago; Hans
Greta; Klaus; Ingrid; Lars; Astrid; Erik; Freya; Nils; Sven; Pierre; Claire; Julien; Camille
Antoine; Chloe; Marco; Giulia; Luca; Francesca; Paolo; Chiara; Dmitri; Natasha; Sergei; Irina
Boris; Katya; Piotr; Agnieszka; Marek; Zofia; Jan; Eva; Pavel; Jana; Mateo; Valentina; Diego
Camila; Santiago; Isabella; John; Mary; Robert; Patricia; Michael; Linda; William; Elizabeth
David; Barbara; Richard; Susan; Joseph; Jessica; Thomas; Sarah; Charles; Karen; Nancy; Lisa
Margaret; Matthew; Sandra; Anthony; Ashley; Mark; Donna; Steven; Carol; Paul; Ruth; Andrew
Sharon; Joshua; Michelle; Kevin; Laura; Brian; Amy; George; Helen; Edward; Emily; Ronald; Grace
Timothy; Rachel; Jason; Hannah; Ryan; Olivia; Jacob; Julia; Nicholas; Alice; Eric; Megan; Samuel
Zoe; Benjamin; Ella; Frank; Lily; Gregory; Nora; Raymond; Ivy; Alexander; Ruby; Patrick; Leah
Jack; Maya; Dennis; Aisha; Omar; Layla; Hassan; Zainab; Yusuf; Amina; Ali; Noor; Karim; Salma
Tariq; Leila; Ibrahim; Mariam; Kwame; Ama; Kofi; Abena; Chidi; Ngozi; Emeka; Ifeoma; Thabo
Naledi; Sipho; Zanele; Tunde; Folake; Jin; Min; Soo; Hana; Kenji; Sakura; Takeshi; Aiko; Ravi
Deepa; Arjun; Kavya; Vikram; Meera; Sanjay; Lakshmi; Nguyen; Linh; Minh; Thuy; Somchai; Malee
Budi; Siti; Dewi; Agus; Jose; Rosa; Manuel; Carmen; Javier; Pilar; Andres; Paula; Fernando
Gabriela; Oscar; Daniela; Hugo; Martina; Bruno; Clara; Felix; Marta; Oliver; Amelia; Harry; Isla
Noah; Mia; Leo; Theo; Finn; Saoirse; Liam; Aoife; Sean; Niamh; Dylan; Carys; Rhys; Owen; Tomas
Petra; Milan; Vesna; Goran; Dragana; Stefan; Ioana; Andrei; Mihai; Elif; Mehmet; Ayse; Emre
Nikos; Eleni; Giorgos; Katerina; Levi; Miriam; Noam; Tamar; Aaron; Esther; Bilal; Hamza; Farah
Dana; Viktor; Oksana; Taras; Bogdan; Anders; Kirsten; Mikkel; Johanna; Aino; Ville; Eero; Kaisa
""")

LAST_NAMES = words("""
Silva; Santos; Costa; Pereira; Smith; Johnson; Brown; Taylor; Wilson; Evans; Walker; Wright
Roberts; Green; Hall; Wood; Clarke; Hughes; Edwards; Lewis; Turner; Parker; Cook; Bailey; Bell
Morris; Cooper; Reed; Kelly; Murphy; Byrne; Ryan; Doyle; Walsh; Muller; Schmidt; Fischer; Weber
Wagner; Becker; Hoffmann; Koch; Bauer; Richter; Klein; Wolf; Dubois; Moreau; Laurent; Lefebvre
Rossi; Russo; Ferrari; Bianchi; Romano; Ricci; Garcia; Lopez; Martinez; Hernandez; Gonzalez; Perez
Sanchez; Ramirez; Torres; Flores; Rivera; Gomez; Diaz; Cruz; Morales; Ortiz; Ivanov; Petrov; Volkov
Sokolov; Kowalski; Nowak; Novak; Horvat; Kovac; Jansen; de Vries; Bakker; van Dijk; Larsen; Hansen
Nielsen; Olsen; Berg; Lindqvist; Andersson; Korhonen; Virtanen; Khan; Hussain; Rahman; Ahmadi
Hosseini; Haddad; Mansour; Saleh; Okafor; Mensah; Adeyemi; Nkosi; Dlamini; Mwangi; Otieno; Singh
Patel; Sharma; Gupta; Reddy; Iyer; Wang; Li; Zhang; Liu; Chen; Yang; Huang; Zhao; Kim; Park; Lee
Choi; Tanaka; Suzuki; Sato; Yamamoto; Watanabe; Nguyen; Tran; Pham; Santoso; Wijaya; Reyes
Yilmaz; Demir; Kaya; Papadopoulos; Levy; Cohen; Stone; Hill; Marsh; Frost; Banks; Shaw; Grant
""")

OTHER_CITIES = words("""
New York; Los Angeles; Chicago; Houston; Boston; Seattle; San Francisco; Denver; Miami; Atlanta
Dallas; Philadelphia; Detroit; Portland; Phoenix; Austin; Toronto; Montreal; Vancouver; Calgary
Sydney; Melbourne; Brisbane; Perth; Adelaide; Auckland; Christchurch; Manchester; Liverpool; Leeds
Bristol; Glasgow; Edinburgh; Cardiff; Belfast; Cork; Galway; Oxford; Cambridge; York; Munich
Hamburg; Frankfurt; Cologne; Stuttgart; Leipzig; Dresden; Lyon; Marseille; Toulouse; Nice; Nantes
Bordeaux; Lille; Barcelona; Valencia; Seville; Bilbao; Porto; Coimbra; Braga; Faro; Milan; Naples
Turin; Venice; Florence; Bologna; Genoa; Zurich; Geneva; Basel; Salzburg; Graz; Antwerp; Ghent
Rotterdam; Utrecht; The Hague; Gothenburg; Bergen; Aarhus; Tampere; Krakow; Gdansk; Brno; Split
Istanbul; Izmir; Thessaloniki; Saint Petersburg; Kazan; Odessa; Lviv; Mumbai; Bangalore; Chennai
Kolkata; Hyderabad; Pune; Karachi; Lahore; Shanghai; Shenzhen; Hong Kong; Osaka; Kyoto; Nagoya
Sapporo; Busan; Ho Chi Minh City; Bali; Cebu; Dubai; Jeddah; Haifa; Tel Aviv; Alexandria
Casablanca; Marrakesh; Lagos; Kano; Kumasi; Mombasa; Cape Town; Durban; Johannesburg
Rio de Janeiro; Sao Paulo; Salvador; Recife; Cordoba; Rosario; Medellin; Cali; Guadalajara
Monterrey; Cusco; Valparaiso; San Diego; Las Vegas; Orlando; Nashville; Cleveland; Pittsburgh
""")

CAPITALS = sorted({capital for capital, _ in COUNTRIES.values()})
CITIES = sorted(set(CAPITALS) | set(OTHER_CITIES))

# Never used in training text of any task: the evaluation checks copying with these.
HELDOUT_FIRST_NAMES = words("""
Quentin; Ottoline; Bartholomew; Xiomara; Zebedee; Marisol; Thaddeus; Yevgenia; Ludovic; Oriana
Cassius; Wilhelmina; Ignatius; Perpetua; Rasmus; Solveig; Takumi; Anjali; Obinna; Tendai; Jarek
Milena; Florian; Rosalind; Desmond; Henrietta; Caspian; Ophelia; Lorcan; Sigrid
""")
HELDOUT_LAST_NAMES = words("""
Abernathy; Castellanos; Thistlewood; Okonkwo; Vandermeer; Fitzgerald; Montague; Szymanski
Ravensdale; Iturbe; Halvorsen; Quillfeather; Baptiste; Ferreira; Ostrowski; Nakamura; Delacroix
Wainwright; Bergstrom; Chaudhry
""")
HELDOUT_CITIES = words("""
Timisoara; Sacramento; Wollongong; Heidelberg; Granada; Chiang Mai; Novosibirsk; Winnipeg; Palermo
Aberdeen; Arequipa; Nagasaki; Innsbruck; Zaragoza; Malmo; Albuquerque; Dundee; Mendoza; Surat
Fort Worth
""")

_ONSETS = words("""
b; br; c; ch; d; dr; f; fl; g; gr; h; j; k; kr; l; m; n; p; pr; qu; r; s; sh; sk; st; t; th; tr; v
w; y; z; zh; bl; cl; gl; sl; sp; vr
""")
_VOWELS = words("a; e; i; o; u; a; e; i; o; u; ae; ai; ea; ia; io; oa; ou; ei; y; ee; oo")
_CODAS = [*words("n; r; l; s; m; k; t; d; x; th; nd; rn; ll; ss; ck; st; z; v; ng"), *[""] * 14]


_TOPICAL = (news_business, news_scitech, news_sports, news_world)
_WORDS = sorted(
    {
        word.lower()
        for topic in _TOPICAL
        for entries in topic.SLOTS.values()
        for entry in entries
        if "{" not in entry
        for word in re.findall(r"[A-Za-z]{3,}", entry)
    }
)


def spliced_word(rng: random.Random) -> str:
    """Joins parts of two words, so that any piece of the vocabulary may have to be copied."""
    first, last = rng.choice(_WORDS), rng.choice(_WORDS)
    if rng.random() < 0.25:
        return first.capitalize()
    return (first[: rng.randint(2, 5)] + last[-rng.randint(2, 6) :]).capitalize()


def made_up_word(rng: random.Random, syllables: int | None = None) -> str:
    """Makes up a capitalised, pronounceable word that means nothing."""
    if syllables is None and rng.random() < 0.6:
        return spliced_word(rng)
    count = syllables or rng.choice((1, 2, 2, 2, 3, 3))
    parts = [
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        for _ in range(count)
    ]
    word = "".join(parts)
    if rng.random() < 0.3:
        word += rng.choice(("a", "o", "i", "us", "ina", "ton", "ville", "son", "elle", "ez", "ev"))
    return word.capitalize()


def first_name(rng: random.Random) -> str:
    """A given name, sometimes made up."""
    return made_up_word(rng) if rng.random() < 0.5 else rng.choice(FIRST_NAMES)


def last_name(rng: random.Random) -> str:
    """A family name, sometimes made up."""
    roll = rng.random()
    if roll < 0.35:
        return made_up_word(rng)
    if roll < 0.42:
        prefix = rng.choice(("O'", "Mc", "Mac", "van ", "de ", "El-", "al-", "Di "))
        return prefix + (made_up_word(rng) if rng.random() < 0.5 else rng.choice(LAST_NAMES))
    return rng.choice(LAST_NAMES)


def person(rng: random.Random) -> str:
    """A full name."""
    return f"{first_name(rng)} {last_name(rng)}"


def city(rng: random.Random) -> str:
    """A city, real or made up."""
    roll = rng.random()
    if roll < 0.4:
        return made_up_word(rng)
    if roll < 0.52:
        kind = ("New", "Port", "San", "Fort", "Lake", "Saint", "East", "North", "Mount", "Santa")
        return f"{rng.choice(kind)} {made_up_word(rng)}"
    return rng.choice(CITIES)
