"""JSON on one line, for answers that are read line by line."""

# What a client may take for the end of a line: Python's str.splitlines does, and httpx with it. In JSON the first two
# are space between values, for what came laid out is handed back so; the others can only stand within a string.
LINE_ENDS = (b"\n", b" "), (b"\r", b" ")
WIDE_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in ("\x85", "\u2028", "\u2029"))


def on_one_line(json: bytes) -> bytes:
    """The same JSON without anything that a client may take for the end of a line."""
    return escape_wide_line_ends(_replaced(json, LINE_ENDS))


def as_line(json: bytes) -> bytes:
    """The same JSON as a line with its end."""
    return on_one_line(json) + b"\n"


def escape_wide_line_ends(json: bytes) -> bytes:
    """The same lines or events of JSON, which only end where they should."""
    return json if json.isascii() else _replaced(json, WIDE_LINE_ENDS)


def _replaced(json: bytes, ends: tuple[tuple[bytes, bytes], ...]) -> bytes:
    for end, instead in ends:
        if end in json:
            json = json.replace(end, instead)
    return json
