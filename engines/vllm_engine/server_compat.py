"""vLLM's server without its server: what of it has moved or changed between vLLM 0.26 and 0.33."""

import importlib
from types import SimpleNamespace
from typing import Any

from engines.host.installed import vllm_version

SERVER_ARGUMENTS = (  # newest first
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
)
POOLING_HANDLERS = {  # by the names that they have in the state of vLLM's application, if they have any
    "/v1/embeddings": "serving_embedding",
    "/v2/embed": "serving_embedding",
    "/classify": "serving_classification",
}


def add_server_flags(parser: Any) -> Any:  # Any: vLLM's FlexibleArgumentParser
    """The parser, with all flags of vLLM's server, those of its engine included."""
    return _server_arguments().make_arg_parser(parser)


def server_defaults(model: str, served_as: str) -> Any:
    """What `vllm serve MODEL` would start its server with: an argparse.Namespace."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = add_server_flags(FlexibleArgumentParser(add_help=False))
    return parser.parse_args(["--model", model, "--served-model-name", served_as, "--disable-fastapi-docs"])


def check_server_arguments(arguments: Any) -> None:  # Any: an argparse.Namespace
    """Raises whatever vLLM raises of arguments that contradict each other, or name a parser that there is none of."""
    from vllm.tool_parsers import ToolParserManager

    _server_arguments().validate_parsed_serve_args(arguments)
    if arguments.tool_parser_plugin:
        ToolParserManager.import_tool_parser(arguments.tool_parser_plugin)
    try:
        from vllm.entrypoints.launchers.launcher import validate_api_server_args
    except ImportError:
        from vllm.entrypoints.openai.api_server import validate_api_server_args
    validate_api_server_args(arguments)


def import_server() -> None:
    """What vLLM's application takes half a second to import."""
    _init_app_state()


def _init_app_state() -> Any:
    try:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    except ImportError:
        from vllm.entrypoints.openai.api_server import init_app_state
    return init_app_state


async def server_application(engine: Any, arguments: Any, tasks: tuple[str, ...]) -> Any:
    """vLLM's own OpenAI application around an engine client, without its server: an ASGI application."""
    application = bare_application(arguments, tasks, engine.model_config)
    await _init_app_state()(engine, application.state, arguments, tasks)
    application.state.server = SimpleNamespace(should_exit=False)  # what it does about a dead engine writes to it
    return application


def bare_application(arguments: Any, tasks: tuple[str, ...], model_config: Any) -> Any:
    """Its routes, before there is an engine behind them."""
    try:
        from vllm.entrypoints.launchers.app import build_app
    except ImportError:
        from vllm.entrypoints.openai.api_server import build_app
    application = build_app(arguments, tasks, model_config)
    # What stands before the routes is a server's: CORS, keys, figures of HTTP.
    application.user_middleware.clear()
    application.middleware_stack = None  # built again with its first call
    return application


def has_handler(application: Any, path: str) -> bool:
    """Whether a route is more than a name: vLLM has those of all that a model might be configured to pool into."""
    handler = POOLING_HANDLERS.get(path)
    return handler is None or getattr(application.state, handler, application) is not None


def _server_arguments() -> Any:
    """vLLM's module of its server's arguments, which has had a new name in every other release."""
    for name in SERVER_ARGUMENTS:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ImportError(f"vLLM {vllm_version()} has its server's arguments in none of {', '.join(SERVER_ARGUMENTS)}")
