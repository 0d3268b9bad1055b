"""Settings: `kycache.toml`, overridden by `KYCACHE_SECTION_KEY` variables, checked whole before anything starts.

A mistake is a `ConfigurationError` that says what is wrong, where it was written (the file with its line, or the
variable) and what to do. Relative paths count from the folder of the file, and from the working directory where
a variable names them.
"""

import os
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from kycache.model.definition import default_view, load_view
from kycache.model.errors import ConfigurationError
from kycache.model.view import View
from kycache.snapshots.storage.settings import shown as without_login

from .sections import (
    REDACTED,
    Connect,
    Connector,
    Data,
    Http,
    Ingest,
    Kafka,
    Section,
    Snapshots,
    Source,
    ViewSection,
    without_password,
)

FILE_NAME = "kycache.toml"
PREFIX = "KYCACHE_"
CONFIG_VARIABLE = "KYCACHE_CONFIG"
"""Names the file, as `--config` does."""

_FOREIGN = re.compile(
    r"CONFIG"
    r"|SEEDS|(REQUIRE|TEST|BENCH)_\w+"  # what the project's own tests are told
    # What Kubernetes puts into every pod beside a Service that is called kycache or kycache-….
    r"|(\w+_)?SERVICE_(HOST|PORT)(_\w+)?|(\w+_)?PORT_\d+_(TCP|UDP)(_\w+)?"
)
"""What may follow the prefix without being a setting."""


class Settings(BaseSettings):
    """Every setting. `load_settings` makes it, and knows where each value was written."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,  # KYCACHE_KAFKA_SASL_USERNAME is `[kafka] sasl_username`
        env_ignore_empty=True,  # how a variable is unset where it cannot be removed
        enable_decoding=False,  # a list is written a,b and not as JSON
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    data: Data = Field(default_factory=Data)
    view: ViewSection = Field(default_factory=ViewSection)
    kafka: Kafka = Field(default_factory=Kafka)
    source: Source = Field(default_factory=Source)
    connector: Connector = Field(default_factory=Connector)
    connect: Connect = Field(default_factory=Connect)
    ingest: Ingest = Field(default_factory=Ingest)
    http: Http = Field(default_factory=Http)
    snapshots: Snapshots = Field(default_factory=Snapshots)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (the library's signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables go before the file, which comes as the initial values."""
        return env_settings, init_settings

    def load_view(self) -> View:
        """The view definition these settings name.

        Raises:
            ConfigurationError: it cannot be read, or is wrong.
        """
        return default_view() if self.view.file is None else load_view(self.view.file)


def sections() -> dict[str, type[Section]]:
    """The sections by name."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def keys(section: type[Section]) -> dict[str, str]:
    """A section's keys as they are written, with the attribute that holds each."""
    return {field.alias or name: name for name, field in section.model_fields.items()}


def find_file(given: Path | None) -> Path | None:
    """The file to read: the one given, else `kycache.toml` in the working directory, else none.

    Raises:
        ConfigurationError: the one given does not exist.
    """
    if given is None:
        return Path(FILE_NAME).absolute() if Path(FILE_NAME).is_file() else None
    if not given.is_file():
        raise ConfigurationError(f"the configuration file {given} does not exist", "give --config another file")
    return given.absolute()


def load_settings(file: Path | None) -> Settings:
    """The settings of `file` (none: the defaults), overridden by the environment.

    Raises:
        ConfigurationError: names every mistake, where it was written, and what to do.
    """
    text = "" if file is None else _text(file)
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file}: {error}", "mend the file; it is TOML") from None
    if file is not None:
        _anchor_paths(document, file.parent)
    mistakes = [_unknown_variable(name) for name in _unknown_variables()]
    settings = None
    try:
        settings = Settings(**document)
    except ValidationError as error:
        mistakes += [_mistake(details, file, text) for details in error.errors(include_url=False)]
    if settings is None or mistakes:
        problems, remedies = zip(*mistakes, strict=True)
        raise ConfigurationError("\n".join(problems), "; ".join(dict.fromkeys(remedies)))
    return settings


def shown(settings: Settings) -> dict[str, dict[str, Any]]:
    """Every setting in effect, as JSON has it, secrets redacted."""
    document = settings.model_dump(mode="json", by_alias=True)
    for name, section in sections().items():
        values = getattr(settings, name)
        for key, attribute in keys(section).items():
            value = getattr(values, attribute)
            if key == "dsn" and value is not None:
                document[name][key] = without_password(value)
            elif key == "store" and value is not None:
                document[name][key] = without_login(value)
            elif isinstance(value, SecretStr) or (
                isinstance(value, tuple) and any(isinstance(v, SecretStr) for v in value)
            ):
                document[name][key] = REDACTED
    return document


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the configuration file {file} cannot be read: {error}", "mend it, or give --config another file"
        ) from None


def _anchor_paths(document: dict[str, Any], folder: Path) -> None:
    """Make the file's relative paths, and the default data directory, count from the file's folder."""
    data = document.setdefault("data", {})
    if isinstance(data, dict):
        data.setdefault("dir", str(Data().dir))
    for name, section in sections().items():
        values = document.get(name)
        if not isinstance(values, dict):
            continue
        for key, attribute in keys(section).items():
            is_path = section.model_fields[attribute].annotation in (Path, Path | None)
            if is_path and isinstance(values.get(key), str):
                values[key] = str(folder / values[key])


def _unknown_variables() -> list[str]:
    known = tuple(f"{name.upper()}_" for name in sections())
    return [
        variable
        for variable in sorted(os.environ)
        if variable.upper().startswith(PREFIX)
        and not (rest := variable.upper().removeprefix(PREFIX)).startswith(known)
        and not _FOREIGN.fullmatch(rest)
        and not (rest.endswith("PORT") and os.environ.get(variable, "").startswith(("tcp://", "udp://")))
    ]


def _unknown_variable(variable: str) -> tuple[str, str]:
    every = [_variable(name, key) for name, section in sections().items() for key in keys(section)]
    return f"variable {variable}: no such setting", _did_you_mean(variable.upper(), every)


def _mistake(details: ErrorDetails, file: Path | None, text: str) -> tuple[str, str]:
    """A mistake in words: what and where, and what to do."""
    section = str(details["loc"][0])
    key = str(details["loc"][1]) if len(details["loc"]) > 1 else ""
    where = _place(section, key, file, text)
    setting = f"[{section}] {key}" if key else f"[{section}]"
    if details["type"] == "extra_forbidden":
        known = list(keys(sections()[section])) if key else [f"[{name}]" for name in sections()]
        return f"{where}: no such setting {setting}", _did_you_mean(key or setting, known)
    problem = details["msg"].removeprefix("Value error, ")
    return f"{where}: {setting}: {problem[:1].lower()}{problem[1:]}", "mend it"


def _place(section: str, key: str, file: Path | None, text: str) -> str:
    """Where a setting was written; a whole section may be spread over the file and variables."""
    wanted = _variable(section, key)
    variables = [v for v in sorted(os.environ) if v.upper() == wanted]
    if not key:
        variables = [v for v in sorted(os.environ) if v.upper().startswith(f"{wanted}_") and os.environ[v]]
    places = [f"variable {v}" for v in variables]
    if file is not None and (not variables or (not key and section in tomllib.loads(text))):
        places.append(f"{file}, line {_line(text, section, key)}")
    return " and ".join(places)


def _variable(section: str, key: str) -> str:
    return f"{PREFIX}{section}_{key}".upper() if key else f"{PREFIX}{section}".upper()


def _did_you_mean(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"


def _line(text: str, section: str, key: str) -> int:
    """The line that holds a key, else its section's header, else the first."""
    found, inside = 1, False
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*\"?([\w.-]+)\"?\s*\]", line):
            inside = header[1] == section
            found = number if inside else found
        elif re.match(rf"\s*\"?{re.escape(section)}\"?(\.|\s*=)", line):
            found = number
        elif inside and key and re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", line):
            return number
    return found
