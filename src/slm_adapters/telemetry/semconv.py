"""Every GenAI name this package writes. The only file that knows the conventions.

Source: open-telemetry/semantic-conventions-genai, main (status Development), read 2026-09.
Own names start with ``slm_adapters.``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from opentelemetry.trace import SpanKind

from ..messages import Usage

# Operations
CHAT = "chat"
TEXT_COMPLETION = "text_completion"
EMBEDDINGS = "embeddings"
RETRIEVAL = "retrieval"
EXECUTE_TOOL = "execute_tool"
INVOKE_AGENT = "invoke_agent"
INVOKE_WORKFLOW = "invoke_workflow"
PLAN = "plan"
SEARCH_MEMORY = "search_memory"
UPSERT_MEMORY = "upsert_memory"
# The conventions have no word for these; they are ours, not stand-ins for one of theirs.
EXECUTE_TASK = "execute_task"
EXECUTE_GUARDRAIL = "execute_guardrail"

# Attributes of every operation
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
CONVERSATION_ID = "gen_ai.conversation.id"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

# Inference
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
OUTPUT_TYPE = "gen_ai.output.type"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
USAGE_CACHE_CREATION_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
USAGE_REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"

# Content, opt-in
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
TOOL_DEFINITIONS = "gen_ai.tool.definitions"
TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT = "gen_ai.tool.call.result"

# Agents, tools, workflows
AGENT_NAME = "gen_ai.agent.name"
TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_DESCRIPTION = "gen_ai.tool.description"
WORKFLOW_NAME = "gen_ai.workflow.name"
DATA_SOURCE_ID = "gen_ai.data_source.id"
MEMORY_QUERY = "gen_ai.memory.query.text"
MEMORY_RECORD_COUNT = "gen_ai.memory.record.count"
RETRIEVAL_QUERY = "gen_ai.retrieval.query.text"
MCP_METHOD = "mcp.method.name"
NETWORK_TRANSPORT = "network.transport"

# Ours
CALL_ID = "slm_adapters.call.id"
RUN_ID = "slm_adapters.run.id"
ROLE = "slm_adapters.role"
TASK_NAME = "slm_adapters.task.name"
OUTCOME = "slm_adapters.outcome"
FALLBACK_REASON = "slm_adapters.fallback.reason"
FALLBACK_MODEL = "slm_adapters.fallback.model"
DEVICE = "slm_adapters.device"
QUANTIZATION = "slm_adapters.quantization"
DECODE_RATE = "slm_adapters.decode.tokens_per_second"
QUEUE_TIME = "slm_adapters.queue.seconds"
#: The way of writing tool calls that was found out for a local model.
TOOL_FORMAT = "slm_adapters.tool_format"
#: Probability of the reply's tokens: their geometric mean, and the least likely one's.
CONFIDENCE = "slm_adapters.confidence"
CONFIDENCE_LOWEST = "slm_adapters.confidence.lowest"
SAMPLES = "slm_adapters.samples"
COST = "slm_adapters.cost.usd"
COST_SOURCE = "slm_adapters.cost.source"
ENERGY = "slm_adapters.energy.joules"
ENERGY_SOURCE = "slm_adapters.energy.source"
GUARDRAIL_NAME = "slm_adapters.guardrail.name"
GUARDRAIL_TYPE = "slm_adapters.guardrail.type"
GUARDRAIL_PASSED = "slm_adapters.guardrail.passed"
GUARDRAIL_ATTEMPT = "slm_adapters.guardrail.attempt"
# A workflow's usage has no name in the conventions; an agent's has.
WORKFLOW_INPUT_TOKENS = "slm_adapters.usage.input_tokens"
WORKFLOW_OUTPUT_TOKENS = "slm_adapters.usage.output_tokens"
HUMAN_INPUT = "slm_adapters.human_input"

CONTENT_EVENT = "gen_ai.client.inference.operation.details"

#: The environment switch for content on spans (see ``content.py``).
CAPTURE_CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

#: OpenAI parameter name -> span attribute. Unknown parameters stay off the span.
REQUEST_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "stop": "gen_ai.request.stop_sequences",
    "seed": "gen_ai.request.seed",
    "encoding_format": "gen_ai.request.encoding_formats",
    "dimensions": "gen_ai.embeddings.dimension.count",
}

#: Those that are lists of texts, of which one may be given bare.
_LISTS = ("stop", "encoding_format")

_CLIENT_OPERATIONS = {CHAT, TEXT_COMPLETION, EMBEDDINGS, RETRIEVAL}


# A name made per run (an id, a date, a counter) would make one series per run.
_VARIABLE = r"\d{4,}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}|[0-9a-fA-F]{16,}|\n"
_LONGEST_NAME = 64


def may_be_a_label(name: Any) -> bool:
    """Whether ``name`` may name a span or a series: text, short, one line, no ids in it."""
    if not isinstance(name, str) or not name or len(name) > _LONGEST_NAME:
        return False
    return re.search(_VARIABLE, name) is None


def span_name(operation: str, target: str | None) -> str:
    """``chat gpt-4.1``, ``execute_tool search``, or the bare operation."""
    return f"{operation} {target}" if target else operation


def span_kind(operation: str, in_process: bool = False) -> SpanKind:
    """CLIENT for what leaves the process, INTERNAL for agents, tools and local models."""
    if in_process or operation not in _CLIENT_OPERATIONS:
        return SpanKind.INTERNAL
    return SpanKind.CLIENT


def call_attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a model call's span starts with; ``fields`` are a ``Call``'s."""
    get = fields.get
    attributes: dict[str, Any] = {
        OPERATION_NAME: fields["operation"],
        PROVIDER_NAME: get("provider") or "unknown",
    }
    for name, attribute in _CALL_FIELDS:
        value = get(name)
        if value:
            attributes[attribute] = value
    if get("response_format"):
        attributes[OUTPUT_TYPE] = "json"
    params = get("params")
    if params:
        _add_parameters(attributes, params)
    return attributes


def relabel(
    fields: dict[str, Any], attributes: dict[str, Any], role: str | None, run_id: str | None
) -> None:
    """Let the program's own names of a role and a run win over the framework's."""
    if role:
        fields["role"] = attributes[ROLE] = role
    if run_id:
        fields["run_id"] = attributes[RUN_ID] = run_id


_CALL_FIELDS = (
    ("model", REQUEST_MODEL),
    ("run_id", RUN_ID),
    ("role", ROLE),
    ("task", TASK_NAME),
    ("streamed", REQUEST_STREAM),
)


def _add_parameters(attributes: dict[str, Any], params: Mapping[str, Any]) -> None:
    """The parameters that have a name in the conventions, in the types they ask for."""
    for name, value in params.items():
        attribute = REQUEST_PARAMETERS.get(name)
        if attribute is None or value is None or value == []:
            continue
        if name in _LISTS:
            value = [value] if isinstance(value, str) else [str(v) for v in value]
        elif isinstance(value, bool) or not isinstance(value, int | float):
            continue
        attributes[attribute] = value
    count = params.get("n")
    if isinstance(count, int) and count > 1:
        attributes["gen_ai.request.choice.count"] = count


#: Input, output, cached, cache-write and reasoning tokens: ``Usage``'s counts, in its order.
Counts: TypeAlias = tuple[int, int, int | None, int | None, int | None]


def counts_of(usage: Usage) -> Counts:
    """The counts of ``usage`` alone."""
    return (
        usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cache_write_tokens,
        usage.reasoning_tokens,
    )  # fmt: skip


def answer_attributes(
    model: str | None,
    response_id: str | None,
    reasons: Sequence[str | None],
    counts: Counts | None,
    used: Profile,
) -> dict[str, Any]:
    """What a finished call's span ends with; token details only when they are known."""
    attributes: dict[str, Any] = {}
    if model:
        attributes[RESPONSE_MODEL] = model
    if response_id:
        attributes[RESPONSE_ID] = response_id
    # One per choice, or none: a reason the provider did not give is not made up.
    if reasons and None not in reasons:
        attributes[RESPONSE_FINISH_REASONS] = reasons
    if counts is not None:
        given, made, cached, written, reasoning = counts
        attributes[USAGE_INPUT_TOKENS] = given
        attributes[USAGE_OUTPUT_TOKENS] = made
        if cached is not None:
            attributes[USAGE_CACHE_READ_TOKENS] = cached
        if written is not None:
            attributes[used.cache_write] = written
        if reasoning is not None:
            attributes[USAGE_REASONING_TOKENS] = reasoning
    return attributes


#: Frameworks' and providers' spellings -> the conventions' finish reasons.
_FINISH_REASONS = {
    "tool_calls": "tool_call",
    "tool_use": "tool_call",
    "function_call": "tool_call",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "safety": "content_filter",
    "refusal": "content_filter",
}

#: Frameworks' provider names -> the conventions' well-known ones; others stay as they are.
_PROVIDERS = {
    "amazon_bedrock": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "vertex_ai": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def finish_reason(value: Any, *, has_tool_calls: bool = False) -> str | None:
    """``tool_calls``, ``end_turn``, ``MAX_TOKENS``, ... as the conventions spell them."""
    if not isinstance(value, str) or not value:
        return "tool_call" if has_tool_calls else None
    word = value.lower()
    return _FINISH_REASONS.get(word, word)


def provider_name(value: str | None) -> str | None:
    """``azure`` -> ``azure.ai.openai``, ...; a name without a well-known spelling is kept."""
    return _PROVIDERS.get(value.lower(), value.lower()) if value else None


# Metrics. The keys are this package's; a profile says what each is called.
METRIC_DURATION = "duration"
METRIC_FIRST_CHUNK = "time_to_first_chunk"
METRIC_PER_CHUNK = "time_per_output_chunk"
METRIC_TOKENS = "tokens"
METRIC_CALL_TOKENS = "gen_ai.client.inference.operation"
METRIC_USAGE = "gen_ai.client.inference.usage"
METRIC_FALLBACKS = "slm_adapters.fallbacks"
METRIC_AGENT_CALLS = "gen_ai.invoke_agent.inference_calls"
METRIC_AGENT_TOOLS = "gen_ai.invoke_agent.tool_calls"
METRIC_OF_SPAN = {
    EXECUTE_TOOL: "gen_ai.execute_tool.duration",
    INVOKE_AGENT: "gen_ai.invoke_agent.duration",
    INVOKE_WORKFLOW: "gen_ai.invoke_workflow.duration",
}
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - a label, not a secret
TOKEN_MODALITY = "gen_ai.token.modality"  # noqa: S105 - a label, not a secret

#: Which generation of the conventions is written; the word is OpenTelemetry's own.
OPT_IN_VARIABLE = "OTEL_SEMCONV_STABILITY_OPT_IN"
_LATEST = "gen_ai_latest_experimental"


class Profile(NamedTuple):
    """The names that differ between two generations of the conventions."""

    name: str
    metrics: Mapping[str, str]
    #: What tokens written to a cache are called.
    cache_write: str
    #: Whether an agent in this process carries its model's provider.
    agents_have_provider: bool
    #: Whether agents have a count of their model and tool calls.
    counts_agent_calls: bool


#: Default: the last generation inside the main conventions, which today's dashboards read.
PROFILE_1_41 = Profile(
    "1.41",
    {
        METRIC_DURATION: "gen_ai.client.operation.duration",
        METRIC_FIRST_CHUNK: "gen_ai.client.operation.time_to_first_chunk",
        METRIC_PER_CHUNK: "gen_ai.client.operation.time_per_output_chunk",
        METRIC_TOKENS: "gen_ai.client.token.usage",
    },
    cache_write=USAGE_CACHE_CREATION_TOKENS,
    agents_have_provider=True,
    counts_agent_calls=False,
)
PROFILE_LATEST = Profile(
    "latest",
    {
        METRIC_DURATION: "gen_ai.client.inference.duration",
        METRIC_FIRST_CHUNK: "gen_ai.client.inference.time_to_first_chunk",
        METRIC_PER_CHUNK: "gen_ai.client.inference.time_per_output_chunk",
    },
    cache_write=USAGE_CACHE_WRITE_TOKENS,
    agents_have_provider=False,
    counts_agent_calls=True,
)


def profile() -> Profile:
    """The profile ``OTEL_SEMCONV_STABILITY_OPT_IN`` asks for."""
    words = os.environ.get(OPT_IN_VARIABLE, "").split(",")
    return PROFILE_LATEST if _LATEST in (word.strip() for word in words) else PROFILE_1_41


class Metric(NamedTuple):
    """A histogram's name, unit and bucket boundaries."""

    name: str
    unit: str
    description: str
    buckets: Sequence[float]


_SECONDS = [0.01 * 2**i for i in range(14)]
_TOKENS = [float(4**i) for i in range(14)]
_AGENT_SECONDS = [0.1 * 2**i for i in range(13)]
_COUNTS = [float(2**i) for i in range(8)]
_WORKFLOW_SECONDS = [1.0, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200]


def metric(name: str) -> Metric:
    """Unit and buckets of a histogram by its full name."""
    if name.endswith(("tokens", "token.usage")):
        return Metric(name, "{token}", "Tokens used by a model call", _TOKENS)
    if name == METRIC_AGENT_CALLS:
        return Metric(name, "{inference_call}", "Model calls of an agent invocation", _COUNTS)
    if name == METRIC_AGENT_TOOLS:
        return Metric(name, "{tool_call}", "Tool calls of an agent invocation", _COUNTS)
    if name == METRIC_OF_SPAN[INVOKE_AGENT]:
        return Metric(name, "s", "Duration of an agent invocation", _AGENT_SECONDS)
    if name == METRIC_OF_SPAN[INVOKE_WORKFLOW]:
        return Metric(name, "s", "Duration of a workflow", _WORKFLOW_SECONDS)
    return Metric(name, "s", "Duration within a model or tool call", _SECONDS)
