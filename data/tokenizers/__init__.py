"""Tokenizers by name or path."""

from __future__ import annotations

from pathlib import Path

from gecko_lab.data.errors import DataError, suggestion
from gecko_lab.data.tokenizers.base import Tokenizer
from gecko_lab.data.tokenizers.byte import ByteTokenizer

__all__ = ["ByteTokenizer", "Tokenizer", "build_tokenizer"]

_KINDS = (
    "'bytes', the path of a Hugging Face tokenizer.json, of a SentencePiece .model or of a .tiktoken encoding file, "
    "a folder that holds one, or the name of a tiktoken encoding"
)
_FILES_IN_FOLDER = ("tokenizer.json", "tokenizer.model", "tokenizer.tiktoken")


def build_tokenizer(name_or_path: str) -> Tokenizer:
    """The tokenizer of that name or in that file.

    Arguments:
        name_or_path: `bytes`; a Hugging Face `tokenizer.json`; a SentencePiece `.model`; a `.tiktoken` encoding file; a
            folder with `tokenizer.json`, `tokenizer.model` or `tokenizer.tiktoken`; or the name of a tiktoken encoding
            whose file is in tiktoken's cache.

    Raises:
        DataError: no such name or file, the file is something else, or the name would need a download.
    """
    if name_or_path == "bytes":
        return ByteTokenizer()
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        path = _file_in_folder(path, name_or_path)
    if path.is_file():
        return _from_file(path.absolute())  # manifests are read from other working directories
    import tiktoken

    names = tiktoken.list_encoding_names()
    if name_or_path in names:
        from gecko_lab.data.tokenizers.tiktoken import TiktokenTokenizer

        return TiktokenTokenizer.from_name(name_or_path)
    looks_like_path = path.suffix != "" or len(path.parts) > 1
    problem = "there is no such file" if looks_like_path else "there is no such name or file"
    raise DataError(
        f"tokenizer {name_or_path!r}: {problem}.{suggestion(name_or_path, ['bytes', *names])} Valid are {_KINDS} "
        f"({', '.join(names)})."
    )


def _file_in_folder(folder: Path, name: str) -> Path:
    for file_name in _FILES_IN_FOLDER:
        if (folder / file_name).is_file():
            return folder / file_name
    raise DataError(f"tokenizer {name!r}: the folder holds none of {', '.join(_FILES_IN_FOLDER)}.")


def _from_file(path: Path) -> Tokenizer:
    if path.suffix == ".json":
        from gecko_lab.data.tokenizers.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer(path)
    if path.suffix == ".model":
        from gecko_lab.data.tokenizers.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(path)
    if path.suffix == ".tiktoken":
        from gecko_lab.data.tokenizers.tiktoken import TiktokenTokenizer

        return TiktokenTokenizer.from_file(path)
    raise DataError(f"tokenizer {str(path)!r}: unknown kind of file. Valid are {_KINDS}.")
