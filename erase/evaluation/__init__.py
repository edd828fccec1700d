"""Is it gone, and what else broke: prompts, judges, rows, statistics, metrics.

Every number of a report is a pure function of `rows.jsonl`, so that it can be recomputed from the run folder alone.
"""
