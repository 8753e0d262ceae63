"""`python -m gpt2_scratch generate`: text as it comes, and mistakes in one line."""

import pytest

from gpt2_scratch.__main__ import main


def test_it_continues_the_prompt_and_repeats_with_a_seed(capsys):
    words = ["generate", "In this image", "--seed", "1"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("In this image ") and text.endswith(".\n")
    assert main(words) == 0
    assert capsys.readouterr().out == text
    assert main([*words[:-1], "2"]) == 0
    assert capsys.readouterr().out != text


def test_max_new_tokens_bounds_the_text(capsys):
    assert main(["generate", "In", "--temperature", "0", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.split()[0] == "In"
    assert main(["generate", "In", "--temperature", "0", "--max-new-tokens", "0"]) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "/nowhere"], "is not a folder"),
        (["--device", "cuda:99"], "--device cuda:99 can't be used"),
        (["a " * 200], "wanted fewer than the model's context of 128"),
        (["--top-k", "0"], "top_k=0 came"),
        (["--temperature", "1e-44"], "0 itself takes the likeliest token"),
        (["--seed", f"{2**64}"], "wanted a whole number below 2 ** 63"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, reason, capsys):
    assert main(["generate", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and reason in err
