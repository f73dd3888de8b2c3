"""Files of any size classified without a server: `python -m handler predict --file … --output …`.

The input is cut into parts by a plan, every part is scored into a file of its own, and the parts are put
together: `plan` knows where a part begins, `rows` what its rows are, `job` what is left to do, and `on_ray`
how workers share it. A part is there whole or not at all, so that a run that was interrupted goes on without
repeating or losing a row, whoever scored what.
"""
