"""The pure domain: view definition, rows and versions, freshness arithmetic, errors. Imports no I/O."""
