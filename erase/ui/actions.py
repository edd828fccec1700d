"""What the pages and the named API call: plain values in, plain JSON values out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase.ui.compare import Comparer
from erase.ui.jobs import Jobs
from erase.ui.roots import Roots

MOST_UPLOAD = 16 * 2**30  # bytes


@dataclass(frozen=True, slots=True)
class Actions:
    """The verbs of one server. All raise `InputError` with the one line that the page shows."""

    roots: Roots
    jobs: Jobs
    comparer: Comparer

    def erase(self, form: dict[str, Any], session: str = "") -> str:
        """Queue the run that a form (fields of `Form`) asks for; return its name."""
        raise NotImplementedError

    def status(self, name: str) -> dict[str, Any]:
        """`Jobs.status` as JSON; paths as text."""
        raise NotImplementedError

    def stop(self, name: str) -> dict[str, Any]:
        """Stop a run; return its status."""
        raise NotImplementedError

    def resume(self, name: str) -> dict[str, Any]:
        """Queue a stopped run again; return its status."""
        raise NotImplementedError

    def evaluate(self, name: str) -> dict[str, Any]:
        """Queue the judging of a run; return its status."""
        raise NotImplementedError

    def generate(
        self, model: str, prompt: str, seed: int = 0, steps: int = 25, guidance: float = 3.0, strength: float = 1.0
    ) -> str:
        """Draw one picture with a model or `run:NAME`; return the PNG's path."""
        raise NotImplementedError

    def export(self, name: str, format: str = "diffusers", dtype: str = "", rank: int | None = None) -> str:
        """Write a run's model in a format of `erase export`; return the file to download: a .safetensors, or a .zip."""
        raise NotImplementedError

    def runs(self) -> list[dict[str, Any]]:
        """`Jobs.listing` as JSON."""
        raise NotImplementedError

    def delete(self, name: str) -> list[dict[str, Any]]:
        """Remove a run; return the runs that are left."""
        raise NotImplementedError

    def report(self, name: str) -> dict[str, Any]:
        """A judged run's scores, changes and configuration: report.json as it is read by the Evaluate page."""
        raise NotImplementedError

    def downloads(self, name: str) -> list[str]:
        """Paths of report.html, report.json and rows.jsonl, as far as the run has them."""
        raise NotImplementedError

    def upload(self, path: str | Path, name: str) -> str:
        """Take a .safetensors file among the server's models; return its name there."""
        raise NotImplementedError
