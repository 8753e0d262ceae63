"""The generation loop: OpenAI's and transformers' tokens, and what must change nothing."""

import inspect

import numpy as np
import pytest
import torch
from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel

from gpt2_scratch import GPT2, GPT2Config, generate, stream
from gpt2_scratch.generate import generate_with_logprobs
from gpt2_scratch.loader import load_gpt2

NEW = 11


@pytest.fixture(scope="module")
def model() -> GPT2:
    """Random, with weights so wide that each context asks for another token."""
    model = GPT2(GPT2Config(n_vocab=37, n_ctx=31, n_embd=20, n_head=5, n_layer=3)).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith(("w", "weight")):
            torch.nn.init.normal_(parameter, std=0.6 if name.endswith("w") else 0.3)
    return model.double()


def prompts(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(37, (rows, length), generator=torch.Generator().manual_seed(seed))


def left_padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal length (T, ...) -> one batch, padded with what nobody may look at."""
    longest = max(len(row) for row in rows)
    batch = rows[0].new_full((len(rows), longest, *rows[0].shape[1:]), 9)
    mask = torch.ones(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        batch[i, longest - len(row) :] = row
        mask[i, longest - len(row) :] = False
    return batch, mask


OPTIONS = {
    "greedy": {},
    "penalties": {"repetition_penalty": 1.4, "no_repeat_ngram": 2},
    "sampling": {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
}


def options(name: str) -> dict:
    return {**OPTIONS[name], "generator": torch.Generator().manual_seed(7)}


# --- against other people's code


def test_greedy_tokens_are_those_of_openai(golden):
    oracle = np.load(golden / "tiny-a" / "oracle.npz")
    model = load_gpt2(golden / "tiny-a" / "hf-prefixed")
    context = torch.from_numpy(oracle["greedy.context"])
    tokens = torch.from_numpy(oracle["greedy.tokens"])
    for use_cache in (True, False):
        new = generate(model, context, 12, use_cache=use_cache)
        assert torch.equal(torch.cat([context, new], dim=1), tokens)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "processors",
    [
        {},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3},
    ],
    ids=str,
)
def test_greedy_equals_transformers_on_a_left_padded_batch(seed, processors, tmp_path):
    torch.manual_seed(seed)
    theirs = GPT2LMHeadModel(
        TheirConfig(
            vocab_size=41, n_positions=32, n_embd=24, n_head=3, n_layer=2 + seed,
            initializer_range=0.4, bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    ids, mask = left_padded([torch.randint(41, (n,)) for n in (7, 3, 5)])
    renamed = {"no_repeat_ngram_size": "no_repeat_ngram"}
    ours = {renamed.get(name, name): value for name, value in processors.items()}
    new = generate(load_gpt2(tmp_path), ids, NEW, padding_mask=mask, **ours)
    # Their penalties see the padding too: let it be a token that plays no part.
    unused = next(i for i in range(41) if i not in ids and i not in new)
    expected = theirs.generate(
        ids.masked_fill(mask, unused), attention_mask=(~mask).long(), max_new_tokens=NEW,
        do_sample=False, pad_token_id=unused, **processors,
    )  # fmt: skip
    assert torch.equal(new, expected[:, ids.shape[1] :])


# --- what must change nothing


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["ids", "embeddings"])
def test_the_cache_changes_nothing(model, name, kind):
    ids, mask = left_padded([*prompts(4, 6), prompts(1, 3)[0]])
    prompt = ids if kind == "ids" else model.embed(ids)
    with_cache, without = (
        generate(model, prompt, NEW, padding_mask=mask, use_cache=use, **options(name))
        for use in (True, False)
    )
    assert torch.equal(with_cache, without)
    assert with_cache.unique().numel() > 5, "the model repeats itself, so this test sees little"


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", ["greedy", "penalties"])
@pytest.mark.parametrize("kind", ["ids", "embeddings"])
def test_a_batch_equals_its_rows_run_alone(model, kind, name, use_cache):
    rows = [prompts(1, n, seed=n)[0] for n in (5, 1, 8, 3)]
    if kind == "embeddings":
        rows = [model.embed(row).detach() for row in rows]
    batch, mask = left_padded(rows)
    how = {**options(name), "end": 3, "use_cache": use_cache}
    together = generate(model, batch, NEW, padding_mask=mask, **how)
    for row, ids in zip(rows, together, strict=True):
        alone = generate(model, row[None], NEW, **how)[0]
        assert torch.equal(ids[: len(alone)], alone)
        assert (ids[len(alone) :] == 3).all()


def test_the_side_of_the_padding_changes_nothing(model):
    ids, mask = left_padded([prompts(1, n, seed=n)[0] for n in (4, 7, 2)])
    for prompt in (ids, model.embed(ids)):
        for name in ("greedy", "penalties"):
            left = generate(model, prompt, NEW, padding_mask=mask, **options(name))
            pads = mask.sum(1).tolist()
            right = torch.stack([row.roll(-n, 0) for row, n in zip(prompt, pads, strict=True)])
            right_mask = torch.stack([m.roll(-n) for m, n in zip(mask, pads, strict=True)])
            out = generate(model, right, NEW, padding_mask=right_mask, **options(name))
            assert torch.equal(out, left)


def test_what_stands_in_the_padding_changes_nothing(model):
    ids, mask = left_padded([prompts(1, n, seed=n)[0] for n in (4, 7)])
    expected = generate(model, ids, NEW, padding_mask=mask, **options("penalties"))
    for other in (0, 36, -100):
        changed = ids.masked_fill(mask, other)
        out = generate(model, changed, NEW, padding_mask=mask, **options("penalties"))
        assert torch.equal(out, expected)


def test_a_prompt_of_embeddings_continues_as_its_ids(model):
    ids = prompts(3, 6)
    assert torch.equal(generate(model, model.embed(ids), NEW), generate(model, ids, NEW))


# --- stopping


def test_rows_stop_at_the_end_token_each_for_itself(model):
    ids = prompts(5, 4, seed=3)
    free = generate(model, ids, NEW)  # end=None never stops early
    assert free.shape == (5, NEW)
    end = int(free[0, 4])  # a token that row 0 says early
    out = generate(model, ids, NEW, end=end)
    for row, unstopped in zip(out, free, strict=True):
        said = unstopped.tolist()
        stop = said.index(end) + 1 if end in said else NEW
        assert row[:stop].tolist() == said[:stop]
        assert (row[stop:] == end).all()


def test_the_loop_stops_when_all_rows_have_ended(model):
    ids = prompts(2, 4).repeat(2, 1)[:1]
    free = generate(model, ids, NEW)
    end = int(free[0, 3])
    first = free[0].tolist().index(end)
    assert generate(model, ids, NEW, end=end).shape == (1, first + 1)


def test_stream_yields_what_generate_returns(model):
    ids = prompts(3, 5)
    tokens = list(stream(model, ids, NEW, **options("sampling")))
    assert all(token.shape == (3,) for token in tokens)
    assert torch.equal(torch.stack(tokens, 1), generate(model, ids, NEW, **options("sampling")))


# --- choosing


def test_the_same_generator_draws_the_same_tokens(model):
    ids = prompts(3, 5)

    def run(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return generate(model, ids, NEW, temperature=1.0, generator=generator)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_first_tokens_follow_the_models_distribution(model):
    draws, k = 3000, 8
    ids = prompts(1, 5).expand(draws, -1)
    generator = torch.Generator().manual_seed(1)
    tokens = generate(model, ids, 1, temperature=2.0, top_k=k, generator=generator)[:, 0]
    with torch.no_grad():
        scaled = model(ids[:1])[0, -1] / 2.0
    kept = scaled.topk(k).indices
    expected = draws * scaled[kept].softmax(-1)
    observed = torch.bincount(tokens, minlength=37)[kept]
    assert observed.sum() == draws, "a token outside the k likeliest was drawn"
    chi_square = float(((observed - expected).square() / expected).sum())
    # 7 degrees of freedom: above 24.3 by chance once in 1,000; without the temperature, thousands
    assert chi_square < 24.3


def test_penalties_see_a_prompt_of_ids_and_only_new_tokens_after_embeddings(model):
    ids = prompts(1, 6)
    banned = generate(model, ids, 25, no_repeat_ngram=1)[0].tolist()
    everything = ids[0].tolist() + banned
    assert len(set(banned)) == 25
    assert not set(banned) & set(ids[0].tolist())
    assert len(everything) == 31
    free = generate(model, model.embed(ids), 25, no_repeat_ngram=1)[0].tolist()
    assert len(set(free)) == 25
    assert set(free) & set(ids[0].tolist()), "the prompt's words were banned as well"


def test_logprobs_are_the_models_own(model):
    ids, mask = left_padded([prompts(1, n, seed=n)[0] for n in (4, 7)])
    how = {"padding_mask": mask, "repetition_penalty": 1.3}
    end = int(generate(model, ids, NEW, **how, **options("sampling"))[0, 2])
    how["end"] = end
    new, logprobs = generate_with_logprobs(model, ids, NEW, **how, **options("sampling"))
    assert torch.equal(new, generate(model, ids, NEW, **how, **options("sampling")))
    whole = torch.cat([ids, new], dim=1)
    with torch.no_grad():
        scores = model(whole, torch.cat([mask, torch.zeros_like(new).bool()], dim=1))
    expected = scores.log_softmax(-1)[:, ids.shape[1] - 1 : -1].gather(2, new[..., None])[..., 0]
    filled = ((new == end).cumsum(1) - (new == end).long()).bool()
    assert filled.any()
    assert (logprobs[filled] == 0).all()
    # the loop's logits are float32: 2**-24 of values up to 20
    torch.testing.assert_close(logprobs[~filled].double(), expected[~filled], atol=1e-5, rtol=0)


# --- the caller's things stay as they were


def test_dropout_is_off_and_the_modes_come_back(model):
    dropping = GPT2(GPT2Config(n_vocab=37, n_ctx=31, n_embd=20, n_head=5, n_layer=3, dropout=0.5))
    dropping.double().load_state_dict(model.state_dict())
    dropping.h[1].eval()
    before = [module.training for module in dropping.modules()]
    ids = prompts(3, 5)
    assert torch.equal(generate(dropping, ids, NEW), generate(model, ids, NEW))
    for _ in stream(dropping, ids, 2):
        assert [module.training for module in dropping.modules()] == before
        assert torch.is_grad_enabled()
    assert [module.training for module in dropping.modules()] == before


def test_new_tokens_can_be_trained_on(model):
    ids = prompts(2, 5)
    prompt = model.embed(ids)
    assert prompt.requires_grad
    new = next(stream(model, prompt, 4))[:, None]
    model(new).sum().backward()  # the tensors of `torch.inference_mode` would refuse
    model.zero_grad()


def test_bfloat16_generates():
    torch.manual_seed(0)
    model = GPT2(GPT2Config(n_vocab=37, n_ctx=31, n_embd=20, n_head=5, n_layer=2)).bfloat16()
    assert generate(model, prompts(2, 4), 5).shape == (2, 5)
    vectors = torch.randn(2, 4, 20)  # of a connector in float32
    assert torch.equal(generate(model, vectors, 5), generate(model, vectors.bfloat16(), 5))


# --- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 27}, "n_ctx=31"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"prompt": torch.zeros(2, 0, dtype=torch.long)}, "at least one row and one token"),
        ({"prompt": torch.zeros(5, dtype=torch.long)}, r"ids \(B, T\)"),
        ({"prompt": torch.zeros(2, 5)}, r"embeddings \(B, T, C\)"),
        ({"prompt": torch.zeros(2, 5, 19)}, "n_embd=20"),
        ({"prompt": torch.tensor([[1, 37]])}, "ids 1 to 37"),
        ({"prompt": torch.tensor([[1, -1]])}, "ids -1 to 1"),
        ({"padding_mask": torch.zeros(2, 4, dtype=torch.bool)}, "boolean"),
        ({"padding_mask": torch.zeros(2, 5, dtype=torch.long)}, "boolean"),
        ({"padding_mask": torch.tensor([[False] * 5, [True] * 5])}, "Row 1"),
        ({"end": 37}, "end=37"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_the_first_token(model, change, message):
    arguments = {"prompt": prompts(2, 5), "max_new_tokens": 3, **change}
    prompt, max_new_tokens = arguments.pop("prompt"), arguments.pop("max_new_tokens")
    for call in (generate, stream):  # stream at its call, not at the first token
        with pytest.raises(ValueError, match=message):
            call(model, prompt, max_new_tokens, **arguments)


def test_the_whole_context_can_be_filled(model):
    assert generate(model, prompts(1, 5), 26).shape == (1, 26)


def test_the_three_ways_take_the_same_arguments():
    parameters = list(inspect.signature(generate).parameters.values())
    assert [(p.name, p.default) for p in parameters[3:]] == [
        ("padding_mask", None), ("temperature", 0.0), ("top_k", None), ("top_p", None),
        ("min_p", None), ("repetition_penalty", 1.0), ("no_repeat_ngram", 0), ("end", None),
        ("generator", None), ("use_cache", True),
    ]  # fmt: skip
    for other in (stream, generate_with_logprobs):
        assert list(inspect.signature(other).parameters.values()) == parameters
