"""Fetch the openly licensed emoji, render them, compute the technique styles, write the atlases.

One atlas a style: 10 glyphs a row, 96 px each, RGBA, in the order of `OBJECTS`. The atlases are
committed, so only a change of vocabulary needs this step (npm and `resvg-py`).
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from erase.errors import InputError
from erase.world.vocabulary import OBJECTS, STYLES, Style

GLYPH = 96
COLUMNS = 10
# Every licence here lets us redistribute the pictures with credit; share-alike sets stay out.
PERMITTED = {"Apache-2.0", "CC-BY-4.0", "MIT"}


def rebuild(folder: Path) -> None:
    """Write `<style>.png` for every style and ATTRIBUTION.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    credits = []
    with tempfile.TemporaryDirectory() as scratch:
        for style in STYLES:
            package = _npm(style.source, Path(scratch))
            credits.append(_credit(style, package))
            icons = json.loads((package / "icons.json").read_text())
            atlas = Image.new("RGBA", (COLUMNS * GLYPH, -(-len(OBJECTS) // COLUMNS) * GLYPH))
            for place, thing in enumerate(OBJECTS):
                glyph = TECHNIQUES[style.technique](_render(icons, thing.icon))
                atlas.paste(glyph, (place % COLUMNS * GLYPH, place // COLUMNS * GLYPH))
            atlas.save(folder / f"{style.name.replace(' ', '-')}.png", optimize=True)
    head = "# Glyphs of the bundled world\n\nRendered from these sets, changed as noted.\n\n"
    table = "| style | set | author | licence | changes |\n|---|---|---|---|---|\n"
    (folder / "ATTRIBUTION.md").write_text(head + table + "".join(credits))


def _npm(name: str, scratch: Path) -> Path:
    """Fetch `@iconify-json/<name>` with npm; return the unpacked package folder."""
    target = scratch / name
    target.mkdir()
    try:
        command = ["npm", "pack", f"@iconify-json/{name}", "--silent"]
        subprocess.run(command, cwd=target, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise InputError("npm is not installed; the glyph step needs it (the rest does not)") from None
    except subprocess.CalledProcessError as error:
        raise InputError(f"npm could not fetch @iconify-json/{name}: {error.stderr.strip()}") from error
    with tarfile.open(next(target.glob("*.tgz"))) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def _credit(style: Style, package: Path) -> str:
    info = json.loads((package / "info.json").read_text())
    licence = info["license"]["spdx"]
    if licence not in PERMITTED:
        raise InputError(f"licence {licence} of {style.source} is not one of {sorted(PERMITTED)}")
    version = json.loads((package / "package.json").read_text())["version"]
    author = f"[{info['author']['name']}]({info['author']['url']})"
    change = {"": "rendered", "sticker": "white rim added", "pixels": "pixelated, 16 colours"}
    changes = change.get(style.technique, "reduced to outlines")
    return f"| {style.name} | {info['name']} ({style.source} {version}) | {author} | {licence} | {changes} |\n"


def _render(icons: dict[str, Any], name: str) -> Image.Image:
    """Rasterise one icon with resvg at `GLYPH` px, following the set's aliases."""
    import resvg_py  # pyright: ignore[reportMissingImports]  # the extra `world`

    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#111" '
        f'viewBox="{left} {top} {width} {height}" width="{GLYPH}" height="{GLYPH}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=GLYPH, height=GLYPH))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _as_is(glyph: Image.Image) -> Image.Image:
    return glyph


def _sticker(glyph: Image.Image) -> Image.Image:
    """A thick white rim with a thin grey edge, as if die-cut."""
    small = Image.new("RGBA", glyph.size)
    small.paste(glyph.resize((78, 78), Image.Resampling.LANCZOS), (9, 9))
    alpha = small.getchannel("A").point(lambda a: 255 if a > 100 else 0)  # pyright: ignore[reportOperatorIssue]
    edge = alpha.filter(ImageFilter.MaxFilter(17)).filter(ImageFilter.GaussianBlur(1.2))
    rim = alpha.filter(ImageFilter.MaxFilter(13)).filter(ImageFilter.GaussianBlur(1))
    sticker = Image.new("RGBA", glyph.size, (120, 124, 132, 0))
    sticker.putalpha(edge)
    sticker.paste((255, 255, 255, 255), (0, 0), rim)
    sticker.alpha_composite(small)
    return sticker


def _pixels(glyph: Image.Image) -> Image.Image:
    """16 x 16 blocks, hard alpha, 16 colours."""
    small = glyph.resize((16, 16), Image.Resampling.BOX)
    alpha = small.getchannel("A").point(lambda a: 255 if a > 70 else 0)  # pyright: ignore[reportOperatorIssue]
    # Colours of half-covered blocks are un-premultiplied by resize in RGBA; quantise what is left.
    flat = small.convert("RGB").quantize(16).convert("RGBA")
    flat.putalpha(alpha)
    return flat.resize(glyph.size, Image.Resampling.NEAREST)


def _lines(glyph: Image.Image) -> Image.Image:
    """Ink along the edges of the colours, white paper inside the outline."""
    alpha = np.asarray(glyph.getchannel("A"), dtype=np.float32) / 255
    rgb = np.asarray(glyph.convert("RGB").filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32) / 255
    seen = np.concatenate([rgb * alpha[..., None], 1.5 * alpha[..., None]], axis=-1)
    dy, dx = np.gradient(seen, axis=(0, 1))
    strength = np.sqrt((dx**2 + dy**2).sum(-1))
    ink = np.clip((strength - 0.07) / 0.10, 0, 1)
    ink_picture = Image.fromarray((ink * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    paper = Image.new("RGBA", glyph.size, (255, 255, 255, 0))
    paper.putalpha(glyph.getchannel("A"))
    paper.paste((30, 40, 110, 255), (0, 0), ink_picture)
    return paper


TECHNIQUES = {"": _as_is, "sticker": _sticker, "pixels": _pixels, "lines": _lines}
