"""`verify`: is this image tower right, and if not, where and why?"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from weights.console import check_device, each_line, one_line

if TYPE_CHECKING:
    from weights.verdict import Report

NAMES = ("clip-vit-l-14-336", "clip-tiny")  # those about which something is published


@dataclass(frozen=True)
class Verify:
    """Compare a CLIP image tower with a reference, site by site, and say where it goes wrong first,
    and why.

    A site passes where it is as near as rounding allows. Exit code: 0 where everything passes, 1
    where something fails, 2 where nothing could be compared.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FOLDER")]
    """A name (clip-vit-l-14-336, clip-tiny), a folder with a CLIP, or OpenAI's .pt."""
    against: Annotated[str, tyro.conf.arg(metavar="golden|reference|transformers|FILE.npz")] = ""
    """reference: the tower in plain numpy and float64, which reads the files itself (what happens
    when nothing is given; with a name, golden too). golden: what others published about OpenAI's
    weights, and the states of clip-tiny. transformers: the same files there. FILE.npz: what another
    tower gave."""
    record: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Write this tower's own sites to a file, to compare others with; nothing is compared then. It
    holds `pixel_values` (B, 3, S, S), the `pictures` that they come of, and one array a site:
    hidden_states_00 (B, T, W), ..., image_features (B, projection)."""
    image: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PICTURE")] = ()
    """Pictures to run the tower on; two that are drawn where not given."""
    file: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIGURE=PATH")] = ()
    """For golden: the picture that a published figure is about."""
    gelu: Literal["quick", "exact"] | None = None
    """Where the folder does not say it: quick for OpenAI's weights, exact for most of LAION's."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """What the tower computes in; the fewer bits, the larger the mistakes that pass."""
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
            if not self.against and self.model in NAMES:
                report = replace(report, figures=self._golden().figures)
        print(json.dumps(report.as_json()) if self.json else each_line(report))
        return report.code

    @property
    def _options(self) -> dict[str, Any]:
        quick = None if self.gelu is None else self.gelu == "quick"
        return {"quick_gelu": quick, "dtype": self.dtype, "device": self.device}

    def _pictures(self) -> list[Any]:
        from PIL import Image

        pictures = []
        for path in self.image:
            try:
                with Image.open(path) as picture:
                    pictures.append(picture.convert("RGB"))
            except FileNotFoundError:
                raise
            except (OSError, Image.DecompressionBombError) as error:
                raise ValueError(
                    f"{path} is no picture that can be read ({error}). Choose another."
                ) from None
        return pictures

    def _sites(self) -> Report:
        from connector.verify import verify

        return verify(
            self.model, self.against or "reference", pictures=self._pictures(), **self._options
        )

    def _golden(self) -> Report:
        from connector.verify import verify_golden
        from weights.figures import given_files

        return verify_golden(self.model, files=given_files(self.file), **self._options)

    def _record(self, path: Path) -> int:
        from connector.verify import record

        sites = record(self.model, path, pictures=self._pictures(), **self._options)
        print(f"{one_line(path)}: pixel_values and {len(sites)} sites, {', '.join(sites[:3])}, ...")
        return 0
