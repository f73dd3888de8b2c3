"""Reports: tables, pages and pictures of what was measured."""
