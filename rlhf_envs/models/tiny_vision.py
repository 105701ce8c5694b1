"""Make "tiny-vision", the smallest vision-language model: LLaVA's shape, with "tiny" as its decoder.

A CLIP-shaped encoder of three blocks turns a picture of 48 x 48 pixels into 36 states, a projector turns these into
embeddings, and they stand in the context in the place of 36 tokens `<image>`. The vocabulary is that of "tiny" and this
token.

The model is put together once, in the user's cache. `scripts/models/tiny/vision.py` trains the encoder, the projector
and the last two blocks of the decoder. The file `tiny-vision/trained.safetensors` beside this module has what it
learned: of the decoder's matrices the change from "tiny", as two factors of rank 32. Without that file the encoder is a
fresh one, and a warning says so.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from rlhf_envs.files import replace_folder
from rlhf_envs.models.smollm2 import cache_folder

if TYPE_CHECKING:
    import torch

__all__ = [
    "IMAGE_TOKEN",
    "TRAINED",
    "build_tiny_vision",
    "learns",
    "save_tiny_vision",
    "save_trained",
    "tiny_vision_folder",
]

IMAGE_TOKEN = "<image>"
TRAINED = Path(__file__).parent / "tiny-vision" / "trained.safetensors"
FORM = 1  # raised where the parts are put together otherwise, so that caches are made again
SIZE, PATCH = 48, 8
ENCODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": PATCH,
}
LEARN = (
    "vision_tower.",
    "multi_modal_projector.",
    "language_model.h.2.",
    "language_model.h.3.",
    "language_model.ln_f.",
)
DECODER = "model.language_model."
RANK = 32  # of the changes; with 16 the captions' loss is a third higher, with 64 it is the same
LEFT, RIGHT = ".left", ".right"

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _weights_hash() -> str:
    """Return a hash of what the model is made of; warn once per process if it has not been trained."""
    content = TRAINED.read_bytes() if TRAINED.is_file() else b""
    if not content:
        logger.warning(
            "'tiny-vision' has not been trained: its encoder is fresh and sees nothing yet. Teach it, rlhf sft "
            "rlhf/ImageQA-v0 start --model tiny-vision, or run python -m scripts.models.tiny.vision in the repository"
        )
    return hashlib.sha1(repr((FORM, ENCODER)).encode() + content, usedforsecurity=False).hexdigest()[:12]


def tiny_vision_folder() -> Path:
    """Return the folder of the model. Put it together first if the cache has none."""
    folder = cache_folder() / f"tiny-vision-{_weights_hash()}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not (folder / "config.json").is_file():  # else another process has made it meanwhile
            with replace_folder(folder) as unfinished:
                save_tiny_vision(build_tiny_vision(TRAINED if TRAINED.is_file() else None), unfinished)
    return folder


def learns(name: str) -> bool:
    """Return whether the parameter of this name is trained by the script, and not taken from "tiny"."""
    return any(part in name for part in LEARN)


def build_tiny_vision(trained: Path | None = None, seed: int = 0) -> Any:
    """Return the model: fresh encoder and projector on the decoder "tiny", with the weights of the file `trained`.

    Raises:
        ValueError: the file lacks weights, or has others.
    """
    import torch
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    from rlhf_envs.models import load_causal_lm

    tiny = load_causal_lm("tiny")
    tokens = tiny.config.vocab_size
    text = tiny.config.to_dict() | {"vocab_size": tokens + 1, "tie_word_embeddings": False}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**ENCODER),
        text_config=text,
        image_token_index=tokens,
        image_seq_length=(SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
    _copy_decoder(tiny, model)
    if trained is not None:
        _load_trained(trained, model)
    return model


def _load_trained(path: Path, model: Any) -> None:
    """Give a model whose decoder is "tiny" what `save_trained` wrote."""
    from safetensors.torch import load_file

    weights = dict(model.named_parameters())
    found = {name: weight.float() for name, weight in load_file(path).items()}
    for name in weights:
        if name + LEFT in found and name + RIGHT in found:
            found[name] = weights[name].detach() + found.pop(name + LEFT) @ found.pop(name + RIGHT)
    if different := set(found) ^ {name for name in weights if learns(name)}:
        raise ValueError(
            f"{path} has not what tiny-vision learns, see {min(different)!r}: run scripts/models/tiny/vision.py again"
        )
    model.load_state_dict(found, strict=False)


def _copy_decoder(tiny: Any, model: Any) -> None:
    """Give the model the weights of "tiny"; the new token's embeddings are the mean of the others."""
    import torch

    def grown(weight: torch.Tensor) -> torch.Tensor:
        return torch.cat([weight, weight.mean(dim=0, keepdim=True)])

    state = tiny.transformer.state_dict()
    state["wte.weight"] = grown(state["wte.weight"])
    model.model.language_model.load_state_dict(state)
    with torch.no_grad():
        model.lm_head.weight.copy_(grown(tiny.lm_head.weight))


def save_trained(model: Any, path: Path) -> None:
    """Write what a model in this form has learned, float16; of its decoder's matrices the `RANK` largest changes.

    A change is the difference from "tiny". It is cut to `RANK` by its singular values, and stored as two factors.
    """
    import torch
    from safetensors.torch import save_file

    from rlhf_envs.models import load_causal_lm

    model_of_text: Any = load_causal_lm("tiny")
    tiny = model_of_text.transformer.state_dict()
    stored: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        if learns(name) and name.startswith(DECODER) and weight.ndim == 2:
            change = weight.detach() - tiny[name.removeprefix(DECODER)]
            left, sizes, right = torch.linalg.svd(change, full_matrices=False)
            root = sizes[:RANK].sqrt()
            stored |= {name + LEFT: left[:, :RANK] * root, name + RIGHT: root[:, None] * right[:RANK]}
        elif learns(name):
            stored[name] = weight.detach()
    save_file({name: weight.half().contiguous() for name, weight in stored.items()}, path)


def save_tiny_vision(model: Any, folder: Path) -> None:
    """Write a model in this form with its processor, float16."""
    from transformers import GenerationConfig, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from rlhf_envs.models import load_tokenizer, no_progress_bars

    tokenizer = copy.deepcopy(load_tokenizer("tiny"))
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    size = {"height": SIZE, "width": SIZE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,  # the encoder's class token, which is left out
    )
    model = copy.deepcopy(model).half()
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    with no_progress_bars():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
