"""What files are called and what they are for, in the words of OpenAI's API."""

import re
import secrets
import time

FILE_ID = re.compile("file-[0-9a-f]{32}")
BATCH = "batch"
BATCH_OUTPUT = "batch_output"
UPLOADED = (BATCH, "user_data", "assistants", "fine-tune", "vision", "evals")  # `batch` is read here, the others kept
PURPOSES = (*UPLOADED, BATCH_OUTPUT)
MAX_NAME_LENGTH = 255


def new_file_id() -> str:
    """One that no other file has. The ids sort by time: 48 bits of milliseconds, 80 of chance."""
    return f"file-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def name_problem(name: str) -> str | None:
    """Why a file cannot be called so; None if it can."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        return f"it must have 1 to {MAX_NAME_LENGTH} printable characters"
    return None
