"""`verify`: is this GPT-2 right, and if not, where and why?"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gpt2_scratch.config import PRESETS
from weights.console import check_device, each_line, one_line

if TYPE_CHECKING:
    from weights.verdict import Report


@dataclass(frozen=True)
class Verify:
    """Compare a GPT-2 with a reference, site by site, and say where it goes wrong first, and why.

    A site passes where it is as near as rounding allows. Exit code: 0 where everything passes, 1
    where something fails, 2 where nothing could be compared.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FOLDER")]
    """A name (gpt2, gpt2-medium, gpt2-large, gpt2-xl, scenes) or a folder with a checkpoint."""
    against: Annotated[str, tyro.conf.arg(metavar="golden|reference|transformers|FILE.npz")] = ""
    """reference: GPT-2 in plain numpy and float64, which reads the files itself (what happens when
    nothing is given; with a published name, golden too). golden: what others published about
    OpenAI's weights. transformers: the same files there. FILE.npz: what another model gave."""
    record: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Write this model's own sites to a file, to compare others with; nothing is compared then.
    It holds `tokens` (B, T) and one array a site: logits (B, T, V), layer00.ln_1 (B, T, C), ..."""
    logits_only: bool = False
    """Only the logits, where there is nothing else; less can then be said of where a mistake is."""
    tokens: tuple[int, ...] = ()
    """The ids to run the model on; two rows from all over the vocabulary where not given."""
    file: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIGURE=PATH")] = ()
    """For golden: the text that a published figure is about."""
    slow: bool = False
    """For golden: also what takes minutes, such as ten steps of training."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """What the model computes in; the fewer bits, the larger the mistakes that pass."""
    json: bool = False
    """One line of JSON instead of the table."""
    device: str = "cpu"
    """Where torch computes: cpu, cuda, cuda:1, mps."""

    def run(self) -> int:
        check_device(self.device)
        if self.record:
            return self._record(self.record)
        if self.against == "golden":
            report = self._golden()
        else:
            report = self._sites()
            if not self.against and self.model in PRESETS:
                golden = self._golden()
                report = replace(report, figures=golden.figures)
        print(json.dumps(report.as_json()) if self.json else each_line(report))
        return report.code

    def _sites(self) -> Report:
        from gpt2_scratch.verify import verify

        return verify(
            self.model,
            self.against or "reference",
            tokens=[list(self.tokens)] if self.tokens else None,
            logits_only=self.logits_only,
            dtype=self.dtype,
            device=self.device,
        )

    def _golden(self) -> Report:
        from gpt2_scratch.verify import verify_published
        from weights.figures import given_files

        files = given_files(self.file)
        return verify_published(self.model, files=files, slow=self.slow, device=self.device)

    def _record(self, path: Path) -> int:
        from gpt2_scratch.verify import record

        tokens = [list(self.tokens)] if self.tokens else None
        arrays = record(
            self.model,
            path,
            tokens=tokens,
            logits_only=self.logits_only,
            dtype=self.dtype,
            device=self.device,
        )
        print(f"{one_line(path)}: tokens and {len(arrays)} sites, {', '.join(arrays[:3])}, ...")
        return 0
