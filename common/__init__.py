"""What every stage's tools need and no archive ships: command lines, writes, tables, storage."""
