"""What a validation looks at beside the loss: captions, their scores, and whether pictures matter.

Teacher-forced: every token is guessed behind the reference's own, as in training. Free: the
captioner goes on from what it said itself, as in use. The two are far apart and never mixed up: a
model that only repeats the token before has a teacher-forced WER of a few percent, as the words are
all there, one place late. The accuracy, by place, is not deceived.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from captioning.data.index import Index, Picture
from captioning.data.opening import open_place
from captioning.data.rows import Bad, Side
from captioning.data.transforms import Transform
from captioning.metrics import score
from captioning.model import Captioner
from captioning.training.forward import image_tokens
from connector.preprocess import normalise
from gpt2_scratch.generate import eval_mode
from gpt2_scratch.training.log import Table, note_text
from weights.console import one_line

# What the tables and curves call them; WER and BLEU-char-m7 are percent, the rest fractions.
KEPT = ("WER", "BLEU-4", "CIDEr-D", "BLEU-char-m7")
COLUMNS = (
    "step",
    *(f"{way} {name}" for way in ("teacher-forced", "free") for name in KEPT),
    *("teacher-forced accuracy", "loss", "loss of shuffled pictures", "different captions"),
)
SHOWN, LINES = 160, 3  # characters of a sample, and how many are said
AT_ONCE = 16  # pictures
LOOKED_AWAY = 0.01  # nats a token: shuffled pictures that cost no more are not looked at
COLLAPSED = 0.5  # of the pictures, the share that has one and the same caption

# B pictures   T tokens of the longest caption   N image tokens   C channels


@dataclass(frozen=True)
class Look:
    """What was seen: scores by name, and of each picture its id, a reference, and what was said."""

    values: dict[str, float]
    said: list[tuple[str, str, str]]

    def warnings(self) -> Iterator[str]:
        """What a person should know of it."""
        gap = self.values["loss of shuffled pictures"] - self.values["loss"]
        if gap < LOOKED_AWAY:
            yield (
                f"captions do not depend on the picture yet: with shuffled pictures the loss is"
                f" {gap:+.3f} nats a token"
            )
        caption, times = Counter(said for *_, said in self.said).most_common(1)[0]
        if times > 1 and times >= COLLAPSED * len(self.said):
            yield f"captions have collapsed: {times} of {len(self.said)} pictures got {caption!r}"


def pictures_spread(index: Index, side: Side, many: int) -> list[Picture]:
    """At most `many` pictures of a side, spread evenly over it."""
    count = sum(1 for _ in index.pictures(side))
    chosen = {i * count // many for i in range(many)} if count > many else set(range(count))
    return [picture for i, picture in enumerate(index.pictures(side)) if i in chosen]


class Looker:
    """Looks at the same pictures each time. Those that can't be opened are passed over."""

    def __init__(
        self, captioner: Captioner, pictures: Sequence[Picture], transform: Transform
    ) -> None:
        self.captioner, self.pictures = captioner, pictures
        self.transform = Transform(transform.size, transform.mode)  # nothing augmented

    @torch.no_grad()
    def __call__(self) -> Look | None:
        """None where there are fewer than two pictures."""
        kept: list[Picture] = []
        tokens: list[torch.Tensor] = []
        free: list[str] = []
        captioner = self.captioner
        with eval_mode(captioner):
            for chunk, pixels in self._opened():
                image = image_tokens(captioner, pixels)  # (B, N, C)
                free += [text for text, _ in captioner.say(image)]
                tokens.append(image)
                kept += chunk
            if len(kept) < 2:
                return None
            image = torch.cat(tokens)
            references = [list(picture.captions) for picture in kept]
            first = [several[0] for several in references]
            loss, accuracy, forced = self._forced(image, first)
            shuffled, *_ = self._forced(image.roll(1, 0), first)
        values = {"loss": loss, "loss of shuffled pictures": shuffled}
        values["teacher-forced accuracy"] = accuracy
        values["different captions"] = len(set(free)) / len(free)
        for way, said, wanted in (
            ("teacher-forced", forced, [[caption] for caption in first]),
            ("free", free, references),
        ):
            found = score(said, wanted)
            values |= {f"{way} {name}": found[name] for name in KEPT}
        names = [picture.image for picture in kept]
        return Look(values, list(zip(names, first, free, strict=True)))

    def _opened(self) -> Iterator[tuple[list[Picture], torch.Tensor]]:
        """Some pictures at a time, with their pixels (B, 3, size, size)."""
        left = iter(self.pictures)
        while chunk := list(islice(left, AT_ONCE)):
            opened = []
            for picture in chunk:
                try:
                    opened.append((picture, self.transform(open_place(picture.place))))
                except Bad:
                    continue
            if opened:
                pixels = torch.stack([torch.from_numpy(array) for _, array in opened])
                yield [p for p, _ in opened], normalise(pixels.permute(0, 3, 1, 2))

    def _forced(
        self, image: torch.Tensor, captions: Sequence[str]
    ) -> tuple[float, float, list[str]]:
        """Mean loss a token of these captions, the share of tokens that are likeliest in their
        places, and what is likeliest there."""
        model, tokenizer = self.captioner.gpt2, self.captioner.tokenizer
        total, number, right, said = 0.0, 0, 0, []
        for at in range(0, len(captions), AT_ONCE):
            prefix = image[at : at + AT_ONCE]
            rows = [
                [*tokenizer.encode(caption), tokenizer.end]
                for caption in captions[at : at + AT_ONCE]
            ]
            room = model.config.n_ctx - prefix.shape[1] + 1
            rows = [row[:room] for row in rows]
            longest = max(map(len, rows))
            padded = [row + [tokenizer.end] * (longest - len(row)) for row in rows]
            ids = torch.tensor(padded, device=image.device)  # (B, T)
            x = torch.cat([prefix, model.embed(ids[:, :-1]).to(prefix.dtype)], 1)
            states = model.states(x)[:, prefix.shape[1] - 1 :]  # (B, T, C)
            for row, state in zip(rows, states, strict=True):
                scores = model.unembed(state[: len(row)]).float().log_softmax(-1)  # (T, V)
                wanted = torch.tensor(row, device=scores.device)
                total -= scores.gather(1, wanted[:, None]).sum().item()
                number += len(row)
                likeliest = scores.argmax(-1)
                right += int((likeliest == wanted).sum())
                kept = [i for i in likeliest.tolist() if i < len(tokenizer) and i != tokenizer.end]
                said.append(tokenizer.decode(kept).strip())
        return total / number, right / number, said


def note_look(out: Path, step: int, look: Look, say: Callable[[str], None]) -> None:
    """A row of `looks.csv`, the captions in `samples.txt`, and a few words."""
    with Table(out / "looks.csv", COLUMNS, step - 1) as table:
        table.write({"step": step, **look.values})
    samples = "\n".join(
        f"{one_line(image)}\nrefe: {one_line(reference)}\nhypo: {one_line(said)}"
        for image, reference, said in look.said
    )
    note_text(out / "samples.txt", step, samples)
    values = look.values
    say(
        "  teacher-forced accuracy {:.3f}, WER {:.1f} %, BLEU-4 {:.3f}; free WER {:.1f} %,"
        " BLEU-4 {:.3f}, CIDEr-D {:.3f}; shuffled pictures {:+.3f} nats".format(
            *(values[f"teacher-forced {name}"] for name in ("accuracy", "WER", "BLEU-4")),
            *(values[f"free {name}"] for name in ("WER", "BLEU-4", "CIDEr-D")),
            values["loss of shuffled pictures"] - values["loss"],
        )
    )
    for image, _, said in look.said[:LINES]:
        say(f"  {one_line(image)}: {one_line(said)[:SHOWN]}")
    if step:  # before, nothing was learned
        for warning in look.warnings():
            say(f"  Warning: {warning}.")
