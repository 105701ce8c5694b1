"""Draw emoji as pictures with their names in English and Chinese, for `rlhf/ImageCaption-v0`.

    pip download --no-deps emoji==2.16.0
    apt-get download fonts-noto-color-emoji && dpkg -x fonts-noto-color-emoji_*.deb font
    python -m scripts.datasets.emoji_pictures emoji-2.16.0-py3-none-any.whl \
        font/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf emoji.jsonl.gz
    rlhf sft emoji.jsonl.gz start --model tiny-vision --column completion:reference
    rlhf train --env rlhf/ImageCaption-v0 --data emoji.jsonl.gz --model start --env-kwargs max_new_tokens:32

Each picture stands twice, with its English and its Chinese name, in one split. The names are Unicode's (CLDR), as the
package emoji has them (BSD); of it two JSON files are read, and none of its code is imported. The pictures are Noto
Color Emoji's (OFL 1.1). Nothing of either is bundled. Skin tones are left out, and emoji that are newer than the font
(`--newest`), for which it has a placeholder. What it does not have, draws as several pictures or draws as it draws
another one is left out and counted.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from rlhf_envs.datasets.pictures import as_data_uri
from scripts.datasets.writing import assign_splits, write

FOLDER = "emoji/unicode_codes"
PROMPTS = {"English": "Describe the picture:", "Chinese": "描述这张图片："}
STRIKE = 109  # the one size of Noto's bitmaps
SIDE = 72  # pixels of a picture
FULLY_QUALIFIED = 2  # of the package's `status`
TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}
NEWEST = 15.0  # version of Emoji that Debian 12's font has
MISSING = "\U000effff"  # no font has it
SHARES = {"test": 0.2, "validation": 0.1}


def read_names(wheel: Path, newest: float = NEWEST) -> dict[str, tuple[str, str]]:
    """Return the English and the Chinese name of each emoji that has both; of skin tones the plain one.

    Args:
        wheel: the package's file.
        newest: the version of Emoji beyond which one is left out.

    Raises:
        ValueError: the file is no wheel of emoji. The message says what it lacks.
    """
    if not zipfile.is_zipfile(wheel):
        raise ValueError(f"{wheel} is no wheel: give that of emoji 2.16.0")
    with zipfile.ZipFile(wheel) as archive:
        files = [f"{FOLDER}/emoji.json", f"{FOLDER}/emoji_zh.json"]
        if missing := [file for file in files if file not in archive.namelist()]:
            raise ValueError(f"{wheel} has no {missing[0]}: give the wheel of emoji 2.16.0")
        english, chinese = (json.loads(archive.read(file)) for file in files)
    return {
        char: (as_name(about["en"]), as_name(chinese[char]))
        for char, about in english.items()
        if about["status"] == FULLY_QUALIFIED
        and float(about["E"]) <= newest
        and chinese.get(char)
        and not TONES & {*char}
    }


def as_name(code: str) -> str:
    """Return what ":red_heart:" names: "red heart"."""
    return " ".join(code.strip(":").replace("_", " ").split())


def load_font(path: Path) -> ImageFont.FreeTypeFont:
    """Return the font at the size of Noto's bitmaps.

    Raises:
        ValueError: the file is no font, or has bitmaps of other sizes alone.
    """
    try:
        return ImageFont.truetype(str(path), STRIKE)
    except OSError as error:
        raise ValueError(f"{path}: {error}: give NotoColorEmoji.ttf of fonts-noto-color-emoji") from error


def draw(font: ImageFont.FreeTypeFont, char: str) -> Image.Image | None:
    """Return an emoji on white, (SIDE, SIDE) RGB; None if the font draws it as nothing or as several pictures."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(char))
    width, height = right - left, bottom - top
    if min(width, height) <= 0 or width > 1.5 * STRIKE:
        return None
    side = max(width, height)
    picture = Image.new("RGB", (side, side), "white")
    place = (side - width) // 2 - left, (side - height) // 2 - top
    ImageDraw.Draw(picture).text(place, char, font=font, fill="black", embedded_color=True)
    blank = picture.getextrema() == ((255, 255),) * 3
    return None if blank else picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def make_rows(names: Mapping[str, tuple[str, str]], font: ImageFont.FreeTypeFont) -> tuple[list[dict[str, Any]], int]:
    """Return two rows per picture, and how many emoji the font does not draw as one picture of its own."""
    unknown, drawn = draw(font, MISSING), dict[str, bytes]()
    placeholder = unknown.tobytes() if unknown is not None else b""
    for char in names:
        picture = draw(font, char)
        if picture is not None and picture.tobytes() != placeholder:
            file = io.BytesIO()
            picture.quantize(64).save(file, "png", optimize=True)
            drawn[char] = file.getvalue()
    copies = Counter(drawn.values())  # several emoji with one picture have several names: none is the right one
    kept = {char: content for char, content in drawn.items() if copies[content] == 1}
    rows = [row for char, content in kept.items() for row in both_names(char, names[char], content)]
    return assign_together(rows), len(names) - len(kept)


def both_names(char: str, names: tuple[str, str], content: bytes) -> list[dict[str, Any]]:
    """Return the English and the Chinese row of a picture."""
    image, code = as_data_uri(content), "-".join(f"{ord(one):x}" for one in char)
    texts = zip(PROMPTS.items(), (f" {names[0]}", names[1]), strict=True)
    return [
        {"image": image, "prompt": prompt, "reference": name, "language": language, "emoji": code}
        for (language, prompt), name in texts
    ]


def assign_together(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with a split, the same for both rows of a picture."""
    codes = [{"emoji": code} for code in dict.fromkeys(row["emoji"] for row in rows)]
    split_of = {one["emoji"]: one["split"] for one in assign_splits(codes, "emoji", SHARES)}
    return [{**row, "split": split_of[row["emoji"]]} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("font", type=Path)
    parser.add_argument("output", type=Path, help="a .jsonl.gz")
    parser.add_argument("--newest", type=float, default=NEWEST, help="version of Emoji that the font has")
    args = parser.parse_args()
    rows, left_out = make_rows(read_names(args.wheel, args.newest), load_font(args.font))
    if not rows:
        raise ValueError(f"{args.font} draws none of the emoji: give NotoColorEmoji.ttf")
    print(f"{len(rows) // 2:,} pictures, {left_out:,} left out: not in the font, several pictures, or one with others")
    write(args.output, rows)


if __name__ == "__main__":
    main()
