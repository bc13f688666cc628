"""The flags of vLLM's server that say how its OpenAI API answers: chat templates, tools, what an answer contains.

All others of its front end are about an HTTP server of its own, which there is none of: Phalanx is in its place.
"""

from typing import Any

from engines.rank.engine import EngineConfigError
from engines.vllm_engine import compat, server_compat

# Those that a user may set, as far as the installed vLLM has them.
ANSWER_FLAGS = (
    "chat_template",
    "chat_template_content_format",
    "trust_request_chat_template",
    "default_chat_template_kwargs",
    "response_role",
    "return_tokens_as_token_ids",
    "enable_auto_tool_choice",
    "exclude_tools_when_tool_choice_none",
    "tool_call_parser",
    "tool_parser_plugin",
    "tool_strict_level",
    "enable_prompt_tokens_details",
    "enable_per_request_metrics",
    "enable_force_include_usage",
    "fingerprint_mode",
    "fingerprint_value",
    "anthropic_disabled_thinking_effort",
)
# What some of the others have in their place here.
INSTEAD = {
    "host": "--host before `--`",
    "port": "--port before `--`",
    "api_key": "phalanx api-keys",
    "served_model_name": "--served-model-name before `--`",
    "api_server_count": "--dp-size before `--`",
    "enable_log_requests": "--log-level debug before `--`",
    "enable_request_id_headers": "nothing: every answer has X-Request-ID",
    "sse_keep_alive_interval": "--keepalive-s before `--`",
}


def check_front_flag(name: str) -> None:
    """Raises EngineConfigError for a flag of vLLM's server that means nothing here."""
    if name in ANSWER_FLAGS:
        return
    remedy = INSTEAD.get(name)
    raise EngineConfigError(
        f"vLLM's flag --{name.replace('_', '-')} is about vLLM's own HTTP server, which Phalanx takes the place of: "
        + (f"use {remedy}" if remedy else "leave it out")
    )


def front_arguments(given: dict[str, Any], config: Any, model: str, served_as: str) -> Any:
    """The arguments of vLLM's server: its own defaults, and what was `given` of ANSWER_FLAGS.

    Any: vLLM's values, its VllmConfig, and an argparse.Namespace. Raises EngineConfigError for what vLLM refuses.
    """
    arguments = server_compat.server_defaults(model, served_as)
    vars(arguments).update(given)
    # The engine was made with these, whatever the defaults of a server are.
    arguments.structured_outputs_config = config.structured_outputs_config
    arguments.disable_log_stats = False
    arguments.enable_log_requests = False
    arguments.api_key = [""]  # keys are the gateway's business; None would mean a variable of the environment
    try:
        server_compat.check_server_arguments(arguments)
    except Exception as error:
        raise EngineConfigError(f"vLLM refuses the flags after `--`: {compat.refusal(error)}") from error
    return arguments
