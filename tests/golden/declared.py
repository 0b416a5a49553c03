"""The differences between dialects that are meant (`tests.golden.differences`): what an arm is asked, what a client is told.

A reason says why the arm cannot tell it, or why saying the same would be worse. Nothing is listed for convenience: what has
no good reason is a fault of the translation.
"""

from typing import Final

from tests.golden.differences import Difference, Mode
from tests.golden.names import SCENARIOS, Format

_D: Final = Difference
_MADE: Final[tuple[Format, ...]] = ("messages", "generate", "cohere", "converse")  # by others than OpenAI
_FILTERS: Final[tuple[Format, ...]] = (
    "messages",
    "generate",
    "converse",
)  # say with a reason to stop that they refused
_SDK: Final[tuple[Format, ...]] = ("chat", "responses", "messages")
_OPENAI: Final[tuple[Format, ...]] = ("chat", "responses")
_UNSURE: Final[tuple[Format, ...]] = (
    "chat",
    "responses",
    "messages",
    "cohere",
)  # what status an error inside a stream has
_W: Final[tuple[Mode, ...]] = ("whole",)
_S: Final[tuple[Mode, ...]] = ("streamed",)
_ANSWERED: Final = tuple(name for name in SCENARIOS if name != "error")
_CALL_ID: Final = "a call keeps the id that its maker gave it"
_SNAKE: Final = "Google's SDK writes some members in snake_case, and its API takes both"
_OWN: Final = "each client of this scenario asks for what others have no words for"

# ---- what the arm is asked

ASKED: Final = (
    _D("store", "nothing is left with a provider that the client does not know of", arms=("responses",)),
    _D("include", "thoughts come back sealed, as nothing is stored", arms=("responses",), scenarios=("thinking",)),
    _D(
        "input*",
        "a text alone is written short; both spellings say the same",
        arms=("responses",),
        scenarios=("tool", "tools", "results", "schema"),
    ),
    _D(
        "reasoning.summary",
        "these clients do not ask to be shown the thoughts",
        clients=("chat", "messages"),
        arms=("responses",),
        scenarios=("thinking",),
    ),
    _D(
        "generationConfig.thinkingConfig.include_thoughts",
        f"{_SNAKE}; and chat does not ask to be shown the thoughts",
        arms=("generate",),
        scenarios=("thinking",),
    ),
    _D(
        "generationConfig.thinkingConfig.includeThoughts",
        _SNAKE,
        clients=("responses", "messages"),
        arms=("generate",),
        scenarios=("thinking",),
    ),
    _D("generationConfig.thinkingConfig.thinking*udget", _SNAKE, arms=("generate",), scenarios=("thinking",)),
    _D("tools.*.parameters*", _SNAKE, arms=("generate",), scenarios=("tool", "tools", "results")),
    _D("contents.*.inlineData.mime*", _SNAKE, arms=("generate",), scenarios=("image",)),
    _D(
        "contents.*.inlineData.data",
        "Google's SDK writes base64 in the alphabet for URLs, and its API takes both",
        arms=("generate",),
        scenarios=("image",),
    ),
    _D(
        "*thinking.display",
        "what the client asked for, said in so many words",
        clients=("responses", "generate"),
        arms=("messages", "converse"),
        scenarios=("thinking",),
    ),
    _D("systemInstruction.role", "Google's SDK adds a role that nobody reads", arms=("generate",), scenarios=("text",)),
    _D(
        "messages.*.image_url.detail",
        "Responses always says it; auto is the default",
        clients=("responses",),
        arms=("chat", "cohere"),
        scenarios=("image",),
    ),
    _D(
        "tools.*.strict",
        "Responses has to say it; false is the default elsewhere",
        clients=("responses",),
        arms=("chat", "messages"),
        scenarios=("tool", "tools", "results"),
    ),
    _D(
        "toolConfig.tools.*.strict",
        "Responses has to say it; false is the default elsewhere",
        clients=("responses",),
        arms=("converse",),
        scenarios=("tool", "tools", "results"),
    ),
    _D(
        "*.name",
        "these clients do not name a schema; OpenAI wants a name, Bedrock takes none",
        clients=("messages", "generate"),
        arms=("chat", "responses", "converse"),
        scenarios=("schema",),
    ),
    _D("logit_bias", _OWN, arms=("chat",), scenarios=("odd",)),
    _D("seed", _OWN, clients=("responses", "messages"), arms=("chat", "cohere"), scenarios=("odd",)),
    _D("user", _OWN, clients=("generate",), arms=("chat", "responses"), scenarios=("odd",)),
    _D("verbosity", _OWN, clients=("responses",), arms=("chat",), scenarios=("odd",)),
    _D("k", _OWN, clients=("chat", "responses"), arms=("cohere",), scenarios=("odd",)),
    _D("top_k", _OWN, clients=("chat", "responses"), arms=("messages",), scenarios=("odd",)),
    _D("inference_geo", _OWN, arms=("messages",), scenarios=("odd",)),
    _D("metadata", _OWN, clients=("generate",), arms=("messages",), scenarios=("odd",)),
    _D("additionalModelRequestFields", _OWN, clients=("chat", "responses"), arms=("converse",), scenarios=("odd",)),
    _D("requestMetadata", "the end user, as a label", clients=_SDK, arms=("converse",), scenarios=("odd",)),
    _D("generationConfig.mediaResolution", _OWN, arms=("generate",), scenarios=("odd",)),
    _D("generationConfig.seed", _OWN, clients=("responses", "messages"), arms=("generate",), scenarios=("odd",)),
    _D("generationConfig.topK", _OWN, clients=("chat", "responses"), arms=("generate",), scenarios=("odd",)),
    _D("safetySettings", _OWN, arms=("generate",), scenarios=("odd",)),
    _D("text", _OWN, arms=("responses",), scenarios=("odd",)),
    _D("truncation", _OWN, arms=("responses",), scenarios=("odd",)),
)

# ---- what the client is told: by any arm

_NAMED: Final = (
    _D("id", "an answer keeps the id that its maker gave it", clients=_SDK),
    _D("model", "the model that answered", clients=("chat",), arms=_MADE),
    _D("model", "the model that answered", clients=("responses",), arms=_MADE),
    _D("model", "the model that answered", clients=("messages",)),
    _D("created", "its maker does not say when: the second of the call", clients=("chat",), arms=_MADE),
    _D("created_at", "its maker does not say when: the second of the call", clients=("responses",), arms=_MADE),
    _D("*tool_calls.*.id", _CALL_ID, clients=("chat",), arms=_MADE, scenarios=("tool", "tools")),
    _D("output.*.call_id", _CALL_ID, clients=("responses",), arms=_MADE, scenarios=("tool", "tools")),
    _D("content.*.id", _CALL_ID, clients=("messages",), scenarios=("tool", "tools")),
    _D("output.*.id", "items have no id elsewhere: made from the answer's", clients=("responses",)),
    _D(
        "*arguments",
        "the text of the arguments is passed on as the model wrote it, spaces and all",
        clients=_OPENAI,
        arms=("messages", "converse"),
        scenarios=("tool", "tools"),
        modes=("streamed",),
    ),
    _D("service_tier", "its maker names none", clients=_OPENAI, arms=("generate", "cohere", "converse")),
    _D("usage.service_tier", "its maker names none", clients=("messages",), arms=("generate", "cohere", "converse")),
)

# ---- errors

_ERRORS: Final = (
    _D("body.type", "OpenAI's word for what ran out is not known", clients=_OPENAI, scenarios=("error",), modes=_W),
    _D("body.code", "its maker's own code", clients=_OPENAI, arms=_MADE, scenarios=("error",), modes=_W),
    _D("body.request_id", "that of Anthropic's own servers", clients=("messages",), scenarios=("error",), modes=_W),
    _D(
        "error.body.code",
        "its maker's own code",
        clients=("chat",),
        arms=("responses", *_FILTERS),
        scenarios=("error",),
        modes=_S,
    ),
    _D("error.body.type", "better known: overloaded", clients=("chat",), arms=_FILTERS, scenarios=("error",), modes=_S),
    _D(
        "error.code",
        "its maker's own code",
        clients=("responses",),
        scenarios=("error",),
        modes=_S,
    ),
    _D(
        "error.body.error.type",
        "a stream's error has no status, and these makers no word for being overloaded",
        clients=("messages",),
        arms=("chat", "responses", "cohere"),
        scenarios=("error",),
        modes=_S,
    ),
)

# ---- thoughts

_THOUGHTS: Final = (
    _D(
        "choices.0.message.reasoning_content",
        "OpenAI's chat shows no thoughts; clients that know the member of other servers read it",
        clients=("chat",),
        scenarios=("thinking",),
    ),
    _D(
        "choices.0.message.thinking_blocks",
        "thoughts that their maker signed, to be sent back as they are",
        clients=("chat",),
        arms=("messages", "converse"),
        scenarios=("thinking",),
    ),
    _D(
        "output.0.encrypted_content",
        "thoughts that their maker signed, to be sent back as they are",
        clients=("responses",),
        arms=("messages", "converse"),
        scenarios=("thinking",),
    ),
    _D(
        "output.0.status",
        "an item of a stream has a state",
        clients=("responses",),
        arms=_MADE,
        scenarios=("thinking",),
        modes=_S,
    ),
    _D("output", "OpenAI's chat shows no thoughts", clients=("responses",), arms=("chat",), scenarios=("thinking",)),
    _D("content", "OpenAI's chat shows no thoughts", clients=("messages",), arms=("chat",), scenarios=("thinking",)),
    _D(
        "content.0.signature",
        "no other maker signs as Anthropic does; a foreign signature says whose it is",
        clients=("messages",),
        arms=("responses", "generate", "cohere", "converse"),
        scenarios=("thinking",),
    ),
    _D(
        "usage.output_tokens_details.reasoning_tokens",
        "its maker does not count thoughts apart",
        clients=("responses",),
        arms=("cohere", "converse"),
        scenarios=("thinking",),
    ),
    _D(
        "usage.output_tokens_details",
        "its maker does not count thoughts apart",
        clients=("messages",),
        arms=("cohere", "converse"),
        scenarios=("thinking",),
    ),
    _D(
        "usage.output_tokens_details",
        "OpenAI counts thoughts also where there are none",
        clients=("messages",),
        arms=_OPENAI,
    ),
    _D(
        "reasoning.summary",
        "OpenAI answers which kind of summary `auto` was: here it is what was asked for",
        clients=("responses",),
        scenarios=("thinking",),
    ),
)

# ---- refusals

_CUT: Final = "a refusal by the maker's filter: OpenAI's word for that is content_filter"
_SAID: Final = "only OpenAI has a place of its own for a refusal: here it is the text that it came as"
_NOTHING: Final = "Gemini says nothing when it refuses, and counts nothing"
_REFUSAL: Final = (
    _D("choices.0.finish_reason", _CUT, clients=("chat",), arms=_FILTERS, scenarios=("refusal",)),
    _D("choices.0.message.content", _SAID, clients=("chat",), arms=_MADE, scenarios=("refusal",)),
    _D("choices.0.message.refusal", _SAID, clients=("chat",), arms=_MADE, scenarios=("refusal",)),
    _D("status", _CUT, clients=("responses",), arms=_FILTERS, scenarios=("refusal",)),
    _D("incomplete_details", _CUT, clients=("responses",), arms=_FILTERS, scenarios=("refusal",)),
    _D("output.0.status", _CUT, clients=("responses",), arms=("messages", "converse"), scenarios=("refusal",)),
    _D(
        "output.0.content.0.*",
        _SAID,
        clients=("responses",),
        arms=("messages", "cohere", "converse"),
        scenarios=("refusal",),
    ),
    _D(
        "(type)",
        "the SDK has no parsed object of an answer that was cut",
        clients=("responses",),
        arms=_FILTERS,
        scenarios=("refusal",),
        modes=_S,
    ),
    _D(
        "output.0.(type)",
        "the SDK has no parsed object of an answer that was cut",
        clients=("responses",),
        arms=("messages", "converse"),
        scenarios=("refusal",),
        modes=_S,
    ),
    _D("output", _NOTHING, clients=("responses",), arms=("generate",), scenarios=("refusal",)),
    _D("content", _NOTHING, clients=("messages",), arms=("generate",), scenarios=("refusal",)),
    _D("usage.completion_tokens", _NOTHING, clients=("chat",), arms=("generate",), scenarios=("refusal",)),
    _D("usage.output_tokens", _NOTHING, clients=("responses",), arms=("generate",), scenarios=("refusal",)),
    _D("usage.output_tokens", _NOTHING, clients=("messages",), arms=("generate",), scenarios=("refusal",)),
    _D("usage.total_tokens", _NOTHING, clients=_OPENAI, arms=("generate",), scenarios=("refusal",)),
    _D(
        "stop_reason",
        "a model of Cohere's refuses in words only",
        clients=("messages",),
        arms=("cohere",),
        scenarios=("refusal",),
    ),
)

# ---- what a maker does not count, and what OpenAI repeats

_COUNTS: Final = "its maker does not count it"
_COUNTED: Final = (
    _D("usage.completion_tokens_details", _COUNTS, clients=("chat",), arms=_MADE),
    *(
        _D(f"usage.completion_tokens_details.{name}", _COUNTS, clients=("chat",), arms=arms, scenarios=scenarios)
        for name in ("accepted_prediction_tokens", "audio_tokens", "rejected_prediction_tokens")
        for arms, scenarios in (
            (("responses",), _ANSWERED),
            (("messages", "generate"), ("thinking",)),
        )
    ),
    _D("usage.prompt_tokens_details", _COUNTS, clients=("chat",), arms=("generate",)),
    _D(
        "usage.prompt_tokens_details.audio_tokens",
        _COUNTS,
        clients=("chat",),
        arms=("responses", "messages", "cohere", "converse"),
    ),
    _D(
        "usage.prompt_tokens_details.cache_write_tokens",
        "its maker counts what went into the cache",
        clients=("chat",),
        arms=("responses", "messages", "converse"),
    ),
    _D("usage.cache_creation", "only Anthropic says for how long", clients=("messages",)),
    _D(
        "usage.cache_creation_input_tokens",
        _COUNTS,
        clients=("messages",),
        arms=("chat", "generate", "cohere"),
    ),
    _D("usage.cache_read_input_tokens", _COUNTS, clients=("messages",), arms=("generate",)),
    _D("choices.0.message.annotations", "an empty list says nothing", clients=("chat",), modes=_W),
    _D(
        "choices.0.message.content",
        "the first chunk has an empty text: whether one follows is not known then",
        clients=("chat",),
        scenarios=("tool",),
        modes=_S,
    ),
    _D(
        "choices.0.message.content",
        "the first chunk has an empty text: whether one follows is not known then",
        clients=("chat",),
        arms=("responses",),
        scenarios=("refusal",),
        modes=_S,
    ),
)
_ECHO: Final = "OpenAI repeats its defaults; an answer of ours repeats what the client said"
_REPEATED: Final = tuple(
    _D(name, _ECHO, clients=("responses",))
    for name in (
        "background", "metadata", "reasoning", "temperature", "text", "text.format", "text.verbosity", "top_logprobs",
        "top_p", "truncation",
    )
)  # fmt: skip

# ---- the same for a client of Google's

_G: Final[tuple[Format, ...]] = ("generate",)
_GOOGLE: Final = (
    _D("model_version", "the model that answered", clients=_G),
    _D("response_id", "an answer keeps the id that its maker gave it", clients=_G),
    _D("*function_call.id", "a call keeps the id that its maker gave it", clients=_G, scenarios=("tool", "tools")),
    _D("usage_metadata.prompt_tokens_details", "only Google counts by kind of content", clients=_G),
    _D("code", "a stream's error has another status, or none", clients=_G, arms=_UNSURE, scenarios=("error",), modes=_S),
    _D(
        "status",
        "a stream's error has no status, and these makers no word for being overloaded",
        clients=_G,
        arms=("chat", "responses", "cohere"),
        scenarios=("error",),
        modes=_S,
    ),
    _D(
        "candidates.0.content.parts",
        "OpenAI's chat shows no thoughts",
        clients=_G,
        arms=("chat",),
        scenarios=("thinking",),
    ),
    _D(
        "candidates.0.content.parts.0.thought_signature",
        "thoughts that their maker signed, to be sent back as they are",
        clients=_G,
        arms=("messages", "converse"),
        scenarios=("thinking",),
    ),
    *(
        _D(
            f"usage_metadata.{name}_token_count",
            "its maker does not count thoughts apart",
            clients=_G,
            arms=("cohere", "converse"),
            scenarios=("thinking",),
        )
        for name in ("candidates", "thoughts")
    ),
    *(
        _D(path, "Gemini says nothing when it refuses, and counts nothing", clients=_G, scenarios=("refusal",))
        for path in (
            "candidates.0.content*", "usage_metadata.candidates_token_count", "usage_metadata.total_token_count",
        )
    ),
    _D("candidates.0.safety_ratings", "only Google rates", clients=_G, scenarios=("refusal",)),
    _D(
        "candidates.0.finish_reason",
        "a model of Cohere's refuses in words only",
        clients=_G,
        arms=("cohere",),
        scenarios=("refusal",),
    ),
)  # fmt: skip

TOLD: Final = (*_GOOGLE, *_NAMED, *_ERRORS, *_THOUGHTS, *_REFUSAL, *_COUNTED, *_REPEATED)
