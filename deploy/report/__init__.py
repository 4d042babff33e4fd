"""What a run found, for programs and people: result.json, report.html, the table.

`result` is the record and its schema, `builder` makes one from a run, `page`, `table`
and `wording` show nothing that is not in it.

Not here: measuring (deploy.evaluation), the run itself (deploy.simulation).
"""
