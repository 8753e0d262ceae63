"""Text -> tokens as captions are scored everywhere: Penn Treebank style, lower case, few marks.

Written after what Stanford's PTBTokenizer 3.4.1 and coco-caption's punctuation list are seen to do,
of which it needs neither the program nor Java. `tests/test_ptb.py` holds how far the two agree.
"""

from __future__ import annotations

from functools import lru_cache

import regex

# A period belongs to these words, as in "st. paul"; behind others it is punctuation.
_ABBREVIATIONS = (
    r"adj|adm|adv|al|ala|alex|apr|ariz|assn|assoc|asst|attys?|aug|ave|bldg|blvd|brig|bros|calif|"
    r"capt|cf|cie|cmdr|colo?|comdr|conn|corp|cos?|cpl|ct|dak|dec|dept|drs?|elec|ens|esq|est|etc|"
    r"ext|feb|fla|fri|ft|ga|gen|govs?|hon|inc|ind|insp|intl|jan|jos|jr|jul|jun|kans?|ky|ltd?|maj|"
    r"mar|md|messrs|mfg|mich|minn|mlle|mme|mon?|mont|mrs?|ms|msgr|mt|natl|neb|nev|nov|oct|okla|"
    r"penn|pfc|ph\.d|plc|pres|profs?|pty|pvt|rd|reps?|rev|rt|sens?|sept?|sgt|spc|sq|sr|ste?|supt|"
    r"sys|tel|tenn|thu|thurs|treas|tues?|univ|va|vs|vt|wed|wisc?|wm|wyo"
)
_BEFORE_NUMBERS = "art|fig|nos?|pp|prop"  # and to these where a number comes: "no. 5"

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPACE = regex.compile(rf"\s+(?!\d)|(?<!(?:{_BEFORE_NUMBERS})\.)\s+")  # "no. 5" is one piece
_NEGATED = regex.compile(r"(\w+)n't")
_SPLIT = {
    whole: parts.split()
    for whole, parts in {
        **{"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na"},
        **{"gimme": "gim me", "lemme": "lem me", "'tis": "'t is", "'twas": "'t was"},
    }.items()
}
# What only separates becomes a space, since punctuation is not kept anyway.
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys('"`“”«»\u2013\u2014\u2015…\u200c\u200d', " "),  # \u2013-5: dashes
        **dict.fromkeys("\u2018\u2019\u201b\u2039\u203a", "'"),
        **dict.fromkeys("\u2010\u2011", "-"),
        **{"½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 "},
        **{"£": " # ", "€": " $ ", "¢": " cents ", "\u00ad": None},  # the last: a soft hyphen
    }
)
_ENTITY = regex.compile("&(?:amp|lt|gt|apos|quot|nbsp|[nm]dash);")
_ENTITIES = {
    **{"&amp;": " & ", "&lt;": " < ", "&gt;": " > ", "&apos;": "'"},
    **dict.fromkeys(("&quot;", "&nbsp;", "&ndash;", "&mdash;"), " "),
}

# What a token can be: of those that fit, the longest is it. Where PTBTokenizer looks at capitals
# (AT&T, but at & t), both are one token here: tokens are lower case, and to tokenise them again
# must not change them.
_KINDS = [
    regex.compile(pattern)
    for pattern in (
        r"\w+",  # dog, 1950s, 3d, 4x4
        r"\p{L}\w*(?:[.!?]\p{L}\w*)+",  # wall.the, e.g
        r"\w+(?:[-/]\w+)+",  # t-shirt, 24/7, 1-1/2
        r"\w[\w.,]*(?:-(?:(?:[a-z]\.){2,}|\w+))+",  # 2.5-foot, u.s.-based
        r"[-+]?(?:\d*(?:[.,:]\d+)+|\d+)",  # .5, 1,000, 10:30
        r"(?:[a-z]\.)+",  # u.s., p.m.
        rf"(?:{_ABBREVIATIONS})\.",
        rf"(?:{_BEFORE_NUMBERS})\.(?=\s?\d)",
        r"(?:\w+)?n't(?!\w)",  # isn't: taken apart below
        r"'n'|'(?:s|m|d|re|ve|ll|t|tis|twas|em|til|cause|n)(?!\w)|(?<=\w)'s",
        r"'\d\ds?(?!\w)",  # '90s
        r"[dljy]'|c'mon|li'l|ol'",
        r"[dlno]'[a-z]{2,}|[a-z]+[aeiouy]'[aeiou][a-z]*",  # o'clock, ma'am
        r"[a-z]{1,2}&[a-z]{1,2}(?!\w)|us\$",  # b&w
        r"https?://\S*[\w/]|www\.\S*[\w/]",
        r"\w[^\s@<>(),;]*@\w(?:[^\s@<>(),;]*\w)?",  # a@b.org
        r"@[a-z_]\w*|#[a-z]+|&#?[a-z0-9]+;|<[/!]?[a-z][^<>\s]*>",  # @me, #tag, &eacute;, <br>
        r"[<>]?[:;=][-o*']?(?:[()@|\\\[\]{]|-[lr]rb-|[dp](?!\w))|[-^=~<>]_[-^=~<>]",  # :-)
        r"-[lr][rsc]b-|[()\[\]{}]",
        r"[!?]{2,}|\*+|#+|@+|<<|>>|[%&+/<=>\\^|~$]|(?V1)[[\p{S}\p{No}\p{P}]&&[\u00a1-\u2bff\uff01-\uffee]]",
    )
]


def tokenize(text: str) -> list[str]:
    """One caption -> its tokens. Joined with spaces and tokenised again they stay the same.

    Periods, commas, quotes, dashes, colons, single ! and ? are dropped, contractions split
    ("is n't"), brackets named ("-lrb-"). What PTBTokenizer can't read, emoji for one, is dropped.
    """
    if not isinstance(text, str):
        raise ValueError(
            f"got {text!r:.60}, wanted one caption as a string; join its words with spaces."
        )
    return [token for piece in _SPACE.split(text.lower()) for token in _tokens(piece)]


@lru_cache(maxsize=1 << 16)  # captions say the same few thousand words over and over
def _tokens(piece: str) -> tuple[str, ...]:
    """What stands between two spaces, in lower case ("no. 5" is one piece) -> its tokens."""
    if piece.isalpha() and piece.isascii() and piece not in _SPLIT:
        return (piece,)
    piece = _ENTITY.sub(lambda match: _ENTITIES[match[0]], piece)
    piece = piece.translate(_CHARACTERS).replace("''", " ")
    tokens: list[str] = []
    at = 0
    while at < len(piece):
        ends = [match.end() for kind in _KINDS if (match := kind.match(piece, at))]
        token = piece[at : max(ends, default=at)]
        at += len(token) or 1  # nothing fits: a mark that is dropped
        if negated := _NEGATED.fullmatch(token):
            tokens += [*_SPLIT.get(negated[1], [negated[1]]), "n't"]
        elif token in _SPLIT:
            tokens += _SPLIT[token]
        elif token in _BRACKETS:
            tokens.append(_BRACKETS[token])
        elif token:
            tokens.append(token.replace("(", "-lrb-").replace(")", "-rrb-"))  # of a smiley
    return tuple(tokens)
