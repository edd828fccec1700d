"""The seven named endpoints, for `gradio_client` and other programs. Plain values in, plain values out."""

# No postponed annotations here: gradio reads an endpoint's types from its signature as they stand.
from collections.abc import Callable
from typing import Any

import gradio as gr

from erase.errors import InputError
from erase.ui.site import DEVICE, EXPORT, Site, told

NAMES = ("erase", "status", "stop", "generate", "evaluate", "export", "runs")


def add(site: Site) -> None:
    """Name the endpoints inside the Blocks that are being built."""
    actions = site.actions

    def erase(form: dict[str, Any]) -> str:
        """Queue a run; `form`: fields of the Erase page, say {"concept": "cat", "rounds": 50}. Returns its name."""
        if not isinstance(form, dict):
            raise InputError(f"form must be an object of fields, got {type(form).__name__}")
        return actions.erase(form)

    def status(name: str) -> dict[str, Any]:
        """How a run is doing: state, place in line, phase, step, losses, scores, error."""
        return actions.status(name)

    def stop(name: str) -> dict[str, Any]:
        """Stop a run; what there is stays, and it can be resumed. Returns its status."""
        return actions.stop(name)

    def generate(
        model: str, prompt: str, seed: int = 0, steps: int = 25, guidance: float = 3.0, strength: float = 1.0
    ) -> dict[str, Any]:
        """Draw one picture with "world", a model of the server, or "run:NAME". Returns the PNG file."""
        return _file(site.show(actions.generate(model, prompt, seed, steps, guidance, strength)))

    def evaluate(name: str) -> dict[str, Any]:
        """Queue the judging of a finished run. Returns its status."""
        return actions.evaluate(name)

    def export(name: str, format: str = "diffusers", dtype: str = "", rank: int | None = None) -> dict[str, Any]:
        """Write a run's model in a format of `erase export`. Returns a .safetensors, or a .zip of a folder."""
        return _file(site.show(actions.export(name, format, dtype, rank)))

    def runs() -> list[dict[str, Any]]:
        """All runs, the newest first."""
        return actions.runs()

    for verb in (erase, status, stop, evaluate, runs):
        gr.api(_plain(verb), api_name=verb.__name__, concurrency_limit=None)
    gr.api(_plain(generate), api_name="generate", **DEVICE)
    gr.api(_plain(export), api_name="export", **EXPORT)


def _file(path: str) -> dict[str, Any]:
    return gr.FileData(path=path).model_dump()


def _plain(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb, whose errors reach the caller in the words of the command line."""
    import functools

    @functools.wraps(verb)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except Exception as error:
            raise gr.Error(told(error), print_exception=False) from None

    return call
