"""Tokenizers: a local one as it is, or a byte-level BPE trained on text that is not `strict`.

What a tokenizer learns from a text stays in its merges whatever is forgotten later, so strict text
must never reach the trainer. `private` and `pooled` text does, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from manifests.errors import InputError

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE (GPT-2 pre-tokenisation, every byte representable) with begin, end, pad.

    Args:
        texts: Training text, in a canonical order, without strict documents.
        vocab_size: Upper bound of the vocabulary; small corpora give fewer merges.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD
    )


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """A tokenizer from a local folder; nothing is ever downloaded.

    Raises:
        InputError: No tokenizer there, or one without an end token.
    """
    from transformers import AutoTokenizer

    if not Path(path).is_dir():
        raise InputError(
            f"tokenizer {path}",
            expected="a local folder with tokenizer files",
            found="no such folder",
            remedy="give the path of a saved tokenizer, or leave it out to train one",
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"tokenizer {path}",
            expected="tokenizer files that transformers can load",
            found=str(error).splitlines()[0],
            remedy="save the tokenizer with save_pretrained and give that folder",
        ) from error
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"tokenizer {path}",
            expected="an end-of-text token",
            found="none",
            remedy="set eos_token and save the tokenizer again",
        )
    return tokenizer
