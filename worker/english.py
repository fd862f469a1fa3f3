"""Whether a text is English can mostly be seen from its commonest words, without asking a model of languages.

It is seen only where there is no doubt: `is_english` says yes where py3langid, as worker/sentiment.py asks it, says so,
too. That was tried on 400,000 texts in 500 languages. A doubt costs little: the text is given to the judge's child. The
words are those that are common in English texts and rare in all others.
"""

from string import punctuation

_LONGEST_WORD = 30  # letters; what is longer is a key, a path or a formula
_LONGEST_RULE = 4  # signs; a longer row of them is a frame or underlines a heading, as in code and tables
_KNOWN_SHARE = 1 / 10
_STRANGE_ROW = 5  # words one after another that are not known: names and terms; a quotation is longer
_WORDS_PER_MORE = 15  # and one word more for each so many words: a long text has more of them

_FUNCTION_TEXT = """
about against although and another aren't because been before being both but can can't could couldn't did didn't
does doesn't don't during each ever every hasn't haven't he's here herself him himself his how however i'd i'll
i'm i've isn't it it's itself let's many much not only other our out perhaps please she she's should shouldn't
since some such that that's the their them themselves there there's therefore these they they're they've this
those though through until use used using very wasn't we'll we're we've were weren't what what's when where
which who whom whose with within without won't would wouldn't you you'll you're you've your yourself
"""
"""Words that hold sentences together, and are not words of other languages."""

_KNOWN_TEXT = """
abilities ability able accept acceptable accident accidentally according accounts accuracy accurate across
actionable actions activities activity actually adding addition additional adhere adjust admitted advanced
advantage adventure advertised advise affect again aggressive agree agreed agreements aim alarm allow allowed
allows alone along already altogether always amazon among amount amounts amusement analysis angry announced
annual answer answers anyone anything apartment appeal appealing appear appears application applied applies
appointed approach approval approved approximately architectural around arrival arrived ask asked asks assigned
associated atmosphere attempt attended attitudes attract attractive attributes automatically available average
avoid avoiding award awarded away awesome awful back bags balance balloons bargain based battery beautification
beautiful became become becomes beds beginning begins behavior behind below beneficial benefit benefits better
between bills blocks blurry boards bottles bought boxes brands breaks brightness brings broke brought bugs
business businesses busy buttons buy buying buys called calls calories came campaign cancelling candidates
candies candles cannot capable capacity capital cards career careful carefully carried carries cats caught
caused cents certain chairs challenge challenges challenging chambers chance channels chapter characteristics
charged charging charm cheerleaders cheese chicken chickens children cinematic citizens city clarity clay clean
clear clearly clinical closed coffee collaborate collect collected combat come comes comfort comfortable
comfortably comforter commitment common commonly companies company compared comparison compatibility compelling
competitive complaint completed completely compliance comprehensive concepts confidence confident confidently
conflicts connected consideration considered constraints consumption contain containing contains continues
contribution converted convince coordinates coping corn correct correctly correlation corresponding cost costs
countries country couple courses covered covering crafting crap create created creates creating creatively
creativity crime criteria critic critical cups currently customers cutting damage dangerous day days decent
decided decides dedicated defense defined definitely degrees deliver delivered delivery demand density depending
described descriptions designed designing designs desired despite detailed detection determined developed
developer developing difference different difficult difficulty dignity directly disabilities disagree
disappointed disappointing disappointment discomfort discounted discussions dishes distorted distracting divide
dogs doing drawing drinks dropped drops drunk ear earlier earn earned earns ears easier easily eats educational
educators effective effectively efficiency efficient efficiently efforts eight embedded emergency emotional
emphasis employees employment emptied empty encourage encourages encouraging ends enemies engage engaging
enhance enhancement enjoy enough ensure ensuring entertaining entire entitled entries environmental equally
equipment equivalent especially essentially established ethical evaluate eventually everyone exactly example
examples except exception exciting exist expand expect expensive experienced experiences expertise explanation
explanations exploration explore extensive extent extremely fabric facial facilities faculty failed fairly
falling false families family fantastic farm faster father faulty favorite feel feeling feels fees felt female
few fewer fight filled finally find findings finds first fits five fixed fixes flexible floor focused followed
following food forced forget forms found framework frequency fresh friend friendly friends fully functional
functionality functions funding funds further gallons gave general generally generated gentle gets getting gifts
girl give given gives giving glasses goal goals going good goods got government government's gracefully gravel
great greater groups growth guess guests guidance hair half happier happy harmony harsh headphones headset
headsets healthy hear hearing heart height helpful helping helps high higher highest highlight highlights highly
historical holds holes holiday home hope hoping horrible horror hour hours house huge hundreds identity ignored
illness immediately implement implementation implemented importance impressed improve improved improvement
improvements improving inches included includes including incorporate incorrect increase increased increasing
indicators industry infrastructure ingredients injury innovative insights inspire inspired installed instead
insurance intact integrate integrated integrity intelligence intelligent intended intense intensity interest
interested interesting interests interviews intuitive investments invite inviting involved involvement involves
irrelevant isolation issue issues jeans jewels joke journey joyful keeps kept kilometers know knowing known
known's language large larger lasts laundry leading learn least leather leave leaving left lemonade levels
libraries life lighting lightweight likely likes listed listing lists little lived living loads located logic
look looking looks loose lose loser loses losing loud love loves low lower lowercase lunch maintain maintaining
make makes manage managing marbles matches matching mathematical matter matters meaningful means mechanism
mechanisms medium meetings membership messy methods metrics might milk minute minutes missed missing mistake
mistakes mixed money month months moody most mother motivated motivation moved moves moving multiply naturally
nearly necessary need needed needs negative negotiations networks neutral never now number numerous objective
objectives objects obviously offence offering offers official offline often okay once opportunities opportunity
optimization optimize optimized optional oranges ordered orders organization organizations organized originally
others otherwise ounces outline outlining outstanding overall owned pair pairing pairs part participate
participated particularly parties partnership parts passed patients pencils people perfectly performance
performed permitted personalized phone physicians pieces place placed planning played players playful playing
plays pleased point points polynomial poor portion positive potatoes potential pound pounds powerful practical
preferences prepared presentation presentations presented preserve pressure pretend pretty prevent previously
price priced prior probability probably problems procedures processes processing produced produces profiles
profits project projects prominent promised promises promote promoting proposed provide provided providing
purchase purchased purpose qualify quality quarts quickly raised raises rates rather reach reached reaching
reading ready realistic really reason reasoning reasons receive received recently reception recipes recognition
recommend recommendations recommended reducing referred reflections refund regarding regions registration
regulations relationship relaxation released relevant reliable relocation remain remaining remains removed
replaced replacement report reporting reports representatives representing request requested requests required
requirements research resolved respect respectively responses responsibilities responsible responsive result
resulted resulting results returned returns reward rewards right ringtones risks robust rocks rules sad safe
safety said salary same sample sandwiches satisfaction satisfied saved saving say says scientific scored seconds
secure security seem seems seen selected sell selling sells sentence sentences serene serious seriously served
several shall shape shares sharing sheep sheets shoes show showing shown shows side sides significance
significant similar simply sizes skills slices slight slightly small soils sold solid solve solving somehow
something sometimes soon sophisticated sorry sorted spam speaker specialist specialized specializing specific
specifications specified specify spend spends spent spirit sponsors starting state stay step steps sticks
stopped stops stored stories straight strategies strength strengths structured stuck students sturdy subjects
submit subtle subtract success successful successfully sucks suffering suggest suggested suitable superb
supporting supreme sure surgery surprise suspicious sweet sweets swim tailor taken takes taking talking task
tasked teacher teachers technical technology teeth tell tension terms terrible territories tested testing
texture textures thank thanks themes then's thing things think thought thoughtful three throughout thus ticket
time times tiny together told tolerance tones too took tools topics toward towards toys traffic travelling
treasure treat treatments trees tricks tried trip trouble trucks true truth try turned turns twice two typically
unable uncomfortable understand understanding unexpected unfortunately unhappy unknown unless unreliable updated
uploaded upon useful useless user's users uses usually validate valuable value values various vibrant violence
visitors visually vitals vulnerabilities waiting walked want wanted wants waste water way ways weak weaknesses
weapon weapons wear wearing weather week weeks weighs went wheels whereas whether whole why wife winner winning
wishes woman women wonderful work worked working works world worst worth worthless worthwhile writing written
wrong wrote year years yellow yes
"""
"""Other words that are common in English only."""

_SHARED_TEXT = """
a adventure after all also an any are as at be best by data do down error errors favor film for from fun get had
has have he her i if important in include into is its just let like long lost made man may me more music must my
new no number of off on one or over per plan possible probable problem problems review see server so super team
test than then to total under up was we well while will
"""
"""Words of English that say nothing for it, since other languages have them, too, and nothing against it."""

_FUNCTION_WORDS = frozenset(_FUNCTION_TEXT.split())
_KNOWN_WORDS = _FUNCTION_WORDS | frozenset(_KNOWN_TEXT.split())
_SHARED_WORDS = frozenset(_SHARED_TEXT.split())
_ENDINGS = (  # of words that are as likely English as not
    *("ing", "ings", "ed", "ly", "ness", "ful", "less", "ght", "tions"),
    *("ity", "ies", "ous", "'s", "ck", "sh", "th", "wn", "ers"),
)


def is_english(text: str) -> bool:
    """True where a text is English beyond doubt; False says nothing. Time grows with the length of the text."""
    words = functions = known = 0
    row = longest_row = 0  # how many strange words follow on one another; known ones count against them
    for each in text.lower().split():
        word = each.strip(punctuation)
        if word in _KNOWN_WORDS:
            functions += word in _FUNCTION_WORDS
            known += 1
            row = row - 3 if row > 3 else 0
        elif word in _SHARED_WORDS:
            row = row - 1 if row else 0
        elif len(each) > (_LONGEST_WORD if word else _LONGEST_RULE):
            return False
        elif not word[:1].isalpha():
            continue  # a number or a sign
        elif not word.endswith(_ENDINGS):
            row += 1
            if row > longest_row:  # noqa: PLR1730  # max() takes as long as all else in this loop
                longest_row = row
        words += 1
    if known == words:
        return known > 0
    strange_row = min(_STRANGE_ROW + words // _WORDS_PER_MORE, known)
    return functions > 0 and known >= words * _KNOWN_SHARE and longest_row <= strange_row and _is_plain(text, words)


def _is_plain(text: str, words: int) -> bool:
    """Whether there are no more letters beyond ASCII than names and loan words bring along."""
    return text.isascii() or 20 * sum(each.isalpha() for each in text if each > "\x7f") <= words
