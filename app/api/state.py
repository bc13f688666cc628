"""How a route finds the gateway."""

from fastapi import Request

from app.gateway import Gateway


def gateway_of(request: Request) -> Gateway:
    """The gateway of the application that serves this request."""
    gateway = request.app.state.gateway
    if not isinstance(gateway, Gateway):
        raise TypeError("the application was made without a gateway")
    return gateway
