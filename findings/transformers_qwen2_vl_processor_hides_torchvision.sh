#!/bin/sh
# transformers 5.23.0: without torchvision Qwen2-VL's processor cannot be built from an image processor and a tokenizer.
#
# Expected: `Qwen2VLProcessor(image_processor=..., tokenizer=...)` shows pictures to the model, as its image processor alone
# does (transformers has one on Pillow for installations without torchvision), or an ImportError that names torchvision.
# What happens: AttributeError, "type object 'VIDEO_PROCESSOR_MAPPING' has no attribute '_extra_content'", which names
# neither torchvision nor videos. `AutoProcessor.from_pretrained` does name torchvision. What helps is to install it, or
# to call the image processor and to repeat the picture's token by hand.
# Source: without torchvision `transformers.VIDEO_PROCESSOR_MAPPING` is a dummy whose public attributes raise the ImportError;
# get_possibly_dynamic_module in processing_utils.py, which looks for the class of the absent video processor, reads a
# private one.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 pillow==13.0.0
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import importlib.util
from importlib.metadata import version

from PIL import Image
from tokenizers import Tokenizer, models
from transformers import AutoProcessor, PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLImageProcessorPil, Qwen2VLProcessor

print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "pillow")))
assert importlib.util.find_spec("torchvision") is None
words = {word: i for i, word in enumerate(("<unk>", "<|image_pad|>", "<|video_pad|>", "red"))}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")))
image_processor = Qwen2VLImageProcessorPil()
pixels = image_processor(Image.new("RGB", (56, 56)))["pixel_values"]
print("the image processor alone:", pixels.shape)
assert pixels.shape[1] == 3 * 2 * 14 * 14  # channels, frames, a patch


def failure(build):
    """Return the error of a call, which must have one."""
    try:
        build()
    except Exception as error:
        return error
    raise AssertionError("no error")


parts = failure(lambda: Qwen2VLProcessor(image_processor=image_processor, tokenizer=tokenizer))
print("from its parts:", type(parts).__name__, parts)
Qwen2VLConfig().save_pretrained("folder")
tokenizer.save_pretrained("folder")
image_processor.save_pretrained("folder")
read = failure(lambda: AutoProcessor.from_pretrained("folder"))
print("from a folder:", type(read).__name__, str(read).strip().splitlines()[0])
assert isinstance(parts, AttributeError) and "_extra_content" in str(parts) and "torchvision" not in str(parts).lower()
assert isinstance(read, ImportError) and "torchvision" in str(read).lower()
PY
