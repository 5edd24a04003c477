"""The record of a message: its public form (`message`), bodies decoded (`codings`), the JSON Schema (`schema`)."""
