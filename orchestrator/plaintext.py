"""Text of anybody's, made fit for a terminal, a log or a mail's subject."""

LONGEST = 2000


def clean(text: str, longest: int = LONGEST) -> str:
    """On one line, without control characters, not too long."""
    plain = "".join(character if character.isprintable() else " " for character in text[: 2 * longest]).strip()
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
