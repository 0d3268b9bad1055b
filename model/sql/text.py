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


def added_column(table: str, column: str, definition: str) -> str:
    """A statement that gives a table (as it stands in SQL) a plainly named column. Where it is there no lock
    is taken, which others would wait for: `ADD COLUMN IF NOT EXISTS` takes it first."""
    body = (
        f"BEGIN IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = {literal(table)}::regclass "
        f"AND attname = {literal(column)} AND NOT attisdropped) "
        f"THEN ALTER TABLE {table} ADD COLUMN {column} {definition}; END IF; END"
    )
    return f"DO {dollar_quoted(body)}"
