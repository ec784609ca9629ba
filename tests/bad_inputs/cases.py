"""All cases."""

from __future__ import annotations

from tests.bad_inputs import data_files, data_rows, labels, media, models, recipes, servers

CASES = [case for table in (recipes, data_files, data_rows, labels, media, models, servers) for case in table.CASES]
