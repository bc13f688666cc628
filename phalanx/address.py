"""Where a gateway is, and who asks: what everything that calls one makes of a URL and an API key."""


class ImpossibleKey(ValueError):
    """No API key looks like that."""


def base_url(url: str) -> str:
    """With a scheme, and no slash at the end."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def authorization(api_key: str | None) -> dict[str, str]:
    """The headers of every request. Raises ImpossibleKey."""
    if api_key is None:
        return {}
    api_key = api_key.strip()
    if not api_key.isascii() or not api_key.isprintable():
        raise ImpossibleKey("the API key has characters that no key has")
    return {"Authorization": f"Bearer {api_key}"}
