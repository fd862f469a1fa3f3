"""Two spellings of one value have one form, and by that form it is decided whether a question was asked before.

What is sent and shown stays as the user wrote it. The same are: keys in any order, a number however it is written (0,
0.0, -0e0), line ends of Windows and of Unix, and a field that is null or missing. Different are: true and 1, text and
a number, and text of other characters, such as é in one code point or in two, for a model reads other tokens.
"""

_SCHEMA_FIELDS = frozenset(
    {
        *("schema", "json_schema", "input_schema", "output_schema", "response_schema", "response_json_schema"),
        *("inputSchema", "outputSchema", "responseSchema", "responseJsonSchema", "parametersJsonSchema"),
        *("parameters", "guided_json", "json", "format"),
    }
)
"""Fields in which servers take a JSON schema: OpenAI's, vLLM's, llama.cpp's, Ollama's, Anthropic's, Gemini's, MCP's."""

_SCHEMA_WORDS = ("type", "$ref", "$defs", "$schema", "anyOf", "oneOf", "allOf", "items", "enum", "const")
_EXACT = 2**53
"""Up to here a float is the whole number that it looks like."""


def canonical(value: object, *, in_schema: bool = False) -> object:
    """The one form of a JSON value.

    In a JSON schema keys keep their order and null its place: a model answers in the order of the schema's properties.
    """
    if isinstance(value, str):
        return unix_lines(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= _EXACT else value
    if isinstance(value, dict):
        if in_schema:
            return {name: canonical(item, in_schema=True) for name, item in value.items()}
        set_fields = sorted(name for name, item in value.items() if item is not None)
        return {name: canonical(value[name], in_schema=_is_schema(name, value[name])) for name in set_fields}
    if isinstance(value, list | tuple):
        return [canonical(item, in_schema=in_schema) for item in value]
    return value


def unix_lines(text: str) -> str:
    """The text with line ends as Unix has them."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _is_schema(field: str, value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("properties"), dict) or (
        field in _SCHEMA_FIELDS and "schema" not in value and any(word in value for word in _SCHEMA_WORDS)
    )
