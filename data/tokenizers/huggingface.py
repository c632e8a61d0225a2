"""A Hugging Face `tokenizer.json`, read by the `tokenizers` library."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gecko_lab.data.errors import DataError
from gecko_lab.data.tokenizers.base import Ids, Tokenizer, as_list, as_text, digest

# Names under which published tokenizers call the token that begins a text.
_BOS_NAMES = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>", "[BOS]", "<|bos|>")
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-F]{2}>")


class HuggingFaceTokenizer(Tokenizer):
    """Any `tokenizer.json`. BOS is the `bos_token` of a `tokenizer_config.json` beside it, else a special token of a
    usual name, else an id added at the end of the vocabulary.

    Raises:
        DataError: the file is no `tokenizer.json`.
    """

    def __init__(self, path: Path) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{path} is not a Hugging Face tokenizer.json ({error}).") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # "<s>" in a text is three characters, not BOS
        self._vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self._special_ids = {i for i, t in self._tokenizer.get_added_tokens_decoder().items() if t.special}
        num_ids = max(self._vocabulary.values(), default=-1) + 1  # not len(): vocabularies have holes
        own_bos_id = self._find_bos_id(path.parent / "tokenizer_config.json")
        self.name = str(path)
        self.bos_id = num_ids if own_bos_id is None else own_bos_id
        self.vocab_size = max(num_ids, self.bos_id + 1)
        self.identity = digest("huggingface", self._tokenizer.to_str(), self.bos_id)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[Ids]:
        encodings = self._tokenizer.encode_batch_fast([as_text(text) for text in texts], add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def use_one_thread(self) -> None:
        super().use_one_thread()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the library's only switch; it is read at each call

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tokenizer.encode_special_tokens = True  # the library does not pickle it

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer] | Tensor) -> str:
        text_ids = [i for i in as_list(ids) if i != self.bos_id and i not in self._special_ids]
        text: str = self._tokenizer.decode(text_ids, skip_special_tokens=False)
        return text

    def _find_bos_id(self, config_path: Path) -> int | None:
        if config_path.is_file():
            try:
                bos_token: Any = json.loads(config_path.read_text(encoding="utf-8")).get("bos_token")
            except (ValueError, AttributeError) as error:
                raise DataError(f"{config_path}, beside the tokenizer, is not a JSON object ({error}).") from error
            content = bos_token.get("content") if isinstance(bos_token, dict) else bos_token
            if isinstance(content, str) and content in self._vocabulary:
                return self._vocabulary[content]
        return next((self._vocabulary[n] for n in _BOS_NAMES if self._vocabulary.get(n) in self._special_ids), None)

    def _bytes_of_ids(self) -> list[int]:
        # A byte-level vocabulary spells each byte as one character; any other spells text, with a mark for the space.
        description = json.loads(self._tokenizer.to_str())
        byte_level = '"ByteLevel"' in json.dumps([description.get("pre_tokenizer"), description.get("decoder")])
        added = self._tokenizer.get_added_tokens_decoder()
        counts = [0] * self.vocab_size
        for token, i in self._vocabulary.items():
            if i in self._special_ids or i == self.bos_id:
                continue
            if i in added:  # added tokens are plain text in every kind of vocabulary
                counts[i] = len(token.encode("utf-8"))
            elif byte_level:
                counts[i] = len(token)
            elif _BYTE_FALLBACK.fullmatch(token):
                counts[i] = 1
            else:
                text = token.replace("\u2581", " ").replace("</w>", " ")
                counts[i] = len(text.removeprefix("##").encode("utf-8"))
        return counts
