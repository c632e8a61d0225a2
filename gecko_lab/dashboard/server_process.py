"""TensorBoard as a process that ends with the one that started it, however that ends.

It imports TensorBoard, which takes seconds, waits for a line on its input, serves, and tells the address, or why it
cannot, in one line of JSON. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Serve; the arguments are those of TensorBoard."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what TensorBoard prints goes to the log
    from tensorboard import program

    board = program.TensorBoard()
    board.configure(argv=["tensorboard", *sys.argv[1:]])
    if not sys.stdin.readline():
        return
    try:
        result = {"url": board.launch()}
    except program.TensorBoardServerException as error:
        result = {"error": error.msg}
    print(json.dumps(result), file=answer, flush=True)
    sys.stdin.read()
    os._exit(0)  # its threads are in the middle of something


if __name__ == "__main__":
    main()
