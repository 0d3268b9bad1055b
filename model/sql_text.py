"""Names and constants as they stand in SQL that is printed for others to run."""


def quoted(identifier: str) -> str:
    """An identifier that means this very name."""
    return '"' + identifier.replace('"', '""') + '"'


def qualified(schema: str, table: str) -> str:
    """A table of a schema."""
    return f"{quoted(schema)}.{quoted(table)}"


def literal(text: str) -> str:
    """A string constant that reads the same whatever `standard_conforming_strings` says."""
    if "\\" in text:
        return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    return "'" + text.replace("'", "''") + "'"


def dollar_quoted(body: str) -> str:
    """A body of PL/pgSQL."""
    tag = "$kycache$"
    while tag in body:
        tag = tag[:-1] + "x$"
    return f"{tag}{body}{tag}"


def one_line(text: str) -> str:
    """A name in a comment, which a line break would end."""
    return " ".join(text.split())
