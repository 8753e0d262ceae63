"""Beam search: transformers' tokens, and what must change nothing."""

import pytest
import torch
from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel

from gpt2_scratch import GPT2, generate
from gpt2_scratch.beam import beam_search
from gpt2_scratch.loader import load_gpt2

V, END, NEW = 23, 5, 10


def pair(seed: int, folder) -> tuple[GPT2LMHeadModel, GPT2]:
    """transformers' model and ours with the same weights."""
    torch.manual_seed(seed)
    theirs = GPT2LMHeadModel(
        TheirConfig(
            vocab_size=V, n_positions=32, n_embd=24, n_head=3, n_layer=2, initializer_range=0.3,
            bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(folder)
    return theirs, load_gpt2(folder)


def padded_prompts(seed: int, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < max(lengths) - torch.tensor(lengths)[:, None]
    return ids, mask


def transformers_beams(theirs, ids, mask, end, **how) -> tuple[torch.Tensor, torch.Tensor]:
    out = theirs.generate(
        ids, attention_mask=(~mask).long(), max_new_tokens=NEW, do_sample=False,
        early_stopping=False, eos_token_id=end, pad_token_id=0 if end is None else end,
        return_dict_in_generate=True, output_scores=True, **how,
    )  # fmt: skip
    return out.sequences[:, ids.shape[1] :], out.sequences_scores


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_equals_transformers(beams, length_penalty, tmp_path):
    ended = 0
    for seed in range(3):
        theirs, ours = pair(seed, tmp_path)
        ids, mask = padded_prompts(seed, (6, 2, 4, 5))
        how = {"num_beams": beams, "length_penalty": length_penalty}
        unstopped = transformers_beams(theirs, ids, mask, None, **how)[0]
        for end in (None, *unstopped[:3, 2].unique().tolist()):  # tokens that the beams do say
            expected, expected_scores = transformers_beams(theirs, ids, mask, end, **how)
            new, logprobs = beam_search(
                ours, ids, NEW, beams=beams, end=end, length_penalty=length_penalty,
                padding_mask=mask,
            )  # fmt: skip
            assert torch.equal(new, expected)
            hits = (new == (-1 if end is None else end)).long()
            lengths = (hits.cumsum(1) - hits == 0).sum(1)
            ended += int((lengths < NEW).sum())
            # rounding of float32 sums of some 20 nats; another beam differs by more than 1e-3
            torch.testing.assert_close(
                logprobs.sum(1) / lengths**length_penalty, expected_scores, atol=1e-4, rtol=0
            )
    least = 3 if length_penalty <= 1 else 0  # above 1 the longest wins nearly always
    assert ended >= least, "the end token hardly came, so this test saw little of it"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> GPT2:
    return pair(1, tmp_path_factory.mktemp("model"))[1].double()


def test_a_batch_equals_its_rows_run_alone(model):
    lengths = (6, 2, 4, 5)
    ids, mask = padded_prompts(9, lengths)
    for prompt in (ids, model.embed(ids)):
        new, logprobs = beam_search(model, prompt, NEW, beams=3, end=END, padding_mask=mask)
        for i, length in enumerate(lengths):
            alone, alone_logprobs = beam_search(
                model, prompt[i : i + 1, 6 - length :], NEW, beams=3, end=END
            )
            n = alone.shape[1]
            assert torch.equal(new[i, :n], alone[0])
            assert (new[i, n:] == END).all()
            torch.testing.assert_close(logprobs[i, :n], alone_logprobs[0], atol=1e-5, rtol=0)
            assert (logprobs[i, n:] == 0).all()


def test_the_side_of_the_padding_changes_nothing(model):
    ids, mask = padded_prompts(4, (6, 3))
    left, _ = beam_search(model, ids, NEW, beams=3, end=END, padding_mask=mask)
    right_ids = torch.stack([ids[0], ids[1].roll(-3)])
    right_mask = torch.stack([mask[0], mask[1].roll(-3)])
    right, _ = beam_search(model, right_ids, NEW, beams=3, end=END, padding_mask=right_mask)
    assert torch.equal(left, right)


def test_one_beam_is_greedy(model):
    ids, mask = padded_prompts(5, (6, 3, 1, 4))
    for end in (END, None):
        new, _ = beam_search(model, ids, NEW, beams=1, end=end, padding_mask=mask)
        assert torch.equal(new, generate(model, ids, NEW, end=end, padding_mask=mask))


def test_enough_beams_find_the_likeliest_sequence_of_all(model):
    ids, _ = padded_prompts(6, (5,))
    every = torch.cartesian_prod(torch.arange(V), torch.arange(V))  # (V * V, 2)
    with torch.no_grad():
        whole = torch.cat([ids.expand(V * V, -1), every], dim=1)
        scores = model(whole)[:, 4:-1].log_softmax(-1).gather(2, every[..., None]).sum((1, 2))
    new, logprobs = beam_search(model, ids, 2, beams=V, length_penalty=0.0)
    assert torch.equal(new[0], every[scores.argmax()])
    # the search sums in float32
    torch.testing.assert_close(logprobs.sum().double(), scores.max(), atol=1e-5, rtol=0)


def test_longer_than_the_context_and_no_beams_are_refused(model):
    ids, _ = padded_prompts(7, (5,))
    with pytest.raises(ValueError, match="n_ctx=32"):
        beam_search(model, ids, 28, beams=2)
    with pytest.raises(ValueError, match="beams=0"):
        beam_search(model, ids, 5, beams=0)
