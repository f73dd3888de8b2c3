"""Classify files of any size without a server: `python -m handler predict --file … --output …`.

A plan cuts the input into parts, every part is scored into its own file, and the parts are joined: `plan`
knows where a part begins, `rows` what its rows are, `job` what is left to do, and `on_ray` how workers share
it. A part is complete or absent, so an interrupted run resumes without repeating or losing a row.
"""
