"""Code that every stage needs and no archive contains: command lines, writes, tables, storage."""
