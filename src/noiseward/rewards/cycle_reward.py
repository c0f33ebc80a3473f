"""CycleReward: how well an image and a prompt can be made from one another, without human judgments.

Pairs of images were ordered by how close a text that a model writes from each is to the text they were made from, and
pairs of texts by the images made from them. The model is ImageReward's, a BLIP (`image_reward.py`), trained on these
orders: it reads 128 tokens of a prompt, and its head has a GELU between its layers.

References:
    Cycle Consistency as Reward: Learning Image-Text Alignment without Human Preferences
    https://arxiv.org/abs/2506.02095
"""

from __future__ import annotations

from torch import nn

from noiseward.rewards.checkpoints import build_layers, read_checkpoint
from noiseward.rewards.hub import find_checkpoint, load_tokenizer
from noiseward.rewards.image_reward import ImageReward, convert_blip, crop_square
from noiseward.rewards.repos import CYCLE_REWARD, check_cycle
from noiseward.rewards.repos import IMAGE_REWARD_TOKENIZER as TOKENIZER

__all__ = ["cyclereward"]

WORDS = 128
LAYERS = (0, 2, 4, 6, 8)  # of the head


def cyclereward(path: str = "", *, version: str = "combo", tokenizer: str = "") -> ImageReward:
    """CycleReward.

    Arguments:
        path: its file, `.safetensors` or `.pth`, or a folder with `model.safetensors`; default: the local cache.
        version: combo; t2i, trained on pairs of images alone; i2t, on pairs of texts.
        tokenizer: a folder with BERT's tokenizer; default: that of the checkpoint if it is there, or the local cache.
    """
    from transformers import BertTokenizer

    file = find_checkpoint(CYCLE_REWARD[check_cycle(version)], path, f"cyclereward:version={version}")
    words = load_tokenizer(BertTokenizer, TOKENIZER, tokenizer, "cyclereward", checkpoint=file if path else None)
    vision, text, head = convert_blip(
        read_checkpoint(file), file, lambda state, path, prefix: build_layers(
            state, path, f"{prefix}layers.", LAYERS, nn.GELU
        )
    )  # fmt: skip
    prepare = crop_square(vision.config.image_size)
    return ImageReward(vision, text, head, words, prepare, name="cyclereward", words=WORDS, mean=0.0, std=1.0)
