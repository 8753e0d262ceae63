"""Caption metrics against the libraries, hand-worked values, and each other."""

import json
import math
from collections import Counter
from itertools import product

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from captioning.metrics import measures, score, tokenize
from captioning.metrics.bleu import bleu, char_bleu_m7, sentence_bleu_m7
from captioning.metrics.cider import cider, cider_d
from captioning.metrics.measure import Measure
from captioning.metrics.rouge import longest_common_subsequence, rouge_l
from captioning.metrics.texture import distinct, end_rate, length_ratio, repetition
from captioning.metrics.wer import wer, wer_macro

KEYS = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "CIDEr", "WER", "WER-macro"]
KEYS += ["BLEU-sentence-m7", "BLEU-char-m7"]
# pycocoevalcap's name -> ours: its CIDEr is the paper's CIDEr-D.
ORACLE = {f"Bleu_{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)}
ORACLE |= {"ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr-D"}
FILES = ["clipscore_example_bad", "clipscore_example_good", "coco_fakecap", "coco_human_vs_human"]
FILES += ["edge_cases", "nlg_eval_example"]

SAID = ["a dog runs on the grass", "two red cats", "a man", "a bus on a street in a town"]
WANTED = [
    ["a dog runs over the grass", "the brown dog is running"],
    ["two cats sit on a bench", "cats"],
    ["a man with a red hat", "a man"],
    ["a red bus drives on a street"],
]


def split(texts):
    return [text.split() for text in texts]


SAID_TOKENS, WANTED_TOKENS = split(SAID), [split(several) for several in WANTED]


# ---- against pycocoevalcap 1.2 -----------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_tokenised_text_scores_as_pycocoevalcap_says(name, shared):
    oracle = json.loads((shared / "data/metrics_oracle" / f"{name}.json").read_text("utf-8"))
    items = oracle["items"]
    said = [item["candidate_tok"] for item in items]
    wanted = [item["references_tok"] for item in items]
    ours, each = score(said, wanted), score(said, wanted, per_item=True)
    for its, name in ORACLE.items():
        # Its values are rounded at the sixth digit.
        assert ours[name] == pytest.approx(oracle["scores"][its], abs=1e-6, rel=0)
        its_items = [item["scores"][its] for item in items]
        assert each[name] == pytest.approx(its_items, abs=1e-6, rel=0)


@pytest.mark.parametrize("name", FILES)
def test_raw_text_scores_as_with_ptbtokenizer(name, shared):
    oracle = json.loads((shared / "data/metrics_oracle" / f"{name}.json").read_text("utf-8"))
    items = oracle["items"]
    ours = score([item["candidate"] for item in items], [item["references"] for item in items])
    for its, name in ORACLE.items():
        # The one text of 1,982 that differs moves CIDEr-D by 2e-5.
        assert ours[name] == pytest.approx(oracle["scores"][its], abs=1e-4, rel=0)


# ---- by hand -----------------------------------------------------------------------------------


def test_bleu_clips_counts_as_in_the_paper():
    the = ["the"] * 7
    references = split(["the cat is on the mat", "there is a cat on the mat"])
    one, two, *_ = bleu([the], [references])
    assert one.value == pytest.approx(2 / 7)  # Papineni et al. 2002, example 2
    assert two.value < 1e-6


def test_bleu_is_brief_against_the_closest_reference():
    # Of 4 and 2, both as close to 3, the shorter counts: no penalty. 4 alone gives exp(1 - 4/3).
    said = [["a", "b", "c"]]
    assert bleu(said, [[list("abcd"), list("ab")]])[0].value == pytest.approx(1)
    assert bleu(said, [[list("abcd")]])[0].value == pytest.approx(math.exp(1 - 4 / 3))


def test_corpus_bleu_pools_counts_and_is_no_mean():
    said, wanted = [["a"], ["b", "c", "d"]], [[["a"]], [["x", "y", "z"]]]
    one = bleu(said, wanted)[0]
    assert one.value == pytest.approx(1 / 4)
    assert one.items == pytest.approx([1, 0], abs=1e-6)


def test_rouge_l_by_hand():
    # LCS "a c" of 2 and 4 tokens: precision 1, recall 1/2, beta 1.2.
    wanted = (1 + 1.44) * 1 * 0.5 / (0.5 + 1.44 * 1)
    assert rouge_l([["a", "c"]], [[list("abcd")]]).value == pytest.approx(wanted)
    # As pycocoevalcap: no tokens are as good as no tokens wanted, and match nothing else.
    assert rouge_l([[], [], ["x"]], [[["x"], []], [["x"]], [[]]]).items == [1, 0, 0]


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_longest_common_subsequence_against_all_subsequences(a, b):
    def all_of(text):
        kept = product([False, True], repeat=len(text))
        return {"".join(c for c, k in zip(text, keep, strict=True) if k) for keep in kept}

    assert longest_common_subsequence(a, b) == max(map(len, all_of(a) & all_of(b)))


def dense_cider(said, wanted, *, clip, penalty):
    """CIDEr from the paper's formulas, with dense vectors over all n-grams there are."""
    total = np.zeros(len(said))
    for n in (1, 2, 3, 4):

        def grams(tokens, n=n):
            return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))

        terms = sorted({g for t in [*said, *(r for s in wanted for r in s)] for g in grams(t)})
        having = [sum(any(g in grams(r) for r in several) for several in wanted) for g in terms]
        idf = np.log(len(wanted) / np.maximum(having, 1))

        def vector(tokens, terms=terms, idf=idf, grams=grams):
            counts = grams(tokens)
            return np.array([counts[g] for g in terms], float) * idf

        for i, (candidate, several) in enumerate(zip(said, wanted, strict=True)):
            for reference in several:
                a, b = vector(candidate), vector(reference)
                above = (np.minimum(a, b) if clip else a) @ b
                below = np.linalg.norm(a) * np.linalg.norm(b)
                length = np.exp(-((len(candidate) - len(reference)) ** 2) / 72) if penalty else 1
                total[i] += 10 / 4 / len(several) * length * (above / below if below else 0)
    return total


def test_cider_and_cider_d_are_the_papers_formulas():
    plain = dense_cider(SAID_TOKENS, WANTED_TOKENS, clip=False, penalty=False)
    d = dense_cider(SAID_TOKENS, WANTED_TOKENS, clip=True, penalty=True)
    assert cider(SAID_TOKENS, WANTED_TOKENS).items == pytest.approx(list(plain), rel=1e-12)
    assert cider_d(SAID_TOKENS, WANTED_TOKENS).items == pytest.approx(list(d), rel=1e-12)
    ours = score(SAID, WANTED)
    assert ours["CIDEr"] == pytest.approx(plain.mean()) != pytest.approx(ours["CIDEr-D"])
    assert ours["CIDEr-D"] == pytest.approx(d.mean())


def test_cider_d_cannot_be_won_by_repeating():
    wanted = [[["a", "red", "bus"]], [["two", "cats"]], [["a", "man"]]]
    once, often = ["bus"], ["bus"] * 9
    others = [["two", "cats"], ["a", "man"]]
    (plain, *_), (same, *_) = (cider([said, *others], wanted).items for said in (once, often))
    assert plain == pytest.approx(same) and plain > 1
    (d, *_), (less, *_) = (cider_d([said, *others], wanted).items for said in (once, often))
    assert less < d / 2


def test_one_image_has_no_rare_words():
    assert score(SAID[:1], WANTED[:1])["CIDEr-D"] == 0.0
    assert score(SAID[:1], WANTED[:1])["CIDEr"] == 0.0


# ---- against jiwer and nltk --------------------------------------------------------------------


def test_wer_is_jiwers():
    said, wanted = SAID, [several[0] for several in WANTED]
    one = [[text] for text in wanted]
    ours = score(said, one)
    assert ours["WER"] == pytest.approx(100 * jiwer.wer(wanted, said))
    ratios = [100 * jiwer.wer(w, s) for w, s in zip(wanted, said, strict=True)]
    assert ours["WER-macro"] == pytest.approx(np.mean(ratios))
    assert score(said, one, per_item=True)["WER"] == pytest.approx(ratios)


def test_wer_takes_the_reference_with_the_lowest_rate():
    # 1 error in 2 words, 2 errors in 5: the second has more errors and the lower rate.
    said, wanted = [list("abcdx")[:3]], [[list("ab"), list("abcde")]]
    assert wer(said, wanted).value == pytest.approx(40)
    assert wer([*said, ["z"]], [*wanted, [["z"]]]).value == pytest.approx(100 * 2 / 6)
    assert wer_macro([*said, ["z"]], [*wanted, [["z"]]]).value == pytest.approx(20)
    assert wer([["x"]], [[["a"], ["x", "b", "c"]]]).value == pytest.approx(100 * 2 / 3)


def test_wer_of_nothing():
    assert wer([[]], [[["a", "b"]]]).value == 100
    assert wer([["a", "b"]], [[[]]]).value == 200
    assert wer([[]], [[[]]]).value == 0


def test_sentence_bleu_is_nltks_on_words_and_on_characters():
    method = SmoothingFunction().method7
    for i, (said, several) in enumerate(zip(SAID, WANTED, strict=True)):
        chars = sentence_bleu(several, said, smoothing_function=method)
        words = sentence_bleu(split(several), said.split(), smoothing_function=method)
        each = score(SAID, WANTED, per_item=True)
        assert each["BLEU-char-m7"][i] == pytest.approx(100 * chars)
        assert each["BLEU-sentence-m7"][i] == pytest.approx(100 * words)
        assert chars > words


# ---- score -------------------------------------------------------------------------------------


def test_score_has_these_names_and_plain_numbers():
    ours, each = score(SAID, WANTED), score(SAID, WANTED, per_item=True)
    assert list(ours) == list(each) == KEYS
    assert all(type(value) is float for value in ours.values())
    assert all(len(values) == len(SAID) for values in each.values())
    assert json.loads(json.dumps([ours, each])) == [ours, each]


def test_words_as_they_stand_for_wer_tokens_for_the_rest():
    ours = score(["A Dog runs.", "a b"], [["a dog runs"], ["a b"]])
    assert ours["BLEU-2"] == pytest.approx(1)
    assert ours["ROUGE-L"] == 1
    assert ours["CIDEr-D"] == pytest.approx(
        (7.5 + 5) / 2
    )  # 3 and 2 of the 4 n-grams there could be
    assert ours["WER"] == pytest.approx(100 * 3 / 5)
    spaced = ["  A\u00a0Dog\truns. \n", "a b"]
    assert score(spaced, [["a dog runs"], ["a b"]])["WER"] == ours["WER"]


def test_text_that_is_tokenised_already_scores_the_same():
    said = ["It's a man's half-full bowl, isn't it?", "A cat (grey) runs."]
    wanted = [["It is a bowl.", "It's the man's bowl."], ["The cat isn't grey: it runs!"]]
    again = [" ".join(tokenize(text)) for text in said]
    wanted_again = [[" ".join(tokenize(text)) for text in several] for several in wanted]
    ours, twice = score(said, wanted), score(again, wanted_again)
    assert {name: ours[name] for name in KEYS[:7]} == {name: twice[name] for name in KEYS[:7]}


def test_a_perfect_caption_has_the_best_values():
    texts = ["a dog runs on the grass", "two red cats sit on a bench", "a man with a hat waits"]
    best = score(texts, [[text] for text in texts])
    for name, value in best.items():
        wanted = {"WER": 0, "WER-macro": 0, "CIDEr": 10, "CIDEr-D": 10}.get(name)
        if "m7" in name:
            assert value >= 100  # method 7 goes beyond for short captions
        else:
            assert value == pytest.approx(1 if wanted is None else wanted, abs=1e-6), name


@given(
    st.lists(
        st.tuples(st.text(max_size=12), st.lists(st.text(max_size=12), min_size=1, max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_gets_a_finite_score(pairs):
    ours = score([said for said, _ in pairs], [wanted for _, wanted in pairs])
    assert all(math.isfinite(value) and value >= 0 for value in ours.values())
    assert all(ours[name] <= 1 + 1e-9 for name in KEYS[:5])
    assert max(ours["CIDEr"], ours["CIDEr-D"]) <= 10 + 1e-9


def test_an_empty_caption_scores_nothing_and_spoils_nothing():
    ours = score(["", *SAID], [["a b c"], *WANTED], per_item=True)
    assert ours["WER"][0] == 100
    assert all(ours[name][0] == 0 for name in KEYS if "WER" not in name)
    assert ours["BLEU-4"][1:] == score(SAID, WANTED, per_item=True)["BLEU-4"]


def test_images_may_come_in_any_order():
    ours = score(SAID, WANTED)
    assert score(SAID[::-1], WANTED[::-1]) == pytest.approx(ours, rel=1e-12)


# ---- refused -----------------------------------------------------------------------------------

WRONG = {
    "token lists": (SAID_TOKENS, WANTED_TOKENS, r"candidates\[0\] is list"),
    "token lists as references": (SAID, WANTED_TOKENS, r"references\[0\]\[0\] is list"),
    "one string": ("a dog", [["a dog"]], "candidates is str 'a dog'"),
    "references flat": (SAID, SAID, r"references\[0\] is str .* one reference or more"),
    "no reference": (["a"], [[]], r"references\[0\] is list \[\]"),
    "None": (["a", None], [["a"], ["b"]], r"candidates\[1\] is NoneType"),
    "fewer": (SAID, WANTED[:2], "got 4 candidates and 2 lists of references"),
    "nothing": ([], [], "got no captions"),
    "a dict": ({"a": 1}, [["a"]], "candidates is dict"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_score_refuses(wrong):
    said, wanted, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        score(said, wanted)
    with pytest.raises(ValueError, match=message):
        measures(said, wanted)
    with pytest.raises(ValueError, match=message):
        char_bleu_m7(said, wanted)


@pytest.mark.parametrize(
    "metric",
    [bleu, cider, cider_d, rouge_l, wer, wer_macro, sentence_bleu_m7, length_ratio],
    ids=lambda metric: metric.__name__,
)
def test_strings_are_no_token_lists(metric):
    with pytest.raises(ValueError, match=r"candidates\[0\] is str .* character .* tokenize"):
        metric(SAID, WANTED_TOKENS)
    with pytest.raises(ValueError, match=r"references\[0\]\[0\] is str .* character .* tokenize"):
        metric(SAID_TOKENS, WANTED)
    with pytest.raises(ValueError, match=r"candidates\[0\] is list"):
        metric([[["a"]]], [[["a"]]])


def test_texture_takes_tokens_and_ends_take_strings():
    for metric in (distinct, repetition):
        with pytest.raises(ValueError, match=r"candidates\[0\] is str .* character .* tokenize"):
            metric(SAID, 1)
    with pytest.raises(ValueError, match=r"candidates\[0\] is list .* wanted a string"):
        end_rate(SAID_TOKENS)


# ---- texture -----------------------------------------------------------------------------------


def test_texture_by_hand():
    said = split(["a b a b", "a c"])
    assert distinct(said, 1) == 3 / 6
    assert distinct(said, 2) == 3 / 4  # ab ba ab; ac
    assert distinct([[]], 1) == 0
    assert repetition(said, 1).items == [2 / 4, 0]
    assert repetition(said, 2).value == 1 / 4
    assert repetition(said, 5).value == 0
    assert length_ratio(said, [split(["a", "a b c", "a b c d e"]), split(["a"])]).value == 6 / 4
    ended = ["A dog.", 'He says "no!"', "A dog", "It is a", "Two.)  ", ""]
    assert end_rate(ended).items == [1, 1, 0, 0, 1, 0]


def test_parts_of_a_measure_add_up():
    twice = [0, 1, 1, 3]
    said = [SAID[i] for i in twice]
    wanted = [WANTED[i] for i in twice]
    again = measures(said, wanted)
    for name, measure in measures(SAID, WANTED).items():
        if "CIDEr" not in name:  # its IDF is that of the images there are
            assert Measure(measure.parts[twice], measure.formula).value == pytest.approx(
                again[name].value, rel=1e-12
            )
