"""Commands that start a service of their own, and keep what stands after -- for it."""

import click

DASHES = "--"


class ServiceCommand(click.Command):
    """Has the flags of its service as the parameter `serve_flags`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours, serve_flags = args, []
        if DASHES in args:
            end = args.index(DASHES)
            ours, serve_flags = args[:end], args[end + 1 :]
        rest = super().parse_args(ctx, ours)
        ctx.params["serve_flags"] = tuple(serve_flags)
        return rest


def size_flags(dp_size: int | None, tp_size: int | None) -> tuple[str, ...]:
    """How many ranks, and how many GPUs each has, as the service is told."""
    sizes = {"--dp-size": dp_size, "--tp-size": tp_size}
    return tuple(part for flag, size in sizes.items() if size is not None for part in (flag, str(size)))
